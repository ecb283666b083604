"""What a leaderboard shows beside CACC and ASR: what detectors tell apart, purifiers change and filters find, and all costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bdbench.analysis.labels import Label
from bdbench.analysis.summaries import Summary
from bdbench.specs.records import Record
from bdbench.specs.work import component_names


@dataclass(frozen=True)
class DetectionRow:
    """Means over seeds, fractions in [0, 1]; FAR and AUROC are None where the attack has no trigger."""

    task: Label
    attack: Label
    defense: Label
    stated_frr: float
    frr: float
    far: float | None
    auroc: float | None


@dataclass(frozen=True)
class PurifierRow:
    """Over seeds, shares of the clean test rows and of the triggered ones (None: the attack has no trigger)."""

    task: Label
    attack: Label
    defense: Label
    clean_changed: float
    triggered_changed: float | None
    clean_emptied: float
    triggered_emptied: float | None


@dataclass(frozen=True)
class FilterRow:
    """Over seeds: the share of the rows that was dropped, and of these the share that was poisoned (None: none was dropped);
    and of the poisoned rows the share that was dropped (None: none was poisoned)."""

    task: Label
    attack: Label
    defense: Label
    dropped: float
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class CostRow:
    """Means over `cells`, of a victim each: seconds, rows trained on, rows predicted, slowdown of a guard (else None).

    `seconds` is NaN where some are not on record.
    `clean_rows` and `validation_rows` are the labelled rows that it sees, `peak_memory_mb` the most that a process took.
    """

    defense: Label
    kind: str
    cells: int
    seconds: float
    trained_rows: float
    predicted_rows: float
    slowdown: float | None
    clean_rows: int
    validation_rows: int
    peak_memory_mb: int


def detection_rows(summaries: Iterable[Summary]) -> list[DetectionRow]:
    """A row for every task, attack and detector with a cell that ended well."""
    return [
        DetectionRow(
            summary.task,
            summary.attack,
            summary.defense,
            summary.records[0].spec.frr,
            summary.mean("frr"),
            summary.mean("far"),
            summary.mean("auroc"),
        )
        for summary in summaries
        if summary.kind == "detector" and summary.values("frr")
    ]


def purifier_rows(summaries: Iterable[Summary]) -> list[PurifierRow]:
    """A row for every task, attack and purifier with a cell that ended well."""
    return [
        PurifierRow(
            summary.task,
            summary.attack,
            summary.defense,
            *(
                _mean([share for record in summary.records for share in _purified_shares(record, rows, what)])
                for what in ("changed", "emptied")
                for rows in ("clean", "triggered")
            ),
        )
        for summary in summaries
        if summary.kind == "purifier" and summary.values("cacc")
    ]


def filter_rows(summaries: Iterable[Summary]) -> list[FilterRow]:
    """A row for every task, attack and filter with a cell that ended well."""
    rows = []
    for summary in summaries:
        notes = [counts for record in summary.records if (counts := _last_notes(record))]
        if summary.kind == "filter" and notes:
            rows.append(
                FilterRow(
                    summary.task,
                    summary.attack,
                    summary.defense,
                    fmean(counts["dropped"] / counts["rows"] for counts in notes),
                    _mean([counts["precision"] for counts in notes if "precision" in counts]),
                    _mean([counts["recall"] for counts in notes if "recall" in counts]),
                )
            )
    return rows


def cells_without_cost(summaries: Iterable[Summary]) -> int:
    """How many cells of defenses that ended well do not say what they cost: those of older versions of bdbench."""
    defended = [summary for summary in summaries if not summary.defense.is_undefended]
    return sum(record.status == "ok" and not record.cost for summary in defended for record in summary.records)


def cost_rows(summaries: Sequence[Summary], kinds: Mapping[Label, str]) -> list[CostRow]:
    """Of one setting a row for every defense whose cells say what they cost, in the order of `kinds`."""
    rows = []
    for defense, kind in kinds.items():
        records = [record for summary in summaries if summary.defense == defense for record in summary.records if record.cost]
        if records:
            specs, costs = [record.spec for record in records], [record.cost for record in records]
            rows.append(
                CostRow(
                    defense,
                    kind,
                    len(records),
                    fmean(record.own_seconds for record in records),
                    fmean(cost["trained_rows"] for cost in costs),
                    fmean(cost["predicted_rows"] for cost in costs),
                    _mean([cost["slowdown"] for cost in costs if "slowdown" in cost]),
                    max(spec.clean_rows for spec in specs),
                    max(spec.validation_rows for spec in specs),
                    max(record.env.get("peak_memory_mb", 0) for record in records),
                )
            )
    return rows


def _purified_shares(record: Record, rows: str, what: str) -> list[float]:
    """The share of the "clean" or "triggered" rows that a purifier has "changed" or "emptied"; none where there is none."""
    counts = _last_notes(record).get("rows", {}).get(rows)
    return [] if counts is None else [counts[what] / record.metrics[{"clean": "cacc", "triggered": "asr"}[rows]].n]


def _last_notes(record: Record) -> dict[str, Any]:
    """What the engine noted of the last component of a cell that ended well."""
    return (record.notes or {}).get(component_names(record.spec.defense)[-1], {}) if record.status == "ok" else {}


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
