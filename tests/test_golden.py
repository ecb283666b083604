"""The golden numbers: what every attack, defense and task reader gives on tiny models and rows, in float32 on the CPU.

A number that changed means that finished cells of the same key no longer say what a new run would say. Then PROTOCOL or the
plugin's version has to be raised, and the file written anew:

    BDBENCH_WRITE_GOLDEN=1 python -m pytest tests/test_golden.py

which refuses to replace a number whose PROTOCOL and version are still those on file. Texts and rows are compared exactly.
Weights and logits have a tolerance: other processors round differently.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SUSPECT_LABELS, store

from bdbench.api.given_victim import with_checked_victim
from bdbench.attacks.base import DataPoisoning
from bdbench.engine.classifiers import pretrained_weights
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.selection import Selection
from bdbench.protocol.cells import GUARDS, TRAINING, apply_defense, run_cell
from bdbench.protocol.contexts import Context
from bdbench.protocol.plugins import attack_of, parts_of
from bdbench.protocol.resources import Material
from bdbench.protocol.rows import DefenderSets, draw_rows, rows_of
from bdbench.protocol.sources import load
from bdbench.protocol.victims import attack_context, classifier, clean_spec, context_fields, make_victim, poison_rows
from bdbench.registry import ATTACKS, DEFENSES, TASKS
from bdbench.specs.keys import PROTOCOL
from bdbench.specs.work import DataSpec
from bdbench.testing.contract import classifier as untrained_classifier
from bdbench.testing.tiny_models import sentences

FILE = Path(__file__).with_name("golden.json")
WRITE = "BDBENCH_WRITE_GOLDEN" in os.environ
# Relative to 1 + |number|. With other vector instructions (PyTorch's none, AVX2 and AVX-512; MKL's and oneDNN's SSE4 and AVX2)
# the numbers differ by 4e-7 at most.
TOLERANCE = 1e-5
LOGIT_ROWS = 6

ATTACK_VARIANTS = (
    *ATTACKS.names(),
    "badnets-word[start=clean,position=start]",
    "badnets-sentence[draw=non-target]",
    "embedding-surgery[start=clean]",
    "badnets-sentence[position=sentence]",
    "badnets-multi[drawn=2]",
)
DEFENSE_VARIANTS = (
    *DEFENSES.names(),
    "fine-mixing[select=activation]",
    "fine-mixing[search=true]",
    "fine-pruning[frozen=true]",
    "e-pur+fine-mixing",
    "fine-mixing+fine-mixing",
    "e-pur+strip",
    "e-pur+onion[removed=0.2]",
    "e-pur+msdt[lm=adapted]",
    "moderate-fitting[rank=2]",
    "e-pur+ties",
    "dare[elect=true]",
    "reinit[start=drawn,head=true]",
    "magnitude-pruning[frozen=false]",
    "nad[maps=attention]",
)


@pytest.fixture(scope="module")
def checkpoint(tiny_bert, tmp_path_factory):
    """What the attack `given` is here: a classifier with a head that has learned nothing, its classes in the other order."""
    weights = dict(untrained_classifier(tiny_bert).named_parameters())
    return store(weights, tiny_bert, tmp_path_factory.mktemp("given") / "victim", SUSPECT_LABELS[::-1])


@pytest.fixture(scope="module")
def bench(tiny_bert, tiny_masked, data_dir, checkpoint):
    """(attacks, defenses, task) -> the plan of a small run and its site."""

    def small(attacks: tuple[str, ...], defenses: tuple[str, ...] = ("none",), task: str = "sst2"):
        attack_params = {
            "embedding-poisoning.rate": 0.5,
            "data-free-embedding-poisoning.samples": 40,
            "data-free-embedding-poisoning.words": 12,
            "embedding-surgery.words": 3,
            "sos.triggers": "cf+mn",
            "sos.trigger_text": "cf watch mn",
            "ripples.words": 3,
            "given.trigger_text": "cf",
            "given.target": 1,
        }
        attack_params |= {f"{attack}.triggers": "cf+mn+bb" for attack in ("neuba", "por")}
        attack_params |= {
            f"{attack}.{name}": value
            for attack in ("ripple", "ripples", "layer-weight-poisoning", "neuba", "por")
            for name, value in (("epochs", 1), ("then_rows", 60))
        }
        defense_params = {"e-pur.words": 5, "fine-mixing.tolerance": 0.1, "msdt.lm": str(tiny_masked)}
        parts = {part.partition("[")[0] for defense in defenses for part in defense.split("+")}
        names = {attack.partition("[")[0] for attack in attacks}
        defense_params |= {
            f"{part}.{name}": value for part in parts for name, value in (("epochs", 2), ("learning_rate", 3e-3))
        }
        known = {f"{part}.{field}" for part in parts for field in DEFENSES.get(part)().values()}
        selection = Selection(
            model=str(tiny_bert),
            data=str(data_dir),
            tasks=(task,),
            attacks=attacks,
            defenses=defenses,
            seeds=(0,),
            train_rows=160,
            validation_rows=20,
            test_rows=None,
            clean_rows=16,
            max_length=32,
            training={"epochs": 3, "learning_rate": 3e-3, "batch_size": 16},
            attack_params={name: value for name, value in attack_params.items() if name.partition(".")[0] in names},
            defense_params={name: value for name, value in defense_params.items() if name in known},
            precision="fp32",
        )
        if "given" in names:
            selection, _ = with_checked_victim(replace(selection, victim=str(checkpoint)))
        planned = plan(selection, "cpu")
        return planned, site_for(planned, device="cpu")

    return small


@pytest.fixture(scope="module")
def clean_victim(bench):
    """The clean fine-tuned model of a spec's task and seed, trained once."""
    victims = {}

    def of(spec, site):
        if (spec.task, spec.seed) not in victims:
            victims[spec.task, spec.seed] = make_victim(clean_spec(spec), site)
        return victims[spec.task, spec.seed]

    return of


