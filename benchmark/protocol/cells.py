"""From a spec to a victim and from a victim to a record: one process, no Ray, no files written, no terminal."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import bdbench
from bdbench.attacks.base import Attack, DataPoisoning
from bdbench.data import TextSet
from bdbench.defenses.base import ModelRepair
from bdbench.engine.loops import Recipe, train
from bdbench.engine.models import classifier_with, load_classifier, load_tokenizer, pretrained_weights
from bdbench.errors import UsageError, without_folders
from bdbench.protocol.contexts import AttackContext, Context, DefenseContext
from bdbench.protocol.sources import Splits, load
from bdbench.registry import ATTACKS, DEFENSES, TASKS, load_plugin_file
from bdbench.seeds import derive
from bdbench.specs.metrics import attack_success_rate, clean_accuracy
from bdbench.specs.records import CellSpec, Metric, PluginSpec, Predictions, Record, Victim, VictimSpec

IS_MAC = sys.platform == "darwin"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Site:
    """Where and how this machine does the work; no part of it is in a key.

    `data` is the directory for the data source "directory", `model` the folder of the pre-trained model, `plugins` the
    files given with `--plugin`. `threads` is the number of CPU threads of one cell; `device` is "cpu", "cuda" or "auto".
    """

    model: Path
    data: Path | None = None
    plugins: tuple[Path, ...] = ()
    threads: int = 1
    device: str = "auto"

    def enter(self) -> None:
        """Make the calling process ready for work: its number of threads, its memory, and the plugins from files."""
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        for file in self.plugins:
            load_plugin_file(file)

    def torch_device(self) -> torch.device:
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return torch.device(chosen)


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one (task, seed), the same for every attack and every defense."""

    train: TextSet
    clean: TextSet
    validation: TextSet
    test: TextSet


def draw_rows(spec: VictimSpec, splits: Splits, clean_rows: int = 0, validation_rows: int = 0) -> Rows:
    """Deal the splits out: the victim's training rows from the front of one permutation of train, the clean set from its
    back, so that neither shares a row with the other and a larger clean set changes no victim.

    Test rows are the same for every seed. Raises UsageError if the clean set does not fit beside the training rows.
    """
    order = _permutation(len(splits.train), spec.seed, "rows", spec.task)
    if spec.data.train_rows + clean_rows > len(order):
        raise UsageError(
            f"{spec.task}: {spec.data.train_rows} training rows and {clean_rows} clean rows, but the train split has "
            f"{len(order)}; lower --train-rows or --clean-rows"
        )
    validation = _permutation(len(splits.validation), 0, "validation", spec.task)[:validation_rows]
    test = _permutation(len(splits.test), 0, "test", spec.task)[: spec.data.test_rows]
    return Rows(
        train=splits.train.take(order[: spec.data.train_rows]),
        clean=splits.train.take(order[len(order) - clean_rows :]),
        validation=splits.validation.take(np.sort(validation)),
        test=splits.test.take(np.sort(test)),
    )


def needs_clean_victim(spec: VictimSpec) -> bool:
    """Whether the clean fine-tuned model must exist first: as the start of the attack, or for the ASR floor."""
    return ATTACKS.get(spec.attack.name).has_trigger


def clean_spec(spec: VictimSpec) -> VictimSpec:
    """The spec of the clean fine-tuned model of the same task, data, model and seed."""
    return VictimSpec(**{**vars(spec), "attack": plugin_spec(ATTACKS.get("none")())})


def plugin_spec(plugin: Attack | ModelRepair) -> PluginSpec:
    """What a key and a record say of a plugin: its name, its version, every hyperparameter."""
    return PluginSpec(plugin.name, plugin.version, plugin.values())


def run_victim(spec: VictimSpec, site: Site, clean: Victim | None = None) -> Victim:
    """Train (or otherwise make) and evaluate the victim of `spec`.

    `clean` is the clean fine-tuned model, wanted where `needs_clean_victim`. Raises what the attack raises, and ValueError
    if the data or the model found at `site` are not the ones in `spec`.
    """
    site.enter()
    attack: Attack = ATTACKS.get(spec.attack.name).build(spec.attack.params)
    if needs_clean_victim(spec) and clean is None:
        raise ValueError(f"the victim of {spec.attack.name} needs the clean fine-tuned model, and none was given")
    rows = rows_of(spec, site)
    model = classifier(spec, site, None if attack.start == "scratch" else clean)
    ctx = attack_context(spec, site, "poison", clean)
    started = time.perf_counter()
    if isinstance(attack, DataPoisoning):
        poisoned, _ = attack.poison(rows.train, ctx)
        attack.prepare(model, rows.train, ctx)
        seed = derive(spec.seed, "victim", spec.task, attack.name)
        recipe = Recipe(**spec.training)
        encoded = ctx.encode(poisoned)
        with ctx.counted("training"):
            train(model, encoded, recipe, seed=seed, precision=ctx.precision)
    else:
        model = attack.poison_weights(model, rows.train, ctx).eval()
    trained = time.perf_counter()

    triggered = triggered_rows(attack, rows.test, spec, site) if attack.has_trigger else None
    predictions, metrics = _evaluate(model, rows.test, triggered, spec, ctx)
    if triggered is not None:
        _, floor = _evaluate(classifier(spec, site, clean), None, triggered, spec, ctx)
        metrics["floor"] = floor["asr"]
    return Victim(
        spec=spec,
        weights={name: parameter.detach().cpu() for name, parameter in model.named_parameters()},
        triggered=triggered,
        predictions=predictions,
        metrics=metrics,
        seconds={"attack": trained - started, "evaluation": time.perf_counter() - trained, **ctx.spent},
        env=environment(site),
    )


