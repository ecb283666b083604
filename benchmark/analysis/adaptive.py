"""Adaptive attacks, made to get past some defenses: which they are, and what the worst of them does to a defense."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from bdbench.analysis.bootstrap import Draws, Estimate, worst_attack
from bdbench.analysis.labels import Label
from bdbench.analysis.paired import Cells, Paired, of_cells, seed_deviation
from bdbench.analysis.printed import percent
from bdbench.analysis.standing import ASR_ABOVE
from bdbench.analysis.summaries import Summary


@dataclass(frozen=True)
class AdaptiveCase:
    """What the adaptive attacks do to one defense: the attack of the highest mean ASR, and that ASR, in [0, 1].

    `deviation` is over seeds, None unless two seeds or more have the same victims. `broken_by` are the attacks that break the
    defense, worst first.
    """

    attack: str
    asr: Estimate
    deviation: float | None
    broken_by: tuple[str, ...]


def adaptive_attacks(summaries: Iterable[Summary]) -> dict[Label, tuple[str, ...]]:
    """The adaptive attacks, each with the names of the defenses that it was made to get past, in the order of the tables."""
    against = {summary.attack: defenses for summary in summaries if (defenses := attacked_defenses(summary))}
    return {attack: against[attack] for attack in sorted(against, key=lambda label: label.rank)}


def attacked_defenses(summary: Summary) -> tuple[str, ...]:
    """The names of the defenses that the attack was made to get past; none if it is not adaptive, or the records are older."""
    return next((record.attack.against for record in summary.records if record.attack and record.attack.against), ())


def adaptive_case(cells: Cells, paired: Paired, worst: float | None) -> AdaptiveCase | None:
    """What the adaptive attacks do to a defense with these cells under them, which all ended well; None without any.

    `worst` is its ASR under the worst attack that is not adaptive, None where that is not known: then it is not said to be
    broken.
    """
    if not cells:
        return None
    attack = worst_attack(tuple(cells), [cell.metrics["asr"].value for cell in cells.values()])
    estimate = paired.estimate(cells, "asr", Draws.worst) or Estimate(of_cells(cells, "asr", Draws.worst))
    return AdaptiveCase(
        attack=attack,
        asr=estimate,
        deviation=seed_deviation(cells, "asr", Draws.worst),
        broken_by=() if worst is None else _breaking_attacks(cells, worst),
    )


def _breaking_attacks(cells: Cells, worst: float) -> tuple[str, ...]:
    """The attacks whose mean ASR is higher by ASR_ABOVE, as printed, than `worst`, and than their base rate.

    A defense with whose worst ordinary attack an adaptive one only draws level was not broken by it.
    """
    asr_by_attack = {}
    for attack in dict.fromkeys(block.attack for block in cells):
        of_attack = {block: cell for block, cell in cells.items() if block.attack == attack}
        asr, base = of_cells(of_attack, "asr"), of_cells(of_attack, "base")
        if _difference(asr, worst) >= ASR_ABOVE and _difference(asr, base) >= ASR_ABOVE:
            asr_by_attack[attack] = asr
    return tuple(sorted(asr_by_attack, key=lambda attack: (-asr_by_attack[attack], attack)))


def _difference(fraction: float, other: float) -> Fraction:
    """Of two fractions as they are printed."""
    return (Fraction(percent(fraction)) - Fraction(percent(other))) / 100
