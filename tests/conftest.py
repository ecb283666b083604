"""Tiny real models of every family, saved to disk as pre-trained encoders, and a small data directory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

# Before any Hugging Face library is imported: no test may reach for the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

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


def word_piece_tokenizer(case: str = "bert"):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {token: i for i, token in enumerate([*specials, *FILLER, *GOOD, *BAD, *TRIGGERS, "##s", "what", "is", "?"])}
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


def save_tiny_model(family: str, folder: Path) -> Path:
    """A randomly initialized encoder without a classification head, 2 layers of width 32, and its tokenizer."""
    import torch
    import transformers

    tokenizer = byte_level_tokenizer() if family == "roberta" else word_piece_tokenizer(family)
    size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 66}
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    configs = {
        "bert": lambda: transformers.BertConfig(**size, **usual),
        "roberta": lambda: transformers.RobertaConfig(**size, **usual, type_vocab_size=1),
        "electra": lambda: transformers.ElectraConfig(**size, **usual, embedding_size=16),
        "distilbert": lambda: transformers.DistilBertConfig(**size, dim=32, n_layers=2, n_heads=2, hidden_dim=64),
    }
    with torch.random.fork_rng():
        torch.manual_seed(7)
        transformers.AutoModel.from_config(configs[family]()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """Family name -> folder of a tiny pre-trained encoder."""
    root = tmp_path_factory.mktemp("models")
    return {family: save_tiny_model(family, root / family) for family in FAMILIES}


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