def distances(weights: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> dict[str, float]:
    """The L2 distance of the embeddings, the rest of the encoder and the head from those of `reference` (0 where absent)."""
    squares = {"embeddings": 0.0, "encoder": 0.0, "head": 0.0}
    for name, weight in weights.items():
        if "key.bias" in name:  # it shifts all scores alike, so its gradient is rounding alone, and Adam makes a step of that
            continue
        part = "embeddings" if "embeddings" in name else "encoder" if name in reference and "classifier" not in name else "head"
        squares[part] += float((weight - reference.get(name, torch.zeros(()))).double().square().sum())
    return {part: square**0.5 for part, square in squares.items()}


def logits(model, spec, site, rows) -> list[list[float]]:
    ctx = Context(**context_fields(spec, site, seed=0))
    return ctx.predict(model, rows.take(range(LOGIT_ROWS))).tolist()


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Where two JSON values differ: numbers by more than the tolerance, all else at all."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        return [line for name in before for line in differences(before[name], now[name], f"{where}.{name}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [line for i, pair in enumerate(zip(before, now, strict=True)) for line in differences(*pair, f"{where}[{i}]")]
    if isinstance(before, float) and isinstance(now, float):
        close = abs(before - now) <= TOLERANCE * (1 + abs(before))
        return [] if close else [f"{where}: {before} -> {now}"]
    return [] if before == now else [f"{where}: {before!r} -> {now!r}"]


def check(kind: str, name: str, version: str, numbers: dict[str, Any]) -> None:
    """Compare with the file; or, when it is to be written, put the numbers into it."""
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    entry = {"protocol": PROTOCOL, "version": version, "numbers": json.loads(json.dumps(numbers))}
    on_file = golden.get(kind, {}).get(name)
    changed = [] if on_file is None else differences(on_file["numbers"], entry["numbers"])
    same_rules = on_file is not None and (on_file["protocol"], on_file["version"]) == (PROTOCOL, version)
    assert not (changed and same_rules), (
        f"the numbers of {kind} '{name}' changed under PROTOCOL {PROTOCOL} and version {version}: raise PROTOCOL "
        f"(benchmark/specs/keys.py) if the engine or the protocol changed them, or the plugin's version, and then write "
        f"tests/golden.json anew (see the top of this file). Changed: {'; '.join(changed[:5])}"
    )
    if WRITE:
        if changed or not same_rules:
            golden.setdefault(kind, {})[name] = entry
            FILE.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
        return
    assert on_file is not None, f"{kind} '{name}' has no golden numbers yet; write tests/golden.json anew"
    assert same_rules, (
        f"tests/golden.json holds {kind} '{name}' of PROTOCOL {on_file['protocol']} and version {on_file['version']}, now they "
        f"are {PROTOCOL} and {version}: write it anew"
    )


@pytest.mark.parametrize("name", ATTACK_VARIANTS)
def test_attack(name, bench, clean_victim):
    planned, site = bench((name,))
    spec = planned.cells[0].victim
    attack, clean = attack_of(spec), clean_victim(spec, site)
    victim = clean if spec == clean_spec(spec) else make_victim(spec, site, clean)
    rows = rows_of(spec, site)
    start = pretrained_weights(site.model, 2) if attack.start == "scratch" else clean.weights
    numbers: dict[str, Any] = {
        "triggered": None if victim.triggered is None else victim.triggered.digest(),
        "distances": distances(victim.weights, start),
        "logits": logits(classifier(spec, site, victim.weights), spec, site, rows.test),
    }
    if isinstance(attack, DataPoisoning):
        numbers["poisoned"] = poison_rows(attack, rows.train, attack_context(spec, site, "poison", clean))[0].digest()
    check("attacks", name, attack.version, numbers)


@pytest.mark.parametrize("task", ["sst2", "qqp"])
def test_a_pair_task_and_a_single_one_give_the_trigger_its_place(task, bench, clean_victim):
    planned, site = bench(("badnets-word",), task=task)
    spec = planned.cells[0].victim
    victim = make_victim(spec, site, clean_victim(spec, site))
    check("triggered texts", task, "1", {"triggered": victim.triggered.digest()})


@pytest.mark.parametrize("name", DEFENSE_VARIANTS)
def test_defense(name, bench, clean_victim):
    for package in {package for part in name.split("+") for package in DEFENSES.get(part.partition("[")[0]).packages}:
        pytest.importorskip(package)
    plugins = [DEFENSES.get(part.partition("[")[0]) for part in name.split("+")]
    takes_training = any((plugin.needs | plugin.engine_needs) & TRAINING for plugin in plugins)
    planned, site = bench(("badnets-word" if takes_training else "embedding-poisoning",), (name,))
    (cell,) = planned.cells
    victim = make_victim(cell.victim, site, clean_victim(cell.victim, site))
    peers = [clean_victim(peer, site) for peer in cell.peers]
    rows = rows_of(cell.victim, site, DefenderSets.of(cell))
    parts = parts_of(cell)
    repaired = apply_defense(cell, parts, victim, Material(cell, site, rows, peers=peers))
    weights = {name: parameter.detach() for name, parameter in repaired.model.named_parameters()}
    numbers = {
        "distances": distances(weights, victim.weights),
        "logits": logits(repaired.model, cell.victim, site, rows.test),
        "notes": repaired.notes,
    }
    if parts[-1].kind in GUARDS:
        record, predictions = run_cell(cell, victim, site)
        scores = {name: array[:LOGIT_ROWS].tolist() for name, array in predictions.items() if not name.endswith("_gold")}
        numbers |= {"notes": record.notes, "scores": scores}
        if "lm=adapted" in name:  # the digest of weights that are trained here: other processors round differently
            del record.notes["msdt"]["language_model"]
    check("defenses", name, "+".join(part.version for part in cell.defense), numbers)


@pytest.mark.parametrize("name", TASKS.names())
def test_task_reader(name, tmp_path, bench, hub):
    """The generated text; the rows that are dealt out of a directory; and the splits made of the hub's."""
    task = TASKS.get(name)()
    (tmp_path / name).mkdir()
    for seed, split in enumerate(("train", "validation", "test")):
        frame = sentences(120, seed)
        for column in task.columns:
            frame[column] = [f"{text} in {column}" for text in frame["sentence"]]
        frame[[*task.columns, "label"]].to_csv(tmp_path / name / f"{split}.csv", index=False)
    splits = load(task, "directory", tmp_path)
    numbers = {"builtin": load(task, "builtin").fingerprint, "directory": splits.fingerprint}
    planned, _ = bench(("none",))
    data = DataSpec("directory", "", None, train_rows=60, test_rows=40)
    for seed in (0, 1):
        spec = replace(planned.cells[0].victim, task=name, data=data, seed=seed)
        rows = draw_rows(spec, splits, DefenderSets(15, 30, even_classes=True))
        for part in ("train", "clean", "validation", "test"):
            numbers[f"{part}, seed {seed}"] = getattr(rows, part).digest()
    frames = {}
    for seed, split in enumerate((task.hub.train, task.hub.test)):
        frames[split] = sentences(120, seed)
        for part in [part for column in task.columns for part in task.hub.columns.get(column, (column,))]:
            frames[split][part] = [f"{text} in {part}" for text in frames[split]["sentence"]]
    numbers["hub"] = load(hub(name, frames), "hub").fingerprint
    check("tasks", name, task.version, numbers)
