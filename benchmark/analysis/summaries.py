"""The cells of one (task, attack, defense) over its seeds.

Nothing else is averaged here: what differs in more than the seed has another label (`bdbench.analysis.labels`).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench.analysis.labels import CellLabels, Label, label_cells
from bdbench.specs.metrics import Metric
from bdbench.specs.records import KINDS, Record
from bdbench.specs.tuned import Tuned

if TYPE_CHECKING:
    from bdbench.analysis.bootstrap import Block
    from bdbench.specs.work import VictimSpec


@dataclass(frozen=True)
class Summary:
    """The cells of one (task, attack, defense) over its seeds, in the order of the seeds."""

    labels: CellLabels
    records: tuple[Record, ...]

    @property
    def task(self) -> Label:
        return self.labels.task

    @property
    def attack(self) -> Label:
        return self.labels.attack

    @property
    def defense(self) -> Label:
        return self.labels.defense

    @property
    def model(self) -> str:
        """The name that the model goes by in the whole directory."""
        return self.labels.model

    @property
    def needs(self) -> tuple[str, ...]:
        """What the defense asked to be given, sorted."""
        return longest_needs(tuple(sorted(record.needs)) for record in self.records)

    @property
    def kind(self) -> str:
        """The kind of the defense: a cell that failed early may not have recorded it, and says repair."""
        return max((record.kind for record in self.records), key=KINDS.index)

    def count(self, status: str) -> int:
        """The number of cells of this status."""
        return sum(record.status == status for record in self.records)

    def values(self, metric: str) -> list[float]:
        """The fractions in [0, 1] of the seeds that finished; empty where the attack has no trigger."""
        return [fraction.value for fraction in self._fractions(metric)]

    def mean(self, metric: str) -> float | None:
        """The mean over the seeds that finished, in [0, 1]; None without any."""
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def std(self, metric: str) -> float | None:
        """Sample standard deviation over seeds (ddof = 1); None with fewer than two."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def denominator(self, metric: str) -> int | None:
        """The rows that one seed's fraction is of; the fewest where seeds differ."""
        return min((fraction.n for fraction in self._fractions(metric)), default=None)

    def _fractions(self, metric: str) -> list[Metric]:
        return [record.metrics[metric] for record in self.records if metric in (record.metrics or {})]


def summarize(records: Iterable[Record], tunings: Iterable[Tuned] = ()) -> list[Summary]:
    """Cells grouped over seeds and labeled, in the order of the tables, whatever the order of `records`.

    A cell that one of the folder's tunings chose is in the summary of the tuned defense. Raises ValueError if a cell occurs
    twice.
    """
    by_seed = sorted(records, key=lambda record: (record.spec.victim.seed, record.key))
    records_by_labels: dict[CellLabels, list[Record]] = {}
    for labels_of_cell, record in zip(label_cells([record.spec for record in by_seed], tunings), by_seed, strict=True):
        for labels in labels_of_cell:
            of_labels = records_by_labels.setdefault(labels, [])
            if any(other.spec.victim.seed == record.spec.victim.seed for other in of_labels):
                raise ValueError(f"two records of the same cell: {record.spec.label()}")
            of_labels.append(record)
    in_order = sorted(records_by_labels, key=lambda labels: labels.rank)
    return [Summary(labels, tuple(records_by_labels[labels])) for labels in in_order]


def by_setting(summaries: Iterable[Summary]) -> dict[Label, list[Summary]]:
    """The summaries of each setting, the settings in the order of the tables."""
    summaries_by_setting: dict[Label, list[Summary]] = {}
    for summary in summaries:
        summaries_by_setting.setdefault(summary.labels.setting, []).append(summary)
    return dict(sorted(summaries_by_setting.items(), key=lambda of_setting: of_setting[0].rank))


def seeds_by_task(victims: Iterable[VictimSpec | Block]) -> dict[str, set[int]]:
    """The seeds of the victims of each task."""
    seeds: dict[str, set[int]] = {}
    for victim in victims:
        seeds.setdefault(victim.task, set()).add(victim.seed)
    return seeds


def cell_names(summaries: Iterable[Summary]) -> dict[str, str]:
    """For people: the key of every cell to task / attack / defense / seed, labeled as in the first of its rows."""
    names: dict[str, str] = {}
    for summary in summaries:
        for record in summary.records:
            names.setdefault(record.key, f"{summary.labels} / seed {record.spec.victim.seed}")
    return names


def longest_needs(recorded: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """What a defense needs, of what its cells say: a cell that failed early may not have recorded it."""
    return max(recorded, key=lambda needs: (len(needs), needs))
