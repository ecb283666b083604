"""Two runs, cell by cell: what differs between their specs, by how much their rates differ, and whether by more than chance.

A cell of one run is compared with the one of the other that has the same task, attack, defense and seed, and the same value in
every field in which cells of one run differ that have these four in common. So cells of equal keys always find each other.

Chance is that of the test rows: on each pair McNemar's exact test asks whether the rows that only one of the two gets right (of
the triggered rows: sends to the target) are more than those that only the other does. So both must have been tested on the same
rows. All tests of a comparison are corrected for their number (Holm). What another seed would give, no such test can say.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bdbench.analysis.intervals import CONFIDENCE, holm, mcnemar
from bdbench.analysis.labels import DIGEST_DIGITS
from bdbench.analysis.verification import sound_predictions
from bdbench.goals import goals
from bdbench.params import Value
from bdbench.specs.metrics import Metric
from bdbench.specs.predictions import counted_classes
from bdbench.specs.records import Predictions, Record
from bdbench.specs.saved import SavedRun
from bdbench.specs.work import CellSpec, component_names

ROWS_OF = {"cacc": "clean", "asr": "triggered"}  # the rows that each compared metric is of
NOT_IN_KEY = "victim.model.name"
NO_PREDICTIONS, OTHER_GOLD = "no predictions", "other gold labels"  # why there is no test
DIGEST = re.compile(r"[0-9a-f]{64}")

Change = tuple[str, Value, Value]  # the path of a field, its value in the first run and in the second


@dataclass(frozen=True)
class MetricPair:
    """A metric of a cell in both runs, None where it has none there, and the test of their difference.

    `discordant` are the rows that count in the first run alone and in the second alone. With `untested`, the reason, there is
    no test.
    """

    first: Metric | None
    second: Metric | None
    discordant: tuple[int, int] | None = None
    untested: str | None = None
    adjusted_p: float | None = None

    @property
    def p(self) -> float | None:
        """The p-value by itself; None without a test."""
        return None if self.discordant is None else mcnemar(*self.discordant)

    @property
    def is_beyond_noise(self) -> bool:
        """Whether chance, in any of the comparison's tests, would give such a difference in fewer than 5 % of cases."""
        return self.adjusted_p is not None and self.adjusted_p < 1 - CONFIDENCE

    @property
    def is_equal(self) -> bool:
        """Whether the shares are the same and, as far as is known, the rows."""
        shares = [None if metric is None else metric.share for metric in (self.first, self.second)]
        return shares[0] == shares[1] and self.discordant in (None, (0, 0)) and self.untested != OTHER_GOLD


@dataclass(frozen=True)
class CellPair:
    """A cell in both runs: what of its spec differs, nothing where the key is the same, and its metrics by name."""

    first: Record
    second: Record
    changes: tuple[Change, ...]
    metrics: Mapping[str, MetricPair]

    @property
    def is_equal(self) -> bool:
        """Whether it ended in the same way, with equal numbers."""
        return self.first.status == self.second.status and all(pair.is_equal for pair in self.metrics.values())

    @property
    def is_on_other_bits(self) -> bool:
        """Whether the two stood on victims of other bits, though by their specs it is the same victim."""
        first, second = self.first, self.second
        is_same = first.spec.victim.key() == second.spec.victim.key()
        return is_same and None not in (first.victim, second.victim) and first.victim != second.victim


@dataclass(frozen=True)
class Comparison:
    """The cells in both runs, in the order of the first, and those in one alone."""

    pairs: tuple[CellPair, ...]
    first_alone: tuple[Record, ...]
    second_alone: tuple[Record, ...]

    @property
    def tests(self) -> int:
        """How many p-values are corrected together."""
        return sum(metric.p is not None for pair in self.pairs for metric in pair.metrics.values())


def compare(first: SavedRun, second: SavedRun) -> Comparison:
    """Pair the cells of two runs and test their differences."""
    files = _paired_files(first.records, second.records)
    predictions, others = sound_predictions(first), sound_predictions(second)
    pairs = []
    for file, other_file in files.items():
        record, other = first.records[file], second.records[other_file]
        of_pair = (predictions.get(file), others.get(other_file))
        metrics = {name: _metric_pair(name, record, other, *of_pair) for name in ROWS_OF}
        pairs.append(CellPair(record, other, changes(record.spec, other.spec), metrics))
    return Comparison(
        pairs=_corrected(pairs),
        first_alone=tuple(record for file, record in first.records.items() if file not in files),
        second_alone=tuple(record for file, record in second.records.items() if file not in files.values()),
    )


def spec_fields(spec: CellSpec) -> dict[str, Value]:
    """All fields of a spec by their path, those of a component by its name: `defense.fine-mixing.ratio`."""
    raw = asdict(spec)
    raw["defense"] = dict(zip(component_names(spec.defense), raw["defense"], strict=True))
    raw["peers"] = {str(number): peer for number, peer in enumerate(raw["peers"], start=1)}
    return {path.replace(".params.", "."): value for path, value in _leaves(raw).items()}


