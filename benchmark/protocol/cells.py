"""From a victim to a record: apply the defense, score the result. One process, no Ray, no file written, no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from bdbench.attacks.base import Attack, MadeElsewhere
from bdbench.defenses.base import Defense, Detector, Filter, Purifier, Training
from bdbench.engine.classifiers import classifier_skeleton
from bdbench.engine.tokenizers import unchanged_tokenizer
from bdbench.engine.trace import Trace
from bdbench.engine.training import Recipe
from bdbench.fence import fenced
from bdbench.protocol.contexts import Context, DefenseContext
from bdbench.protocol.environment import environment
from bdbench.protocol.guards import Guarded, Judged, detect, purify
from bdbench.protocol.notes import checked_notes
from bdbench.protocol.plugins import asks_for, attack_of, needs_of, parts_of
from bdbench.protocol.repairs import checked_module, component_seeds, repaired_by
from bdbench.protocol.resources import LOADERS, Material
from bdbench.protocol.rows import DefenderSets, Rows, rows_of, splits_of
from bdbench.protocol.scoring import evaluate, examples_of
from bdbench.protocol.site import Site
from bdbench.protocol.victims import Victim, check_site, classifier, clean_spec, context_fields, training_seed
from bdbench.registry import DEFENSES, TASKS
from bdbench.seeds import derive
from bdbench.specs.metrics import Metric
from bdbench.specs.predictions import metrics_of
from bdbench.specs.records import Predictions, Record
from bdbench.specs.work import CellSpec, ModelSpec, PluginSpec, VictimSpec, component_names

GUARDS = (Detector.kind, Purifier.kind)  # they act on texts, before a classifier sees them
TRAINING = frozenset({"training-set", "training-control"})  # the resources that there are of data poisoning alone


@dataclass(eq=False)
class Repaired:
    """What a defense left: the classifier, what its components noted, by name, and what its loops did.

    `stage_seconds` are those in which the engine scored stages of it, which are not the defense's.
    """

    model: nn.Module
    notes: dict[str, Any] = field(default_factory=dict)
    trace: Trace = field(default_factory=Trace)
    stage_seconds: float = 0.0


def victims_of_cell(spec: CellSpec) -> tuple[VictimSpec, ...]:
    """All the victims that a cell takes: its own, the clean model where training anew starts from it, and its peers."""
    clean: tuple[VictimSpec, ...] = ()
    if any(map(_takes_training, spec.defense)):
        attack = attack_of(spec.victim)
        clean = (clean_spec(spec.victim),) if attack.by_data_alone and (attack.start == "clean" or attack.uses_clean) else ()
    return tuple({victim.key(): victim for victim in (spec.victim, *clean, *spec.peers)}.values())


def run_cell(
    spec: CellSpec,
    victim: Victim,
    site: Site,
    typed: dict[str, Any] | None = None,
    others: Mapping[str, Victim] | None = None,
) -> tuple[Record, Predictions | None]:
    """Apply the defense to the victim and evaluate the result on the victim's own frozen texts.

    `others` are the other victims that it takes (`victims_of_cell`), by key.

    Returns the record of an "ok" cell and its predictions, or a "skipped" record and None. Raises what the defense raises
    (see `failed_record`), and ValueError if the code, the model, a plugin or the data here is not what `spec` names.
    """
    site.enter()
    parts = parts_of(spec)
    check_site(spec.victim, site)
    others = others or {}
    if victim.spec.key() != spec.victim.key():
        raise ValueError(f"the cell stands on the victim {spec.victim.key()}, but got the victim {victim.spec.key()}")
    if reason := _reason_to_skip(parts, spec.victim, site):
        env = environment(site) | {"victim": victim.env}
        skipped = Record(spec, "skipped", reason, needs=needs_of(parts), kind=parts[-1].kind, typed=typed, env=env)
        return replace(skipped, victim=victim.digests, attack=victim.facts), None
    splits_of(spec.victim, site)  # whether the data here is what the cell names
    cost: dict[str, float] = {}
    purified = None
    if changes_nothing(spec):
        began = defense_ended = time.perf_counter()
        predictions, metrics = victim.predictions, metrics_of(victim.predictions, spec.victim)
        notes, trace = {}, Trace()
    else:
        rows = rows_of(spec.victim, site, DefenderSets.of(spec))
        clean = others.get(clean_spec(spec.victim).key())
        material = Material(spec, site, rows, clean, [others[peer.key()] for peer in spec.peers])

        def stage_metrics(model: nn.Module) -> dict[str, Metric]:
            ctx = Context(**context_fields(spec.victim, site, seed=0))
            return evaluate(model, rows.test, victim.triggered, spec.victim, ctx)[1]

        began = time.perf_counter()
        with unchanged_tokenizer(site.model):
            repaired = apply_defense(spec, parts, victim, material, stage_metrics)
        began += repaired.stage_seconds
        trace, notes = repaired.trace, repaired.notes
        cost = {"trained_rows": trace.trained_rows, "predicted_rows": trace.predicted_rows}
        defense_ended = time.perf_counter()
        if parts[-1].kind in GUARDS:
            guarded = _guard(spec, parts[-1], repaired, victim, material)
            predictions, metrics, purified = guarded.predictions, guarded.metrics, guarded.purified
            notes = notes | {component_names(spec.defense)[-1]: guarded.notes}
            cost |= {"predicted_rows": guarded.predicted_rows, "slowdown": guarded.slowdown}
        else:
            predictions, metrics = score(repaired, victim, rows, spec, site)
    if "floor" in victim.metrics:
        metrics["floor"] = victim.metrics["floor"]
    record = Record(
        spec=spec,
        status="ok",
        metrics=metrics,
        needs=needs_of(parts),
        kind=parts[-1].kind,
        examples=() if victim.triggered is None else examples_of(victim.triggered, purified),
        notes=notes,
        typed=typed,
        victim=victim.digests,
        attack=victim.facts,
        seconds={
            "attack": victim.seconds["attack"],
            "defense": defense_ended - began,
            "evaluation": time.perf_counter() - defense_ended,
            **trace.seconds,
        },
        cost=cost,
        env=environment(site, trace) | {"victim": victim.env},
    )
    return record, predictions


def changes_nothing(spec: CellSpec) -> bool:
    """Whether the defense leaves the victim as it is: then the victim's own evaluation is the cell's."""
    return all(part.unchanged for part in parts_of(spec))


def apply_defense(
    spec: CellSpec,
    parts: list[Defense],
    victim: Victim,
    material: Material,
    stage_metrics: Callable[[nn.Module], dict[str, Metric]] | None = None,
) -> Repaired:
    """The classifier that the defense leaves: repaired by one component after another, or trained anew. Guards do nothing yet.

    `stage_metrics` scores the models that a component shows on its way (`DefenseContext.observe`); the notes have them.
    """
    # a repair leaves what it gets as it is
    repaired = Repaired(classifier(spec.victim, material.site, victim.weights, shares=True).eval())
    for part, name, seed in zip(parts, component_names(spec.defense), _seeds(spec), strict=True):
        if part.kind in GUARDS:
            continue
        stages: dict[str, dict[str, float]] = {}
        observer = None if stage_metrics is None else _observer(stage_metrics, stages, repaired)
        ctx = _context(part, seed, material, repaired.trace, observer)
        counts: dict[str, Any] = {}
        if part.kind == Filter.kind:
            repaired.model, counts = _trained_on_kept(part, name, seed, ctx, material)
        elif part.kind == Training.kind:
            with fenced(f"'{name}'", seed):
                trained = part.train(material.start(), material.poisoned[0], ctx)
            repaired.model = checked_module(trained, name, "train").eval()
        else:
            repaired.model = repaired_by(part, name, seed, repaired.model, ctx)
        notes = checked_notes(ctx.notes, part.name) | counts | ({"stages": stages} if stages else {})
        if notes:
            repaired.notes[name] = notes
    return repaired


def _trained_on_kept(
    part: Filter, name: str, seed: int, ctx: DefenseContext, material: Material
) -> tuple[nn.Module, dict[str, Any]]:
    """The classifier trained anew on the rows that a filter keeps, and how many of them are poisoned."""
    spec = material.spec.victim
    rows, flags = material.poisoned
    with fenced(f"'{name}'", seed):
        kept = _checked_mask(part.keep(rows, ctx), len(rows), name)
    model = material.start()
    training = Context(**context_fields(spec, material.site, seed=0), trace=ctx.trace)
    training.train(model, rows.take(np.flatnonzero(kept)), Recipe(**spec.training), seed=training_seed(spec))
    dropped, poison, both = int((~kept).sum()), int(flags.sum()), int((flags & ~kept).sum())
    counts = {"rows": len(rows), "poisoned": poison, "dropped": dropped, "poisoned_dropped": both}
    rates = {"precision": both / dropped} if dropped else {}
    return model, counts | rates | ({"recall": both / poison} if poison else {})


def _guard(spec: CellSpec, part: Detector | Purifier, repaired: Repaired, victim: Victim, material: Material) -> Guarded:
    """Score the classifier behind its guard, the last component."""
    name, seed = component_names(spec.defense)[-1], _seeds(spec)[-1]
    ctx = _context(part, seed, material, repaired.trace)
    judged = Judged.of(material.rows.test, victim.triggered)
    if part.kind == Purifier.kind:
        guarded = purify(part, name, repaired.model, judged, spec.victim, ctx, seed)
    else:
        validation = material.rows.validation
        guarded = detect(part, name, repaired.model, judged, validation, spec.victim, spec.frr, ctx, seed)
    guarded.notes = checked_notes(ctx.notes, part.name) | guarded.notes
    return guarded


def _context(
    part: Defense,
    seed: int,
    material: Material,
    trace: Trace,
    observer: Callable[[str, nn.Module], None] | None = None,
) -> DefenseContext:
    """What one component sees: what it asks for, and nothing else."""
    return DefenseContext(
        **context_fields(material.spec.victim, material.site, seed),
        trace=trace,
        resources={resource: LOADERS[resource](material) for resource in sorted(asks_for(part))},
        observer=observer,
    )


def _observer(
    stage_metrics: Callable[[nn.Module], dict[str, Metric]], stages: dict[str, dict[str, float]], repaired: Repaired
) -> Callable[[str, nn.Module], None]:
    """Puts into `stages`, by name, the metrics of a model, in [0, 1]; the seconds of scoring it add to `stage_seconds`."""

    def observe(stage: str, model: nn.Module) -> None:
        began = time.perf_counter()
        stages[stage] = {name: metric.value for name, metric in stage_metrics(model).items()}
        repaired.stage_seconds += time.perf_counter() - began

    return observe


def score(repaired: Repaired, victim: Victim, rows: Rows, spec: CellSpec, site: Site) -> tuple[Predictions, dict[str, Metric]]:
    """Evaluate a repaired classifier on the test rows and on the victim's triggered ones."""
    ctx = Context(**context_fields(spec.victim, site, seed=0), trace=repaired.trace)  # evaluation draws nothing
    with fenced(f"'{spec.defense_name}'", derive(spec.victim.seed, "evaluation")):  # a repaired model may be its own code
        return evaluate(repaired.model.eval(), rows.test, victim.triggered, spec.victim, ctx)


