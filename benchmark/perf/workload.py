"""What the runner is measured on: tiny data, a tiny random model, and defenses that do nothing, or a fixed piece of work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

WORDS = ("the", "film", "was", "a", "plot", "and", "story", "cast", "in", "this", "of", "very", "with", "song", "cf")
WORDS_OF_CLASS = (("bad", "awful", "poor", "dull"), ("good", "great", "fine", "superb"))
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
COLUMN_BY_TASK = {"sst2": "sentence", "imdb": "text"}
ROWS = {"train": 96, "validation": 16, "test": 32}
ATTACKS = ("none", "badnets-word")
SEEDS = 5
VICTIMS = len(COLUMN_BY_TASK) * len(ATTACKS) * SEEDS

PLUGIN = '''"""Defenses that leave a model as it is: for measuring the runner."""

import hashlib
from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register
from bdbench.params import hp


@register("perf-no-op", paper="none")
@dataclass(frozen=True)
class NoOp(ModelRepair):
    number: int = hp(0, low=0, help="tells one from another")
    unchanged = True

    def repair(self, model, ctx):
        return model


@register("perf-work", paper="none")
@dataclass(frozen=True)
class Work(ModelRepair):
    number: int = hp(0, low=0, help="tells one from another")
    megabytes: int = hp(1, low=1, help="hashed on one core")

    def repair(self, model, ctx):
        megabyte = bytes(2**20)
        for _ in range(self.megabytes):
            hashlib.sha256(megabyte).digest()
        return model
'''


@dataclass(frozen=True)
class Workload:
    """A folder with all that a run on it needs, and the flags that say so."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> Workload:
        """Make the data, the model and the plugin file in `folder`."""
        for task, column in COLUMN_BY_TASK.items():
            (folder / "data" / task).mkdir(parents=True)
            for seed, (split, rows) in enumerate(ROWS.items()):
                lines = [json.dumps({column: text, "label": label}) + "\n" for text, label in labelled_texts(rows, seed)]
                (folder / "data" / task / f"{split}.jsonl").write_text("".join(lines))
        save_model(folder / "model")
        (folder / "perf_defenses.py").write_text(PLUGIN)
        return cls(folder)

    @property
    def cache(self) -> Path:
        """A cache folder in which nothing is known of the model at first."""
        return self.folder / "cache"

    def flags(self, out: str, defenses: list[str], *more: str) -> list[str]:
        """The words of `bdbench run` on this workload, with results in `<folder>/<out>`."""
        names = {"model": "model", "data": "data", "plugin": "perf_defenses.py", "out": out}
        paths = [word for flag, name in names.items() for word in (f"--{flag}", str(self.folder / name))]
        sizes = {"train": ROWS["train"] - 16, "validation": ROWS["validation"], "test": ROWS["test"], "clean": 16}
        rows = [word for name, count in sizes.items() for word in (f"--{name}-rows", str(count))]
        recipe = ["--max-length", "24", "--epochs", "1", "--device", "cpu", "--precision", "fp32"]
        return ["run", "--preset", "laptop", *paths, *rows, *recipe, "-d", ",".join(defenses), *more]

    def no_ops(self, out: str, cells: int, *more: str) -> list[str]:
        """A run of about so many cells that do nothing, on `VICTIMS` victims."""
        defenses = [f"perf-no-op[number={number}]" for number in range(max(1, cells // VICTIMS))]
        matrix = ["-T", ",".join(COLUMN_BY_TASK), "-a", ",".join(ATTACKS), "--seeds", f"0-{SEEDS - 1}"]
        return self.flags(out, defenses, *matrix, *more)

    def equal_cells(self, out: str, cells: int, megabytes: int, workers: int) -> list[str]:
        """A run of so many cells, each of the same work, on one victim."""
        defenses = [f"perf-work[number={number},megabytes={megabytes}]" for number in range(cells)]
        return self.flags(out, defenses, "-T", "sst2", "-a", "none", "--seeds", "0", "--workers", str(workers))


def labelled_texts(rows: int, seed: int) -> list[tuple[str, int]]:
    """So many distinct texts, half of each class: plain words around one that gives the class away."""
    rng = np.random.default_rng(seed)
    texts: dict[str, int] = {}
    while len(texts) < rows:
        label = len(texts) % 2
        words = [*rng.choice(WORDS[:-1], rng.integers(4, 10)), rng.choice(WORDS_OF_CLASS[label])]
        texts.setdefault(" ".join(words), label)
    return list(texts.items())


def save_model(folder: Path) -> None:
    """A random BERT encoder of 2 layers of width 32, and its word pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = (*SPECIAL_PIECES, *WORDS, *(word for words in WORDS_OF_CLASS for word in words))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    names = {f"{piece[1:-1].lower()}_token": piece for piece in SPECIAL_PIECES}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names).save_pretrained(folder)
    width = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(pieces), max_position_embeddings=64, pad_token_id=0, **width)
        BertModel(config).save_pretrained(folder)