def run_cell(
    spec: CellSpec, victim: Victim, site: Site, given: dict[str, Any] | None = None
) -> tuple[Record, Predictions | None]:
    """Apply the defense to the victim and evaluate the result on the victim's own frozen texts.

    Returns the record of an "ok" cell and its predictions, or a "skipped" record and None. Raises what the defense raises
    (see `failed_record`).
    """
    site.enter()
    parts: list[ModelRepair] = [DEFENSES.get(part.name).build(part.params) for part in spec.defense]
    for part in parts:
        if reason := part.skip(spec.victim.task, spec.victim.attack.name):
            return Record(spec, "skipped", reason, needs=needs_of(parts), given=given, env=environment(site)), None
    rows = rows_of(spec.victim, site, spec.clean_rows, spec.validation_rows)
    notes: dict[str, Any] = {}
    if all(part.unchanged for part in parts):
        predictions, metrics = victim.predictions, metrics_of(victim.predictions, spec.victim)
        seconds = {"defense": 0.0, "evaluation": 0.0}
    else:
        spent: Counter[str] = Counter()
        model = classifier(spec.victim, site, victim)
        started = time.perf_counter()
        resources = {
            "clean": rows.clean,
            "validation": rows.validation,
            "pretrained": lru_cache(lambda: pretrained_weights(site.model, len(TASKS.get(spec.victim.task).label_names))),
        }
        for part in parts:
            given_to = _defense_context(spec, site, part, resources)
            model = part.repair(model, given_to)
            spent += given_to.spent
            if given_to.notes:
                notes[part.name] = _json_values(given_to.notes, part.name)
        repaired = time.perf_counter()
        ctx = Context(**_common(spec.victim, site, seed=0))  # evaluation draws nothing
        predictions, metrics = _evaluate(model.eval(), rows.test, victim.triggered, spec.victim, ctx)
        spent += ctx.spent
        seconds = {"defense": repaired - started, "evaluation": time.perf_counter() - repaired, **spent}
    if "floor" in victim.metrics:
        metrics["floor"] = victim.metrics["floor"]
    record = Record(
        spec=spec,
        status="ok",
        metrics=metrics,
        needs=needs_of(parts),
        notes=notes,
        given=given,
        seconds={"attack": victim.seconds["attack"], **seconds},
        env=environment(site),
    )
    return record, predictions


def failed_record(spec: CellSpec, error: str, site: Site, given: dict[str, Any] | None = None) -> Record:
    """The record of a cell that ended in an exception; `error` is its traceback."""
    parts = [DEFENSES.get(part.name).build(part.params) for part in spec.defense]
    return Record(
        spec=spec,
        status="failed",
        error=error,
        needs=needs_of(parts),
        given=given,
        env=environment(site),
    )


def _json_values(notes: dict[str, Any], name: str) -> dict[str, Any]:
    """The notes of the defense called `name`. Raises TypeError where a record could not hold them."""
    try:
        json.dumps(notes, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"'{name}' puts into ctx.notes what JSON does not hold ({error}); note bool, int, finite float, str, list, dict"
        ) from error
    return notes


def needs_of(parts: Sequence[ModelRepair]) -> tuple[str, ...]:
    """All that a composition asks to be given, sorted."""
    return tuple(sorted(set().union(*(part.asks_for() for part in parts))))


def portable_traceback(error: BaseException) -> str:
    """The traceback of `error`, with the folders of this machine cut from the file names."""
    text = "".join(traceback.format_exception(error))
    for folder in (Path(bdbench.__file__).parents[1], Path(torch.__file__).parents[1]):
        text = text.replace(f"{folder}{os.sep}", "")
    return without_folders(text)