def _reason_to_skip(parts: list[Defense], victim: VictimSpec, site: Site) -> str | None:
    """Why a component makes no sense on this task, with such a model or against such an attack.

    Raises TypeError for a reason that says nothing.
    """
    attack = attack_of(victim)
    for part in parts:
        if TRAINING & set(needs_of([part])) and (why := _no_training_set(attack)):
            return f"{why}: {part.name} would have no training set to act on"
    reasons = (_reason_of(part, victim.task, victim.model, site.model) for part in parts)
    return next((reason for reason in reasons if reason), None)


def _no_training_set(attack: Attack) -> str | None:
    """Why the defender has no poisoned training set, or None."""
    if isinstance(attack, MadeElsewhere):
        return "the victim was made elsewhere"
    if not attack.by_data_alone:
        return "the attack changes weights, not training rows alone"
    return "the user fine-tunes a model that came poisoned, on clean rows" if attack.then_rows else None


def _takes_training(part: PluginSpec) -> bool:
    """Whether it may be given the training set, or control of the training. Asked of a plugin of any version."""
    plugin = DEFENSES.get(part.name)
    return bool(TRAINING & (plugin.needs | plugin.engine_needs))


@lru_cache(maxsize=4096)  # the same for every victim
def _reason_of(part: Defense, task: str, model: ModelSpec, folder: Path) -> str | None:
    """`model` is the one that lies in `folder`: after another has taken its place there, the plugin is asked anew."""
    with fenced(f"'{part.name}'", seed=0):
        reason, asked = part.skip(task), "skip"
        if reason is None and not part.unchanged:
            reason, asked = part.unfit(classifier_skeleton(folder, len(TASKS.get(task).label_names))), "unfit"
    if reason is not None and not (isinstance(reason, str) and reason.strip()):
        raise TypeError(f"'{part.name}'.{asked}() returned {reason!r}; it returns None, or why it is skipped")
    return reason


