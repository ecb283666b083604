"""Tiny real models of every family, saved to disk as pre-trained encoders, and a small data directory."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bdbench.testing.tiny_models import FAMILIES, FILLER, USUAL, save_tiny_model, sentences, word_piece_tokenizer

# Before any Hugging Face library is imported: no test may reach for the hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# What a shell starts in the background ignores Ctrl-C, and so would all that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
def tiny_masked(tmp_path_factory) -> Path:
    """The folder of a tiny masked language model, BERT's, with its head; it has learned nothing."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    folder, tokenizer = tmp_path_factory.mktemp("masked") / "model", word_piece_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 66, "initializer_range": 0.5}
        BertForMaskedLM(BertConfig(**USUAL, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
