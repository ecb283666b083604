"""From a victim to a record: apply the defense, score the result. One process, no Ray, no file written, no terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from bdbench.defenses.base import ModelRepair
from bdbench.engine.classifiers import classifier_skeleton, pretrained_weights
from bdbench.engine.tokenizers import unchanged_tokenizer
from bdbench.engine.trace import Trace
from bdbench.fence import fenced
from bdbench.protocol.contexts import Context, DefenseContext, Lazy
from bdbench.protocol.environment import environment
from bdbench.protocol.plugins import needs_of, parts_of
from bdbench.protocol.rows import DefenderSets, Rows, rows_of, splits_of
from bdbench.protocol.scoring import evaluate, metrics_of
from bdbench.protocol.site import Site
from bdbench.protocol.victims import Victim, check_site, classifier, context_fields
from bdbench.registry import TASKS
from bdbench.seeds import derive
from bdbench.specs.checked import checked
from bdbench.specs.metrics import Metric
from bdbench.specs.records import Predictions, Record
from bdbench.specs.work import CellSpec, ModelSpec, VictimSpec, component_names


@dataclass(eq=False)
class Repaired:
    """What a defense left: the classifier, what its components noted, by name, and what its loops did.

    `looked` are the seconds in which the engine scored stages of it, which are not the defense's.
    """

    model: nn.Module
    notes: dict[str, Any] = field(default_factory=dict)
    trace: Trace = field(default_factory=Trace)
    looked: float = 0.0


def run_cell(
    spec: CellSpec, victim: Victim, site: Site, typed: dict[str, Any] | None = None
) -> tuple[Record, Predictions | None]:
    """Apply the defense to the victim and evaluate the result on the victim's own frozen texts.

    Returns the record of an "ok" cell and its predictions, or a "skipped" record and None. Raises what the defense raises
    (see `failed_record`), and ValueError if the code, the model, a plugin or the data here is not what `spec` names.
    """
    site.enter()
    parts = parts_of(spec)
    check_site(spec.victim, site)
    if victim.spec.key() != spec.victim.key():
        raise ValueError(f"the cell stands on the victim {spec.victim.key()}, but got the victim {victim.spec.key()}")
    if reason := _reason_to_skip(parts, spec.victim, site):
        env = environment(site) | {"victim": victim.env}
        return Record(spec, "skipped", reason, needs=needs_of(parts), typed=typed, victim=victim.digests, env=env), None
    splits_of(spec.victim, site)  # whether the data here is what the cell names
    if changes_nothing(spec):
        began = repair_ended = time.perf_counter()
        predictions, metrics = victim.predictions, metrics_of(victim.predictions, spec.victim)
        notes, trace = {}, Trace()
    else:
        rows = rows_of(spec.victim, site, DefenderSets(spec.clean_rows, spec.validation_rows, spec.even_classes))
        began = time.perf_counter()

        def stage_metrics(model: nn.Module) -> dict[str, Metric]:
            ctx = Context(**context_fields(spec.victim, site, seed=0))
            return evaluate(model, rows.test, victim.triggered, spec.victim, ctx)[1]

        with unchanged_tokenizer(site.model):
            repaired = apply_defense(spec, parts, victim, rows, site, stage_metrics)
        began += repaired.looked
        repair_ended = time.perf_counter()
        predictions, metrics = score(repaired, victim, rows, spec, site)
        notes, trace = repaired.notes, repaired.trace
    if "floor" in victim.metrics:
        metrics["floor"] = victim.metrics["floor"]
    record = Record(
        spec=spec,
        status="ok",
        metrics=metrics,
        needs=needs_of(parts),
        notes=notes,
        typed=typed,
        victim=victim.digests,
        seconds={
            "attack": victim.seconds["attack"],
            "defense": repair_ended - began,
            "evaluation": time.perf_counter() - repair_ended,
            **trace.seconds,
        },
        env=environment(site, trace) | {"victim": victim.env},
    )
    return record, predictions


def changes_nothing(spec: CellSpec) -> bool:
    """Whether the defense leaves the victim as it is: then the victim's own evaluation is the cell's."""
    return all(part.unchanged for part in parts_of(spec))


def apply_defense(
    spec: CellSpec,
    parts: list[ModelRepair],
    victim: Victim,
    rows: Rows,
    site: Site,
    stage_metrics: Callable[[nn.Module], dict[str, Metric]] | None = None,
) -> Repaired:
    """The components one after another, each on what the one before it left, each with its own context.

    `stage_metrics` scores the models that a component shows on its way (`DefenseContext.observe`); the notes have them.
    """
    classes = len(TASKS.get(spec.victim.task).label_names)
    repaired = Repaired(classifier(spec.victim, site, victim.weights, shares=True))  # a repair leaves what it gets as it is
    for part, name, role in zip(parts, component_names(spec.defense), _roles(spec), strict=True):
        seed = derive(spec.victim.seed, "defense", spec.victim.task, *role)
        resources = {
            "clean": rows.clean,
            "validation": rows.validation,
            # each component has its own, which it may change
            "pretrained": Lazy(lambda: pretrained_weights(site.model, classes)),
        }
        stages: dict[str, dict[str, float]] = {}
        ctx = DefenseContext(
            **context_fields(spec.victim, site, seed),
            trace=repaired.trace,
            resources={resource: resources[resource] for resource in needs_of([part])},
            observer=None if stage_metrics is None else _observer(stage_metrics, stages, repaired),
        )
        with fenced(f"'{name}'", seed):
            repaired.model = _module(part.repair(repaired.model, ctx), name)
        if ctx.notes or stages:
            notes = _json_values(ctx.notes, part.name)
            repaired.notes[name] = {**notes, "stages": stages} if stages else notes
    return repaired


def _observer(
    stage_metrics: Callable[[nn.Module], dict[str, Metric]], stages: dict[str, dict[str, float]], repaired: Repaired
) -> Callable[[str, nn.Module], None]:
    """Puts into `stages`, by name, the metrics of a model, in [0, 1]."""

    def observe(stage: str, model: nn.Module) -> None:
        began = time.perf_counter()
        stages[stage] = {name: metric.value for name, metric in stage_metrics(model).items()}
        repaired.looked += time.perf_counter() - began

    return observe


def score(repaired: Repaired, victim: Victim, rows: Rows, spec: CellSpec, site: Site) -> tuple[Predictions, dict[str, Metric]]:
    """Evaluate a repaired classifier on the test rows and on the victim's triggered ones."""
    ctx = Context(**context_fields(spec.victim, site, seed=0), trace=repaired.trace)  # evaluation draws nothing
    with fenced(f"'{spec.defense_name}'", derive(spec.victim.seed, "evaluation")):  # a repaired model may be its own code
        return evaluate(repaired.model.eval(), rows.test, victim.triggered, spec.victim, ctx)