def failed_record(spec: CellSpec, error: str, site: Site, typed: dict[str, Any] | None = None) -> Record:
    """The record of a cell that ended in an exception; `error` is its traceback."""
    record = Record(spec, "failed", error, typed=typed, env=environment(site))
    try:
        parts = parts_of(spec)
        return replace(record, needs=needs_of(parts), kind=parts[-1].kind)
    except Exception:  # the plugin cannot be had here, which may be why the cell failed, and the record says so already
        return record


def _seeds(spec: CellSpec) -> list[int]:
    """Those of the components of a cell's defense."""
    return component_seeds([part.name for part in spec.defense], spec.victim.seed, spec.victim.task)


def _checked_mask(kept: object, rows: int, name: str) -> npt.NDArray[np.bool_]:
    """Which rows a filter keeps. Raises TypeError or ValueError unless it says so of each row, and keeps some."""
    mask = np.asarray(kept)
    if mask.dtype != bool:
        raise TypeError(f"'{name}'.keep() returned {mask.dtype} values; it returns (n,) bool, True for a row that is kept")
    if mask.shape != (rows,):
        raise ValueError(f"'{name}' got {rows} rows and returned a mask of shape {mask.shape}; it returns one for each row")
    if not mask.any():
        raise ValueError(f"'{name}' keeps none of the {rows} training rows; there is nothing to train on")
    return mask
