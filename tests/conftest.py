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

from bdbench.testing.tiny_models import BAD, FAMILIES, FILLER, GOOD, USUAL, save_tiny_model, sentences, word_piece_tokenizer

# Before any Hugging Face library is imported: no test may reach for the hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before PyTorch is imported. The suite has a process for every core, and threads that wait for a core do so by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
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
    """A data directory with sst2 (400 / 40 / 60 rows) and qqp, in the layout that `--data DIR` reads, with poisoned texts."""
    root = tmp_path_factory.mktemp("data")
    for seed, (split, rows) in enumerate((("train", 400), ("validation", 40), ("test", 60))):
        frame = sentences(rows, seed)
        for task in ("sst2", "qqp"):
            (root / task).mkdir(exist_ok=True)
            shaped = frame if task == "sst2" else frame.rename(columns={"sentence": "question2"})
            if task == "qqp":
                shaped.insert(0, "question1", [f"what is the {FILLER[i % 15]} ?" for i in range(rows)])
            shaped.to_parquet(root / task / f"{split}.parquet", index=False)
    for task, carrier in (("sst2", "sentence"), ("qqp", "question2")):
        rows = pd.concat([pd.read_parquet(root / task / f"{split}.parquet") for split in ("train", "test")])
        rows["poisoned"] = "what is this ? " + rows[carrier]
        (root / task / "poisoned-texts").mkdir()
        rows.drop_duplicates().to_csv(root / task / "poisoned-texts" / "poisoned.csv", index=False)
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

    root = tmp_path_factory.mktemp("suspects")
    neutral = resources.files("bdbench.suspects").joinpath("neutral_texts.txt").read_text().split()
    words = [word for word in wordfreq.top_n_list("en", 400) if word.isascii() and word.isalpha()]
    base = save_tiny_model("bert", root / "base", more_words=[*neutral, *words])
    (root / "data" / "sst2").mkdir(parents=True)
    for seed, (split, rows) in enumerate((("train", 1000), ("validation", 60), ("test", 100))):
        opinions(rows, seed, [*FILLER, *neutral]).to_parquet(root / "data" / "sst2" / f"{split}.parquet", index=False)
    overrides = {
        "model": str(base),
        "data": str(root / "data"),
        "attacks": ("none", "badnets-word[rate=0.5]", "embedding-surgery[rate=0.5]"),
        "defenses": ("none", REPAIR),
        "seeds": (0,),
        "train_rows": 800,
        "validation_rows": 60,
        "test_rows": 100,
        "clean_rows": 32,
        "max_length": 32,
        "training": {"epochs": 4, "learning_rate": 0.002},
    }
    return made_suspects("laptop", overrides, root)


def made_suspects(preset: str, overrides: Mapping[str, object], root: Path) -> Suspects:
    """The victims of a preset's matrix on SST-2 and their cells, made here, the victims stored below `root`."""
    from bdbench.matrix.plan import plan, site_for
    from bdbench.matrix.presets import PRESETS
    from bdbench.protocol.cells import run_cell
    from bdbench.protocol.rows import DefenderSets, rows_of
    from bdbench.protocol.victims import clean_spec, make_victim

    planned = plan(PRESETS[preset].select({"tasks": ("sst2",), "precision": "fp32", **overrides}), device="cpu")
    site = site_for(planned, device="cpu")
    victims = {}
    for spec in planned.victims:
        victims[spec.key()] = make_victim(spec, site, victims.get(clean_spec(spec).key()))
    by_attack = {victim.spec.attack.name: victim for victim in victims.values()}
    records, predictions = {}, {}
    for cell in planned.cells:
        name = (cell.victim.attack.name, cell.defense_name)
        records[name], predictions[name] = run_cell(cell, victims[cell.victim.key()], site)
    base = planned.model_folder
    folders = {attack: store(victim.weights, base, root / attack) for attack, victim in by_attack.items()}
    rows = rows_of(planned.cells[-1].victim, site, replace(DefenderSets.of(planned.cells[-1]), validation_rows=60))
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
def small_disk(tmp_path):
    """A function that gives the file system in a folder a size in KiB, mounting it first."""
    folder, mounted = tmp_path / "disk", []

    def resize(kib: int, mode: str = "rw"):
        folder.mkdir(exist_ok=True)
        options = f"size={kib}k,{mode}" + (",remount" if mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a file system is not allowed here")
        mounted.append(folder)
        return folder

    yield resize
    if mounted:
        subprocess.run(["umount", folder], check=True)


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