def _reason_to_skip(parts: list[ModelRepair], victim: VictimSpec, site: Site) -> str | None:
    """Why a component makes no sense on this task or with such a model. Raises TypeError for a reason that says nothing."""
    reasons = (_reason_of(part, victim.task, victim.model, site.model) for part in parts)
    return next((reason for reason in reasons if reason), None)


@lru_cache(maxsize=4096)  # the same for every victim
def _reason_of(part: ModelRepair, task: str, model: ModelSpec, folder: Path) -> str | None:
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
    return Record(spec, "failed", error, needs=_needs_if_known(spec), typed=typed, env=environment(site))


def _roles(spec: CellSpec) -> Iterator[tuple[str, ...]]:
    """What decides the randomness of each component: its name alone, so that fine-mixing draws the same mask with and without
    E-PUR before it. A component that comes twice draws anew the second time."""
    names: list[str] = []
    for part in spec.defense:
        names.append(part.name)
        times = names.count(part.name)
        yield (part.name,) if times == 1 else (part.name, str(times))


def _needs_if_known(spec: CellSpec) -> tuple[str, ...]:
    """What the defense asks for; nothing where its plugin cannot be had here, which may be why the cell failed."""
    try:
        return needs_of(parts_of(spec))
    except Exception:  # whatever a plugin raises, the cell has failed already, for a reason that the record gives
        return ()


def _module(result: object, name: str) -> nn.Module:
    """What the component called `name` returned. Raises TypeError if it is no model."""
    if not isinstance(result, nn.Module):
        raise TypeError(f"'{name}' returned {type(result).__name__}, not a model; its repair() returns the repaired classifier")
    return result


def _json_values(notes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The notes of the defense called `name`, as they come back from JSON. Raises TypeError where a record cannot hold them."""
    try:
        values = json.loads(json.dumps(notes, allow_nan=False, sort_keys=True))
        return checked(dict[str, Any], values)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"'{name}' puts into ctx.notes what JSON does not hold ({error}); note bool, int, finite float, str, list, dict"
        ) from error
