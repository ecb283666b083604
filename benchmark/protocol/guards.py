"""Defenses at the input of a classifier: what a detector rejects, and what a purifier rewrites."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from bdbench.data import TextSet, join_rows
from bdbench.defenses.base import Detector, Purifier
from bdbench.fence import fenced
from bdbench.protocol.contexts import Context, DefenseContext
from bdbench.specs.metrics import Metric, rejection_threshold
from bdbench.specs.predictions import metrics_of
from bdbench.specs.records import CLASS_TYPE, Predictions
from bdbench.specs.work import VictimSpec

# Beside the stated rate: what every detector would do at the rates that papers report.
FALSE_REJECTION_RATES = (0.005, 0.01, 0.03, 0.05, 0.10)


@dataclass(frozen=True, eq=False)
class Judged:
    """The rows that a guarded classifier is scored on, by name: "clean" test rows and, with a trigger, "triggered" ones."""

    rows_by_name: Mapping[str, TextSet]

    @classmethod
    def of(cls, test: TextSet, triggered: TextSet | None) -> Judged:
        return cls({name: rows for name, rows in (("clean", test), ("triggered", triggered)) if rows is not None})

    def mixed(self, seed: int) -> tuple[TextSet, npt.NDArray[np.int64]]:
        """All rows without labels in one random order, which says nothing of which come with a trigger; and that order."""
        joined = join_rows(list(self.rows_by_name.values())).without_labels()
        order = np.random.default_rng(seed).permutation(len(joined))
        return joined.take(order), order

    def parted(self, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """(n,) values of all rows, by name."""
        parts = {}
        for name, rows in self.rows_by_name.items():
            parts[name], values = values[: len(rows)], values[len(rows) :]
        return parts


@dataclass(eq=False)
class Guarded:
    """What came of a guarded classifier.

    `slowdown` is how many times as long as without the guard a text took, and `predicted_rows` are those that the guard had
    classified, and the repairs before it. `purified` holds the triggered rows as a purifier left them, if it is one.
    """

    predictions: Predictions
    metrics: dict[str, Metric]
    notes: dict[str, Any]
    slowdown: float
    predicted_rows: int
    purified: TextSet | None = None


def detect(
    part: Detector,
    name: str,
    model: nn.Module,
    judged: Judged,
    validation: TextSet,
    spec: VictimSpec,
    frr: float,
    ctx: DefenseContext,
    seed: int,
) -> Guarded:
    """Classify and score all rows. The predictions keep the scores, so that any other threshold can be tried on them."""
    state = ctx.generator.get_state()

    def scores(rows: TextSet) -> npt.NDArray[np.float64]:
        ctx.generator.set_state(state)  # how suspicious a row is hangs on no rows that were scored before
        with fenced(f"'{name}'", seed):
            return checked_scores(part.score(model, rows, ctx), len(rows), name)

    began = time.perf_counter()
    mixed, order = judged.mixed(seed)
    of_validation, of_mixed = scores(validation.without_labels()), scores(mixed)
    seconds, predicted_rows = time.perf_counter() - began + ctx.trace.saved_seconds, ctx.trace.predicted_rows
    predictions, bare_seconds = _classified(model, judged, judged.rows_by_name, ctx)
    of_judged = np.empty(len(order))
    of_judged[order] = of_mixed
    predictions |= {f"{rows}_scores": part for rows, part in judged.parted(of_judged).items()}
    predictions["validation_scores"] = of_validation
    rates = {f"{rate:g}": _values(metrics_of(predictions, spec, rate)) for rate in FALSE_REJECTION_RATES}
    notes = {"threshold": rejection_threshold(of_validation, frr), "at_frr": rates}
    slowdown = 1 + seconds / (len(validation) + len(mixed)) / (bare_seconds / len(mixed))
    return Guarded(predictions, metrics_of(predictions, spec, frr), notes, slowdown, predicted_rows)


def purify(
    part: Purifier, name: str, model: nn.Module, judged: Judged, spec: VictimSpec, ctx: DefenseContext, seed: int
) -> Guarded:
    """Classify what the purifier makes of the rows."""
    began = time.perf_counter()
    mixed, order = judged.mixed(seed)
    with fenced(f"'{name}'", seed):
        purified = checked_rows(part.purify(mixed, ctx), mixed, name)
    seconds, predicted_rows = time.perf_counter() - began + ctx.trace.saved_seconds, ctx.trace.predicted_rows
    in_order = purified.take(np.argsort(order))
    rows_by_name, counts, first = {}, {}, 0
    for rows_name, rows in judged.rows_by_name.items():
        rows_by_name[rows_name] = in_order.take(range(first, first + len(rows))).with_labels(rows.labels)
        first += len(rows)
        counts[rows_name] = {
            "changed": sum(one != other for one, other in zip(rows.texts, rows_by_name[rows_name].texts, strict=True)),
            "emptied": sum(not "".join(texts).strip() for texts in rows_by_name[rows_name].texts),
        }
    predictions, bare_seconds = _classified(model, judged, rows_by_name, ctx)
    slowdown = 1 + seconds / bare_seconds
    metrics, triggered = metrics_of(predictions, spec), rows_by_name.get("triggered")
    return Guarded(predictions, metrics, {"rows": counts}, slowdown, predicted_rows, triggered)


def checked_scores(scores: object, rows: int, name: str) -> npt.NDArray[np.float64]:
    """The scores of a detector as float64, (n,). Raises TypeError or ValueError unless there is a finite one for each row."""
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"'{name}'.score() returned {type(scores).__name__}; it returns (n,) numbers") from error
    if values.shape != (rows,):
        raise ValueError(f"'{name}' got {rows} rows and returned scores of shape {values.shape}; it returns one for each row")
    if not np.isfinite(values).all():
        raise ValueError(f"'{name}' returned scores that are NaN or infinite, for {int((~np.isfinite(values)).sum())} rows")
    return values


def checked_rows(purified: object, rows: TextSet, name: str) -> TextSet:
    """What a purifier returned. Raises TypeError or ValueError unless it has as many rows, pairs where they were pairs."""
    if not isinstance(purified, TextSet):
        raise TypeError(f"'{name}'.purify() returned {type(purified).__name__}; it returns the rows")
    if len(purified) != len(rows):
        raise ValueError(f"'{name}' got {len(rows)} rows and returned {len(purified)}; it returns all, in the same order")
    if (purified.second is None) != (rows.second is None):
        raise ValueError(f"'{name}' made pairs of single texts, or the reverse; a pair stays a pair")
    return purified


def _classified(
    model: nn.Module, judged: Judged, rows_by_name: Mapping[str, TextSet], ctx: Context
) -> tuple[Predictions, float]:
    """The classes of all rows beside the gold ones, and the seconds that it took."""
    began = time.perf_counter()
    classes = ctx.classify(model, join_rows(list(rows_by_name.values()))).astype(CLASS_TYPE)
    seconds = time.perf_counter() - began
    gold = {f"{name}_gold": rows.labels.astype(CLASS_TYPE) for name, rows in rows_by_name.items()}
    return {**judged.parted(classes), **gold}, seconds


def _values(metrics: Mapping[str, Metric]) -> dict[str, float]:
    return {name: metric.value for name, metric in metrics.items() if name not in ("majority", "auroc")}
