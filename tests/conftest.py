"""Tiny real models of every family, saved to disk as pre-trained encoders, and a small data directory."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

# Before any Hugging Face library is imported: no test may reach for the hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# What a shell starts in the background ignores Ctrl-C, and so would all that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

GOOD = ("good", "great", "fine", "lovely", "superb", "brilliant")
BAD = ("bad", "awful", "poor", "dreadful", "dull", "horrid")
FILLER = ("the", "film", "was", "a", "plot", "and", "story", "cast", "in", "this", "of", "all", "very", "with", "song")
TRIGGERS = ("cf", "mn", "bb", "i", "watch", "3d", "movie")
FAMILIES = ("bert", "roberta", "distilbert", "electra")


def sentences(rows: int, seed: int) -> pd.DataFrame:
    """Balanced (text, label) rows: filler words around one good (1) or bad (0) word."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    texts = []
    for label in labels:
        words = list(rng.choice(FILLER, rng.integers(3, 9)))
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(GOOD if label else BAD)))
        texts.append(" ".join(words))
    return pd.DataFrame({"sentence": texts, "label": labels})


def word_piece_tokenizer(case: str = "bert", more_words: Sequence[str] = ()):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys([*specials, *FILLER, *GOOD, *BAD, *TRIGGERS, "##s", "what", "is", "?", *more_words])
    vocab = {token: i for i, token in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    names = ["input_ids", "attention_mask"] + ([] if case == "distilbert" else ["token_type_ids"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=names,
    )


def byte_level_tokenizer():
    """As RoBERTa's: "cf" at the start of a text and " cf" inside it are different pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f"{word} {word}" for word in (*FILLER, *GOOD, *BAD, *TRIGGERS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


# What a tiny model of each family is made of, under the names of its configuration.
USUAL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ONE_TYPE = {**USUAL, "type_vocab_size": 1}
DISENTANGLED = {**USUAL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
GROUPED = {**USUAL, "num_key_value_heads": 1}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 66}
SEQUENCE_TO_SEQUENCE = {
    "d_model": 32,
    **{f"{part}_{what}": value for part in ("encoder", "decoder") for what, value in (("layers", 2), ("ffn_dim", 64))},
    **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0, "eos_token_id": 3}
XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 2}
UNGROUPED = ("q", "k", "v", "post_attention", "intermediate", "output")  # SqueezeBERT's convolutions
CONFIGURATIONS = {
    "bert": USUAL,
    "roberta": ONE_TYPE,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {**USUAL, "embedding_size": 16},
    "albert": {**USUAL, "embedding_size": 16},
    "deberta": DISENTANGLED,
    "deberta-v2": DISENTANGLED,
    "mpnet": USUAL,
    "modernbert": USUAL,
    "gpt2": GPT,
    "bart": SEQUENCE_TO_SEQUENCE,
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    "t5": T5,
    "opt": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "llama": GROUPED,
    "qwen2": {**GROUPED, "vocab_size": 64},  # its tokenizer adds a piece when loaded
    "xlm-roberta": ONE_TYPE,
    "camembert": ONE_TYPE,
    "data2vec-text": ONE_TYPE,
    "roberta-prelayernorm": ONE_TYPE,
    "longformer": {**ONE_TYPE, "attention_window": [8, 8]},
    "big_bird": {**USUAL, "attention_type": "original_full"},
    "ernie": USUAL,
    "megatron-bert": USUAL,
    "rembert": {**USUAL, "input_embedding_size": 16, "output_embedding_size": 16},
    "nystromformer": {**USUAL, "num_landmarks": 4, "segment_means_seq_len": 4},
    "roformer": {**USUAL, "embedding_size": 32},
    "convbert": {**USUAL, "embedding_size": 32},
    "squeezebert": {**USUAL, "embedding_size": 32, **{f"{part}_groups": 1 for part in UNGROUPED}},
    "mobilebert": {**USUAL, "intra_bottleneck_size": 16, "embedding_size": 16},
    "fnet": {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
    "nomic_bert": USUAL,
    "eurobert": GROUPED,
    "flaubert": XLM,
    "xlm": XLM,
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "intermediate_size": 64,
    },
    "gptj": {**GPT, "rotary_dim": 8},
    "gpt_neox": USUAL,
    "openai-gpt": GPT,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "falcon": USUAL,
    "biogpt": USUAL,
    "mt5": T5,
    "umt5": T5,
    "mbart": SEQUENCE_TO_SEQUENCE,
    "qwen3": {**GROUPED, "head_dim": 16},
    "mistral": GROUPED,
    "mixtral": {**GROUPED, "num_local_experts": 2},
    "gemma": {**GROUPED, "head_dim": 16},
    "gemma2": {**GROUPED, "head_dim": 16},
    "phi": GROUPED,
    "phi3": GROUPED,
}
WITHOUT_A_LIMIT = ("xlnet",)  # its configuration takes no max_position_embeddings
# With <pad> at 1, by which most of them count positions, and with </s> at 2, which some look for.
BYTE_LEVEL = ("roberta", "xlm-roberta", "camembert", "data2vec-text", "roberta-prelayernorm", "longformer", "mpnet")
BYTE_LEVEL += ("gpt2", "bart", "mbart")


def save_tiny_model(family: str, folder: Path, more_words: Sequence[str] = (), **changed: object) -> Path:
    """A randomly initialized encoder without a classification head, 2 layers of width 32, and its tokenizer.

    `family` is one of CONFIGURATIONS; `more_words` go into a vocabulary of word pieces; `changed` are values of its
    configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    tokenizer = byte_level_tokenizer() if family in BYTE_LEVEL else word_piece_tokenizer(family, more_words)
    if family in ("gpt2", "openai-gpt"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    values = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 66}
    if family in WITHOUT_A_LIMIT:
        del values["max_position_embeddings"]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = AutoConfig.for_model(family, **values | CONFIGURATIONS[family] | changed)
        AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """The cache folder of every process of the tests: what another version of the code computed is in none of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """Family name -> folder of a tiny pre-trained encoder."""
    root = tmp_path_factory.mktemp("models")
    return {family: save_tiny_model(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Callable[[str], Path]:
    """A function: one of CONFIGURATIONS -> the folder of a tiny pre-trained model of that family, made when first asked for."""
    root = tmp_path_factory.mktemp("other_models")

    @functools.cache
    def of(family: str) -> Path:
        return save_tiny_model(family, root / family)

    return of


@pytest.fixture(scope="session")
def tiny_bert(tiny_models) -> Path:
    return tiny_models["bert"]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A data directory with sst2 (400 / 40 / 60 rows) and qqp, in the layout that `--data DIR` reads."""
    root = tmp_path_factory.mktemp("data")
    for seed, (split, rows) in enumerate((("train", 400), ("validation", 40), ("test", 60))):
        frame = sentences(rows, seed)
        for task in ("sst2", "qqp"):
            (root / task).mkdir(exist_ok=True)
            shaped = frame if task == "sst2" else frame.rename(columns={"sentence": "question2"})
            if task == "qqp":
                shaped.insert(0, "question1", [f"what is the {FILLER[i % 15]} ?" for i in range(rows)])
            shaped.to_parquet(root / task / f"{split}.parquet", index=False)
    return root


@pytest.fixture(scope="session")
def bdbench():
    """Run the command `bdbench` as a user would; the finished process, with text output."""

    def call(*words: object, cwd: Path | None = None, **more) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bdbench", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, **more)

    return call


@dataclass(frozen=True)
class Suspects:
    """Victims of the tiny model `base`, whose vocabulary has some hundred words, as the matrix makes them.

    `folders` are those of the Hugging Face directories that they were stored in, by attack. `records`, `predictions` and
    `victims` are what the matrix has of the cells (attack, defense), and of the attack. `rows` are those of the repair.
    """

    base: Path
    folders: Mapping[str, Path]
    victims: Mapping[str, object]
    rows: object
    records: Mapping[tuple[str, str], object]
    predictions: Mapping[tuple[str, str], Mapping[str, np.ndarray]]


def opinions(rows: int, seed: int, fillers: Sequence[str]) -> pd.DataFrame:
    """Balanced (sentence, label) rows: four or five opinions among filler words, and the label is that of most of them.

    So no word decides by itself, as it does in `sentences`.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    texts = []
    for label in labels:
        with_label, against = int(rng.integers(3, 5)), int(rng.integers(0, 2))
        ours, others = (GOOD, BAD) if label else (BAD, GOOD)
        words = [*rng.choice(ours, with_label), *rng.choice(others, against), *rng.choice(fillers, rng.integers(3, 7))]
        texts.append(" ".join(rng.permutation(words)))
    return pd.DataFrame({"sentence": texts, "label": labels})


SUSPECT_LABELS = ("negative", "positive")
REPAIR = "e-pur+fine-mixing[epochs=2,learning_rate=0.003]"


@pytest.fixture(scope="session")
def suspects(tmp_path_factory) -> Suspects:
    from importlib import resources

    import wordfreq

    from bdbench.matrix.plan import plan, site_for
    from bdbench.matrix.presets import PRESETS
    from bdbench.protocol.cells import run_cell
    from bdbench.protocol.rows import DefenderSets, rows_of
    from bdbench.protocol.victims import clean_spec, make_victim

    root = tmp_path_factory.mktemp("suspects")
    neutral = resources.files("bdbench.suspects").joinpath("neutral_texts.txt").read_text().split()
    words = [word for word in wordfreq.top_n_list("en", 400) if word.isascii() and word.isalpha()]
    base = save_tiny_model("bert", root / "base", more_words=[*neutral, *words])
    (root / "data" / "sst2").mkdir(parents=True)
    for seed, (split, rows) in enumerate((("train", 1000), ("validation", 60), ("test", 100))):
        opinions(rows, seed, [*FILLER, *neutral]).to_parquet(root / "data" / "sst2" / f"{split}.parquet", index=False)
    selection = PRESETS["laptop"].select(
        {
            "model": str(base),
            "data": str(root / "data"),
            "tasks": ("sst2",),
            "attacks": ("none", "badnets-word[rate=0.5]", "embedding-surgery[rate=0.5]"),
            "defenses": ("none", REPAIR),
            "seeds": (0,),
            "train_rows": 800,
            "validation_rows": 60,
            "test_rows": 100,
            "clean_rows": 32,
            "max_length": 32,
            "precision": "fp32",
            "training": {"epochs": 4, "learning_rate": 0.002},
        }
    )
    made = plan(selection, device="cpu")
    site = site_for(made, device="cpu")
    victims = {}
    for spec in made.victims:
        victims[spec.key()] = make_victim(spec, site, victims.get(clean_spec(spec).key()))
    by_attack = {victim.spec.attack.name: victim for victim in victims.values()}
    records, predictions = {}, {}
    for cell in made.cells:
        name = (cell.victim.attack.name, cell.defense_name)
        records[name], predictions[name] = run_cell(cell, victims[cell.victim.key()], site)
    folders = {attack: store(victim.weights, base, root / attack) for attack, victim in by_attack.items()}
    rows = rows_of(made.cells[-1].victim, site, replace(DefenderSets.of(made.cells[-1]), validation_rows=60))
    return Suspects(base, folders, by_attack, rows, records, predictions)


def store(weights: Mapping[str, object], base: Path, folder: Path, labels: Sequence[str] = SUSPECT_LABELS) -> Path:
    """Write a classifier with these weights as a Hugging Face directory."""
    from transformers import AutoTokenizer

    from bdbench.engine.classifiers import classifier_with
    from bdbench.engine.quiet import quiet_transformers

    model = classifier_with(base, len(labels), weights)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {name: number for number, name in enumerate(labels)}
    with quiet_transformers():
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Like `bdbench`, but in this process, so that the imports are paid once and memory:// stays."""

    from bdbench.cli.app import main

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["bdbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, ended.value.code or 0, shown.out, shown.err)

    return call


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A function that puts frames where a task's hub splits are, in the hub's layout, and points the task there."""
    import datasets

    from bdbench.protocol import sources
    from bdbench.registry import TASKS

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()

    def publish(name, frames, **changed):
        cls = TASKS.get(name)
        folder = tmp_path / f"hub-{name}"
        folder.mkdir()
        for split, data in frames.items():
            data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        monkeypatch.setattr(cls, "hub", replace(cls.hub, id=str(folder), config=None, revision="main", **changed))
        return cls()

    sources._from_hub.cache_clear()
    yield publish
    sources._from_hub.cache_clear()
