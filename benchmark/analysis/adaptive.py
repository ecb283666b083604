"""Adaptive attacks, made to get past some defenses: which they are, and what the worst of them does to a defense."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import TypeVar

from bdbench.analysis.bootstrap import Block, Draws, Estimate, worst_attack
from bdbench.analysis.labels import Label
from bdbench.analysis.paired import Cells, Paired, of_cells, seed_deviation
from bdbench.analysis.printed import percent
from bdbench.analysis.standing import ASR_ABOVE
from bdbench.analysis.summaries import Summary
from bdbench.specs.records import Record

A = TypeVar("A", str, Label)  # what an attack goes by


@dataclass(frozen=True)
class AdaptiveCase:
    """What the adaptive attacks do to one defense: the attack of the highest mean ASR, and that ASR, in [0, 1].

    `deviation` is over seeds, None unless two seeds or more have the same victims.
    """

    attack: str
    asr: Estimate
    deviation: float | None


def adaptive_attacks(summaries: Iterable[Summary]) -> dict[Label, tuple[str, ...]]:
    """The adaptive attacks, each with the names of the defenses that it was made to get past, in the order of the tables."""
    against = {summary.attack: defenses for summary in summaries if (defenses := attacked_defenses(summary))}
    return {attack: against[attack] for attack in sorted(against, key=lambda label: label.rank)}


def attacked_defenses(summary: Summary) -> tuple[str, ...]:
    """The names of the defenses that the attack was made to get past; none if it is not adaptive, or the records are older."""
    return next((record.attack.against for record in summary.records if record.attack and record.attack.against), ())


def adaptive_case(cells: Cells, paired: Paired) -> AdaptiveCase | None:
    """What the adaptive attacks do to a defense with these cells under them, which all ended well; None without any."""
    if not cells:
        return None
    attack = worst_attack(tuple(cells), [cell.metrics["asr"].value for cell in cells.values()])
    estimate = paired.estimate(cells, "asr", Draws.worst) or Estimate(of_cells(cells, "asr", Draws.worst))
    return AdaptiveCase(attack, estimate, seed_deviation(cells, "asr", Draws.worst))


def breaking_attacks(adaptive: Cells, ordinary: Cells) -> tuple[str, ...]:
    """The adaptive attacks that break a defense with these cells under adaptive and under other attacks; worst first.

    Such an attack's ASR is higher by ASR_ABOVE, as printed, than the base rate, and than that of the attack which does worst to
    the defense on the same tasks and seeds: where that one leaves as much, the defense had nothing left to break.
    """
    asr_by_attack = {}
    others = _by_attack(ordinary)
    for attack, own in _by_attack(adaptive).items():
        other, places = worst_counterpart(own, others)
        if other is not None:
            shared, of_other = ({place: of[place] for place in places} for of in (own, others[other]))
            asr = of_cells(shared, "asr")
            bounds = (of_cells(shared, "base"), of_cells(of_other, "asr"))
            if all(Fraction(percent(asr)) - Fraction(percent(bound)) >= 100 * ASR_ABOVE for bound in bounds):
                asr_by_attack[attack] = asr
    return tuple(sorted(asr_by_attack, key=lambda attack: (-asr_by_attack[attack], attack)))


def worst_counterpart(places: Iterable[Block], cells_by_attack: Mapping[A, Cells]) -> tuple[A | None, list[Block]]:
    """Of several attacks on one defense the one of the highest mean ASR on these places (`place_of`), and on which of them.

    Only attacks that cover as many of the places as any attack does are asked; of equal ones it is the first. None and no place
    where none covers any.
    """
    places = list(places)
    covered = {attack: [place for place in places if place in cells] for attack, cells in cells_by_attack.items()}
    most = max(map(len, covered.values()), default=0)
    asr_by_attack = {
        attack: fmean(cells_by_attack[attack][place].metrics["asr"].value for place in shared)
        for attack, shared in covered.items()
        if shared and len(shared) == most
    }
    worst = max(asr_by_attack, key=lambda attack: asr_by_attack[attack], default=None)
    return (None, []) if worst is None else (worst, covered[worst])


def place_of(task: str, seed: int) -> Block:
    """A task and seed as a block without an attack: two attacks are compared on the same test rows."""
    return Block(task, "", seed)


def _by_attack(cells: Cells) -> dict[str, dict[Block, Record]]:
    """The cells of each attack by their places."""
    cells_by_attack: dict[str, dict[Block, Record]] = {}
    for block, cell in cells.items():
        cells_by_attack.setdefault(block.attack, {})[place_of(block.task, block.seed)] = cell
    return cells_by_attack