def changes(spec: CellSpec, other: CellSpec) -> tuple[Change, ...]:
    """The fields that differ, with None where a spec has no such field; digests are cut. Empty if the keys are equal."""
    if spec.key() == other.key():
        return ()
    fields, other_fields = spec_fields(spec), spec_fields(other)
    return tuple(
        (path, _short(fields.get(path)), _short(other_fields.get(path)))
        for path in dict.fromkeys((*fields, *other_fields))
        if fields.get(path) != other_fields.get(path)
    )


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    leaves: dict[str, Value] = {}
    for name, part in value.items():
        leaves |= _leaves(part, f"{prefix}{name}.") if isinstance(part, dict) else {f"{prefix}{name}": part}
    return leaves


def _short(value: Any) -> Any:
    is_digest = isinstance(value, str) and DIGEST.fullmatch(value)
    return f"{value[:DIGEST_DIGITS]}…" if is_digest else value


def _paired_files(records: Mapping[str, Record], others: Mapping[str, Record]) -> dict[str, str]:
    """The file of each record that has a counterpart in the other run, and the file of that one."""
    telling = _telling_paths([records, others])
    other_by_identity = {_identity(record.spec, telling): file for file, record in others.items()}
    identities = {file: _identity(record.spec, telling) for file, record in records.items()}
    return {file: other_by_identity[identity] for file, identity in identities.items() if identity in other_by_identity}


def _telling_paths(runs: Iterable[Mapping[str, Record]]) -> dict[Hashable, set[str]]:
    """By the names of a cell: the fields in which, within one of the runs, cells of these names differ."""
    telling: dict[Hashable, set[str]] = {}
    for records in runs:
        fields_by_names: dict[Hashable, list[dict[str, Value]]] = {}
        for record in records.values():
            fields_by_names.setdefault(_names(record.spec), []).append(spec_fields(record.spec))
        for names, fields in fields_by_names.items():
            paths = dict.fromkeys(path for of_cell in fields for path in of_cell if path != NOT_IN_KEY)
            differing = {path for path in paths if len({of_cell.get(path) for of_cell in fields}) > 1}
            telling.setdefault(names, set()).update(differing)
    return telling


def _names(spec: CellSpec) -> Hashable:
    return (spec.victim.task, spec.victim.attack.name, spec.defense_name, spec.victim.seed)


def _identity(spec: CellSpec, telling: Mapping[Hashable, set[str]]) -> Hashable:
    """The names of a cell, with the values of the fields that tell it from others of these names."""
    fields = spec_fields(spec)
    return _names(spec), tuple((path, fields.get(path)) for path in sorted(telling[_names(spec)]))


def _metric_pair(
    name: str, record: Record, other: Record, arrays: Predictions | None, other_arrays: Predictions | None
) -> MetricPair:
    """A metric of both cells, and the rows in which they differ. `arrays` are None where there are no sound ones."""
    pair = MetricPair((record.metrics or {}).get(name), (other.metrics or {}).get(name))
    if pair.first is None or pair.second is None:
        return pair
    rows = ROWS_OF[name]
    if rows not in (arrays or {}) or rows not in (other_arrays or {}):
        return replace(pair, untested=NO_PREDICTIONS)
    if not np.array_equal(arrays[f"{rows}_gold"], other_arrays[f"{rows}_gold"]):
        return replace(pair, untested=OTHER_GOLD)
    counts = _counting_rows(name, record.spec, arrays)
    other_counts = _counting_rows(name, other.spec, other_arrays)
    return replace(pair, discordant=(int((counts & ~other_counts).sum()), int((other_counts & ~counts).sum())))


def _counting_rows(name: str, spec: CellSpec, predictions: Predictions) -> npt.NDArray[np.bool_]:
    """Which rows, (n,), the metric counts: those that are right, or of the triggered ones those sent to the target."""
    classes = counted_classes(predictions, spec.frr)[ROWS_OF[name]]
    gold = predictions[f"{ROWS_OF[name]}_gold"]
    return classes == (gold if name == "cacc" else goals(gold, spec.victim.attack.params))


def _corrected(pairs: Iterable[CellPair]) -> tuple[CellPair, ...]:
    """The pairs with the p-values of all tests adjusted together."""
    pairs = list(pairs)
    tested = [metric.p for pair in pairs for metric in pair.metrics.values() if metric.p is not None]
    adjusted = iter(holm(tested))
    return tuple(
        replace(
            pair,
            metrics={
                name: metric if metric.p is None else replace(metric, adjusted_p=next(adjusted))
                for name, metric in pair.metrics.items()
            },
        )
        for pair in pairs
    )
