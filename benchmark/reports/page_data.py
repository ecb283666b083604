"""What the page knows of the cells, as JSON: columns of numbers for its tables, and what a cell shows when it is opened.

A page of 10,000 cells has to stay small and quick. So each text is there once and named by its place in a list, columns are
lists, and numbers are what is printed: in per cent with one decimal, as in the other reports. Detail is an object of its own,
which the page parses when a cell is opened first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import fmean
from typing import Any, Generic, TypeVar

from bdbench.analysis.bootstrap import Estimate
from bdbench.analysis.examples import ShownExample
from bdbench.analysis.figure_data import plane
from bdbench.analysis.labels import Label
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.printed import METRICS, percent, points
from bdbench.analysis.ranking import Ranking
from bdbench.analysis.short_names import short_names
from bdbench.analysis.summaries import Summary
from bdbench.registry import TASKS
from bdbench.reports.cell_page import SHARES, cell_sections, class_text, error_lines, in_order, interval_of
from bdbench.reports.ranking_page import titles
from bdbench.reports.words import one_line
from bdbench.specs.records import KINDS, STATUSES, Record

Json = Any  # what the JSON encoder takes
T = TypeVar("T", bound=Hashable)

RATES = ("cacc", "asr", "base", "floor", "frr")  # the columns of metrics
UNKNOWN = None  # in place of a class that no saved prediction says
NO_TRIGGER = "The attack has no trigger."
NOT_FINISHED = "The cell did not end well."
NONE_ON_RECORD = "The record holds no triggered texts: an older version wrote it, or they are very long."


class Interned(Generic[T]):
    """Values in the order in which they came, each once; of texts, one line each, unprintable characters as escapes."""

    def __init__(self) -> None:
        self._places: dict[T, int] = {}

    def place(self, value: T) -> int:
        return self._places.setdefault(value, len(self._places))

    def places(self, values: Iterable[T]) -> list[int]:
        return [self.place(value) for value in values]

    @property
    def values(self) -> list[Json]:
        return [one_line(value) if isinstance(value, str) else value for value in self._places]


def page_data(board: Leaderboard) -> dict[str, Json]:
    """What the tables, the filters and the figures are made of.

    `rows` has a place for each (task, attack, defense), with means over seeds; `cells` one for each seed of a row, those of a
    row together. A cell that a tuning chose may be in two rows.
    """
    summaries, records = board.summaries, _in_order(board)
    labels = {part: _distinct(getattr(summary, part) for summary in summaries) for part in ("task", "attack", "defense")}
    places = {part: {label: place for place, label in enumerate(of_part)} for part, of_part in labels.items()}
    needs = sorted({summary.needs for summary in summaries}, key=lambda names: (len(names), names))
    resources = sorted({name for names in needs for name in names})
    record_places = {record.key: place for place, record in enumerate(records)}
    cells = [(row, record) for row, summary in enumerate(summaries) for record in summary.records]
    return {
        "labels": {part: [_both_names(label) for label in of_part] for part, of_part in labels.items()},
        "kinds": list(KINDS),
        "statuses": list(STATUSES),
        "resources": [one_line(name) for name in resources],
        "needs": [[resources.index(name) for name in names] for names in needs],
        "rows": {
            **{part: [places[part][getattr(summary, part)] for summary in summaries] for part in labels},
            "kind": [KINDS.index(summary.kind) for summary in summaries],
            "needs": [needs.index(summary.needs) for summary in summaries],
            **{status: [summary.count(status) for summary in summaries] for status in STATUSES},
            **{name: [_percent(summary.mean(name)) for summary in summaries] for name in RATES},
            **{f"{name}_std": [_percent(summary.std(name)) for summary in summaries] for name in METRICS},
            "added": [_points(summary.mean("asr"), summary.mean("base")) for summary in summaries],
            "seconds": [_mean_seconds(summary) for summary in summaries],
        },
        "cells": {
            "row": [row for row, _ in cells],
            "record": [record_places[record.key] for _, record in cells],
            "seed": [record.spec.victim.seed for _, record in cells],
            "status": [STATUSES.index(record.status) for _, record in cells],
            **{name: [_percent(_rate(record, name)) for _, record in cells] for name in RATES},
            "added": [_points(_rate(record, "asr"), _rate(record, "base")) for _, record in cells],
            "seconds": [_seconds(record.own_seconds) for _, record in cells],
        },
        "keys": [record.key for record in records],
        "planes": [_plane(ranking, title) for ranking, title in zip(board.rankings, titles(board.rankings), strict=True)],
    }


def page_details(board: Leaderboard) -> dict[str, Json]:
    """What is shown of each record when it is opened, in the order of `keys`; lists of places in `texts`, `rows`, ...

    A record is [metrics, error, examples, why there is no example, [section, lines] ...]. A metric is [name, per cent, hits,
    rows, interval or nothing]; an example [row, class after, purified texts or nothing], a row [texts, gold class, class
    before]. Classes are texts; null where no prediction says it.
    """
    texts: Interned[str] = Interned()
    sections: Interned[str] = Interned()
    metric_names: Interned[str] = Interned()
    rows: Interned[tuple[Hashable, ...]] = Interned()
    class_names = {task: TASKS.label_names(task) for task in {record.spec.victim.task for record in board.records}}

    def example(shown: ShownExample, names: Sequence[str]) -> list[Json]:
        def class_of(number: int | None) -> int | None:
            return UNKNOWN if number is None else texts.place(class_text(number, names))

        row = rows.place((tuple(texts.places(shown.example.texts)), class_of(shown.gold), class_of(shown.before)))
        purified = shown.example.purified
        return [row, class_of(shown.after)] + ([] if purified is None else [texts.places(purified)])

    def detail(record: Record) -> list[Json]:
        metrics = record.metrics or {}
        return [
            [[metric_names.place(name), *_metric(name, record)] for name in in_order(metrics)],
            texts.places(error_lines(record)),
            [example(shown, class_names[record.spec.victim.task]) for shown in board.examples[record.key]],
            "" if record.examples else _why_no_example(record),
            *([sections.place(title), *texts.places(lines)] for title, lines in cell_sections(record).items() if lines),
        ]

    details = [detail(record) for record in _in_order(board)]
    return {
        "texts": texts.values,
        "sections": sections.values,
        "metrics": [[name, SHARES.get(name, "")] for name in metric_names.values],
        "rows": rows.values,
        "records": details,
    }


def _in_order(board: Leaderboard) -> list[Record]:
    return sorted(board.records, key=lambda record: record.key)


def _distinct(labels: Iterable[Label]) -> list[Label]:
    return sorted(set(labels), key=lambda label: label.rank)


def _both_names(label: Label) -> list[str]:
    """For people, and as on a command line."""
    return [one_line(str(label)), one_line(label.typed)]


def _plane(ranking: Ranking, title: str) -> Json:
    """The points of CACC against ASR, [value, low, high] in per cent each (value alone: no interval), and the Pareto front."""
    shown = plane(ranking)
    names = short_names([place.defense for place in shown.places if place is not ranking.undefended])
    return {
        "title": one_line(title),
        "tolerated": _percent(shown.tolerated),
        "tolerance": f"{100 * ranking.rules.tolerance:g}",
        "base": _percent(shown.base),
        "points": [
            {
                "name": "undefended" if place is ranking.undefended else one_line(names.of(str(place.defense))),
                "kind": "" if place is ranking.undefended else place.kind,
                "rank": place.printed_rank,
                "unranked": place.unranked,
                "cacc": _estimate(place.estimates["cacc"]),
                "asr": _estimate(place.estimates["asr"]),
            }
            for place in shown.places
        ],
        "front": [[_percent(cacc), _percent(asr)] for cacc, asr in shown.front],
    }


def _estimate(estimate: Estimate) -> list[float]:
    if estimate.low is None or estimate.high is None:
        return [_percent(estimate.value)]
    return [_percent(estimate.value), _percent(estimate.low), _percent(estimate.high)]


def _rate(record: Record, name: str) -> float | None:
    metrics = record.metrics or {}
    return metrics[name].value if name in metrics else None


def _percent(fraction: float | None) -> float | None:
    """The number that is printed, which is what a page sorts by."""
    return None if fraction is None else _number(fraction, percent)


def _points(fraction: float | None, less: float | None) -> float | None:
    return None if fraction is None or less is None else _number(fraction - less, points)


def _number(fraction: float, printed: Callable[[float], str]) -> float:
    return float(printed(fraction)) + 0.0  # of -0.0 it makes 0.0


def _seconds(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(seconds, 1)


def _mean_seconds(summary: Summary) -> float | None:
    known = [record.own_seconds for record in summary.records if record.status == "ok"]
    return _seconds(fmean(known)) if known else None


def _metric(name: str, record: Record) -> list[Json]:
    metric = (record.metrics or {})[name]
    interval = interval_of(name, metric)
    return [_percent(metric.value), metric.hits, metric.n, *(map(_percent, interval) if interval else ())]


def _why_no_example(record: Record) -> str:
    if record.status != "ok":
        return NOT_FINISHED
    return NONE_ON_RECORD if "asr" in (record.metrics or {}) else NO_TRIGGER
