"""Which numbers of a row or column are set in bold, and which is underlined.

The rule: bold is every number that is not significantly worse than the best one, by paired tests of each with the best,
corrected by Holm (1979), at 5 %. Two defenses of one victim are compared by McNemar's exact test of the rows on which they
differ, means over several victims by the bootstrap (`bdbench.analysis.paired`). Where a test is missing, for want of saved
predictions, bold is the best alone. Underlined is the second best number. Both are judged as printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bdbench.analysis.bootstrap import Rows
from bdbench.analysis.intervals import LEVEL, holm, mcnemar
from bdbench.analysis.printed import percent


@dataclass(frozen=True)
class Mark:
    """How a number is set, and whether tests decided what is bold in its row or column."""

    bold: bool = False
    underlined: bool = False
    tested: bool = True


def contest(
    values: Sequence[float | None],
    higher_is_better: bool,
    p_value: Callable[[int, int], float | None] = lambda one, other: None,
) -> list[Mark]:
    """The marks of fractions, in their order; None does not compete, and with fewer than two that do nothing is marked.

    `p_value` is that of the numbers at two places being the same, or None where there is no test.
    """
    rivals = [place for place, value in enumerate(values) if value is not None]
    if len(rivals) < 2:
        return [Mark() for _ in values]
    sign = -1 if higher_is_better else 1
    printed = {place: sign * float(percent(values[place])) for place in rivals}
    first, *others = sorted(rivals, key=lambda place: (printed[place], sign * values[place], place))
    p_values = [p_value(first, other) for other in others]
    tested = None not in p_values
    adjusted = dict(zip(others, holm(p_values), strict=True)) if tested else {}
    bold = {place for place in rivals if printed[place] == printed[first] or adjusted.get(place, 0.0) >= LEVEL}
    best, second, *_ = sorted(printed.values())
    underlined = {place for place in rivals if printed[place] == second > best}  # two that are best have no second
    return [Mark(place in bold, place in underlined, tested) for place in range(len(values))]


def mcnemar_of_rows(one: Rows, other: Rows) -> float:
    """The exact two-sided p-value of two classifiers counting as many of the same rows, (n,) each; 1 where none differs."""
    return mcnemar(int((one & ~other).sum()), int((other & ~one).sum()))