def environment(site: Site) -> dict[str, Any]:
    """What a record says of the machine and the code."""
    import transformers

    device = site.torch_device()
    return {
        "bdbench": bdbench.__version__,
        **_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        "threads": site.threads,
        # of the process, which may have run other cells before
        "peak_memory_mb": round(peak_memory_mb()),
        "ended": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


@lru_cache
def keep_freed_memory() -> None:
    """Have the C library keep what this process frees, for its next use, instead of giving it back to the system.

    A training step frees and takes some hundred megabytes, and the system clears every page that it hands out again: of the
    bundled model's fine-tuning on texts of 48 pieces, on one core, 5 to 10 %. Does nothing where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it grows to by itself; setting the other one stops the growing
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if IS_MAC else 2**10)


def rows_of(spec: VictimSpec, site: Site, clean_rows: int = 0, validation_rows: int = 0) -> Rows:
    """The rows that `draw_rows` deals out of the data at `site`. Raises ValueError if they are not the data in `spec`."""
    task = TASKS.get(spec.task)()
    splits = load(task, spec.data.source, site.data)
    if splits.fingerprint != spec.data.fingerprint:
        raise ValueError(
            f"the data of {spec.task} changed: fingerprint {splits.fingerprint}, the cell wants {spec.data.fingerprint}"
        )
    return draw_rows(spec, splits, clean_rows, validation_rows)


def classifier(spec: VictimSpec, site: Site, victim: Victim | None = None) -> nn.Module:
    """A classifier on the device: with the victim's weights, or pre-trained with a freshly drawn head."""
    classes = len(TASKS.get(spec.task).label_names)
    if victim is not None:
        model = classifier_with(site.model, classes, victim.weights)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(spec.seed, "head", spec.task))
            model, _ = load_classifier(site.model, classes)
    return model.to(site.torch_device())


def _common(spec: VictimSpec, site: Site, seed: int) -> dict[str, Any]:
    return {
        "tokenizer": load_tokenizer(site.model),
        "max_length": spec.max_length,
        "classes": len(TASKS.get(spec.task).label_names),
        "device": site.torch_device(),
        "precision": spec.precision,
        "generator": torch.Generator().manual_seed(seed),
    }


def triggered_rows(attack: Attack, test: TextSet, spec: VictimSpec, site: Site) -> TextSet:
    """The test rows whose gold label is not the target, with the trigger inserted and the gold labels kept."""
    others = test.take(np.flatnonzero(test.labels != attack.target))
    return attack.trigger(others, attack_context(spec, site, "trigger"))


def attack_context(spec: VictimSpec, site: Site, role: str, clean: Victim | None = None) -> AttackContext:
    """What the attack of `spec` sees; `role` ("poison" or "trigger") decides its randomness."""
    common = _common(spec, site, derive(spec.seed, role, spec.task, spec.attack.name))
    return AttackContext(**common, clean={} if clean is None else clean.weights)


def _defense_context(spec: CellSpec, site: Site, part: ModelRepair, resources: Mapping[str, Any]) -> DefenseContext:
    """Randomness depends on the component alone: fine-mixing draws the same mask with and without E-PUR before it."""
    common = _common(spec.victim, site, derive(spec.victim.seed, "defense", spec.victim.task, part.name))
    return DefenseContext(**common, resources={name: resources[name] for name in part.asks_for()})


def _evaluate(
    model: nn.Module, test: TextSet | None, triggered: TextSet | None, spec: VictimSpec, ctx: Context
) -> tuple[Predictions, dict[str, Metric]]:
    """Clean and triggered texts in one pass. Predictions are class numbers, int8, beside the gold ones."""
    sets = {name: rows for name, rows in (("clean", test), ("triggered", triggered)) if rows is not None}
    joined = _join(list(sets.values()))
    classes = ctx.predict(model, joined).argmax(dim=1).numpy().astype(np.int8)
    predictions: Predictions = {}
    for name, rows in sets.items():
        predictions[name], classes = classes[: len(rows)], classes[len(rows) :]
        predictions[f"{name}_gold"] = rows.labels.astype(np.int8)
    return predictions, metrics_of(predictions, spec)


def metrics_of(predictions: Predictions, spec: VictimSpec) -> dict[str, Metric]:
    """The metrics of saved predictions: "cacc" of the clean rows, "asr" of the triggered ones, where there are any, and
    "base", the same share of the same rows without the trigger, where there are both."""
    metrics = {}
    if "clean" in predictions:
        metrics["cacc"] = clean_accuracy(predictions["clean"], predictions["clean_gold"])
    if "triggered" in predictions:
        target = int(spec.attack.params["target"])
        metrics["asr"] = attack_success_rate(predictions["triggered"], predictions["triggered_gold"], target)
        if "clean" in predictions:
            metrics["base"] = attack_success_rate(predictions["clean"], predictions["clean_gold"], target)
    return metrics


def _join(sets: list[TextSet]) -> TextSet:
    second = None if sets[0].second is None else tuple(text for rows in sets for text in rows.second or ())
    return TextSet(tuple(text for rows in sets for text in rows.first), second, np.concatenate([rows.labels for rows in sets]))


def _permutation(n: int, seed: int, *role: str) -> npt.NDArray[np.int64]:
    return np.random.default_rng(derive(seed, *role)).permutation(n)


@lru_cache
def _commit() -> dict[str, Any]:
    """The commit of the checkout this code runs from and whether its code differs from it; none for an installed wheel."""
    root = Path(bdbench.__file__).resolve().parents[1]
    code = ["benchmark", "attacks", "defenses", "tasks", "pyproject.toml"]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": False}

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *code))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": False}
