"""When an attack works: judged on each undefended victim alone, by counts of rows, never by how a defense did.

An attack works on a victim if, undefended, its ASR is at least 90 %, clearly above the base rate and clearly above the floor,
and if the clean accuracy is clearly above that of answering the most frequent label for everything. A classifier that answers
the target for everything has an ASR of 100 %, and no backdoor that a defense could remove.

Clearly above is a margin in points and, since few rows say little, a margin of chance: the 95 % intervals (Wilson, 1927) of the
two rates do not overlap. The majority rate of the test rows is no estimate and has no interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from bdbench.analysis.intervals import wilson_interval
from bdbench.analysis.labels import Label
from bdbench.analysis.methods import NO_DEFENSE
from bdbench.analysis.summaries import Summary
from bdbench.specs.metrics import Metric
from bdbench.specs.records import Record

# Below it, an attack leaves a defense too little to remove. Our own choice; the victims of results/paper-mini have 100 %.
ASR_FROM = Fraction(90, 100)
# What the trigger has to add. Fine-tuning on 64 clean rows, which removes no backdoor, moved the base rate of the
# victims of results/paper-mini by 3 to 11 points: a trigger that adds no more cannot be told from a classifier that drifted.
ASR_ABOVE = Fraction(20, 100)
# What a searched defense may cost by default (its `tolerance`): a victim no more than this above the majority rate may be
# "repaired" into a classifier that answers one label for everything.
CACC_ABOVE = Fraction(5, 100)


class Shortfall(Enum):
    """A condition that an undefended victim does not meet, in the order in which they are named."""

    ASR = f"ASR below {float(100 * ASR_FROM):g} %"
    BASE = "ASR not clearly above the base rate"
    FLOOR = "ASR not clearly above the floor"
    ACCURACY = "CACC not clearly above the majority rate"
    UNKNOWN = "no undefended victim"


@dataclass(frozen=True)
class Victim:
    """A victim with a trigger: its labels and seed, and the conditions that it does not meet.

    `undefended` is its cell without a defense, None if there is none that ended well.
    """

    task: Label
    attack: Label
    seed: int
    undefended: Record | None
    shortfalls: tuple[Shortfall, ...]

    @property
    def works(self) -> bool:
        """Whether the attack is known to work on it."""
        return not self.shortfalls


def victims(summaries: Iterable[Summary], excluded: Iterable[str] = ()) -> dict[str, Victim]:
    """The victims with a trigger of which a cell ended well, by their keys, in the order of the tables and seeds.

    Cells whose keys are in `excluded` are left aside.
    """
    excluded = frozenset(excluded)
    cells = [
        (summary, record, record.spec.victim.key())
        for summary in summaries
        for record in summary.records
        if record.status == "ok" and "asr" in (record.metrics or {}) and not (excluded and record.key in excluded)
    ]
    undefended = {key: record for _, record, key in cells if NO_DEFENSE.fits(record)}
    cells.sort(key=lambda cell: (cell[0].task.rank, cell[0].attack.rank, cell[1].spec.victim.seed))
    by_key: dict[str, Victim] = {}
    for summary, record, key in cells:
        if key not in by_key:
            own = undefended.get(key)
            found = (Shortfall.UNKNOWN,) if own is None else shortfalls(own.metrics or {})
            by_key[key] = Victim(summary.task, summary.attack, record.spec.victim.seed, own, found)
    return by_key


def shortfalls(metrics: Mapping[str, Metric]) -> tuple[Shortfall, ...]:
    """The conditions that these metrics of an undefended victim, "asr" and "cacc" among them, do not meet.

    A base rate or floor that is not on record, as in the first records of schema 1, is not judged.
    """
    asr, cacc = metrics["asr"], metrics["cacc"]
    unmet = {
        Shortfall.ASR: asr.share < ASR_FROM,
        Shortfall.BASE: "base" in metrics and not _clearly_above(asr, metrics["base"]),
        Shortfall.FLOOR: "floor" in metrics and not _clearly_above(asr, metrics["floor"]),
        Shortfall.ACCURACY: not _clearly_above_majority(cacc, majority_share(metrics)),
    }
    return tuple(shortfall for shortfall, is_unmet in unmet.items() if is_unmet)


def majority_share(metrics: Mapping[str, Metric]) -> Fraction:
    """The accuracy, in [0, 1], of answering the most frequent label of the test rows for everything.

    Older records do not hold it. They hold the share of the target class, since ASR is over the rows of the others. So it is
    the larger of the two shares with two classes; with more it is at most that, which is taken.
    """
    if "majority" in metrics:
        return metrics["majority"].share
    of_others = Fraction(metrics["asr"].n, metrics["cacc"].n)
    return max(of_others, 1 - of_others)


def _clearly_above(rate: Metric, other: Metric) -> bool:
    is_wide = rate.share - other.share >= ASR_ABOVE
    return is_wide and wilson_interval(rate.hits, rate.n)[0] > wilson_interval(other.hits, other.n)[1]


def _clearly_above_majority(cacc: Metric, majority: Fraction) -> bool:
    return cacc.share - majority >= CACC_ABOVE and wilson_interval(cacc.hits, cacc.n)[0] > majority
