"""Intervals of shares and of the mean of paired differences, p-values, and Holm's correction for many of these.

All attacks on a task share its rows, its clean model and, of a seed, the clean set and the draws of a defense. So an interval
over several tasks takes the pairs of a task for one cluster (Liang and Zeger, 1986): with five tasks of fourteen pairs each
the five tasks decide, not the seventy pairs. Each task counts the same: one of three seeds does not outweigh one of a single
seed. Few clusters may happen to agree though their pairs do not, so the standard error is never below that of independent
pairs. The interval of one task is over its pairs as if they were independent, and holds for the rows that were drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from scipy import stats

from bdbench.analysis.printed import ABSENT, points

CONFIDENCE = 0.95
LEVEL = 0.05  # the chance, at most, of any false difference in one family of tests


@dataclass(frozen=True)
class Interval:
    """The mean of n paired differences, fractions in [-1, 1], and its interval; unbounded with fewer than two pairs.

    The mean is exact where the differences are. `standard_error` and `degrees` of freedom are those of Student's t.
    """

    mean: Fraction | float
    low: float
    high: float
    n: int
    standard_error: float
    degrees: int

    def __str__(self) -> str:
        """In points: `-8.8 [-9.5, -8.1]`; the mean alone of one pair."""
        if not self.n:
            return ABSENT
        return points(float(self.mean)) + (f" [{points(self.low)}, {points(self.high)}]" if self.n > 1 else "")

    def p_below(self, bound: Fraction | float) -> float:
        """The two-sided p-value of the mean's distance from `bound` if it lies below it, otherwise 1.

        It is less than 0.05 if and only if the whole 95 % interval lies below `bound`. Differences without any spread leave
        no doubt: 0. One pair or none leaves every doubt: 1.
        """
        if self.n < 2 or self.mean >= bound:
            return 1.0
        if not self.standard_error:
            return 0.0
        return float(2 * stats.t.sf(float(bound - self.mean) / self.standard_error, self.degrees))

    def p_above(self, bound: Fraction | float) -> float:
        """As `p_below`, on the other side."""
        mirrored = Interval(-self.mean, -self.high, -self.low, self.n, self.standard_error, self.degrees)
        return mirrored.p_below(-bound)


def paired_interval(differences: Sequence[Fraction] | Sequence[float], tasks: Sequence[str] = ()) -> Interval:
    """The mean d of n paired differences d_i, with the weights w_i of `task_weights`, and an interval of Student's t around it.

    Of several `tasks` (one name per difference) each is a cluster g, so that with G of them the squared standard error is
    G / (G - 1) sum_g (sum_{i in g} w_i (d_i - d))^2, at G - 1 degrees of freedom; otherwise each pair is its own cluster. The
    standard error is the larger of this and that of independent pairs (Angrist and Pischke, 2009, chapter 8; from memory).
    """
    n = len(differences)
    if n < 2:
        return Interval(differences[0] if n else math.nan, -math.inf, math.inf, n, math.inf, 0)
    exact = [Fraction(difference) for difference in differences]
    clusters: Sequence[Hashable] = tasks if len(set(tasks)) > 1 else range(n)
    weights = task_weights(clusters)
    mean = weighted_mean(exact, weights)
    deviations = [weight * (difference - mean) for weight, difference in zip(weights, exact, strict=True)]
    degrees = len(set(clusters)) - 1
    standard_error = math.sqrt(max(_squared_error(deviations, clusters), _squared_error(deviations, range(n))))
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * standard_error
    return Interval(mean, float(mean) - half_width, float(mean) + half_width, n, standard_error, degrees)


def task_weights(tasks: Sequence[Hashable]) -> list[Fraction]:
    """What each value counts in a mean over all, from the name of its task: every task the same, in it every value."""
    values_by_task = Counter(tasks)
    return [Fraction(1, len(values_by_task) * values_by_task[task]) for task in tasks]


def weighted_mean(values: Sequence[Fraction], weights: Sequence[Fraction]) -> Fraction:
    """The exact mean; the weights add up to 1."""
    return sum((weight * value for weight, value in zip(weights, values, strict=True)), Fraction())


def _squared_error(deviations: Sequence[Fraction], clusters: Iterable[Hashable]) -> Fraction:
    """The squared standard error of a mean, from what each difference deviates from it, weighted, in two clusters or more."""
    sums: dict[Hashable, Fraction] = {}
    for cluster, deviation in zip(clusters, deviations, strict=True):
        sums[cluster] = sums.get(cluster, Fraction()) + deviation
    squares = sum((of_cluster**2 for of_cluster in sums.values()), Fraction())
    return Fraction(len(sums), len(sums) - 1) * squares


@cache  # every table asks anew
def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval (Wilson, 1927) of a share of n rows; it holds for few rows and for shares of 0 and 1, too."""
    interval = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(first_alone: int, second_alone: int) -> float:
    """The two-sided p-value of McNemar's exact test (1947): that of a fair coin for the rows that only one of two gets right.

    1 where there is no such row.
    """
    rows = first_alone + second_alone
    return float(stats.binomtest(first_alone, rows, 0.5).pvalue) if rows else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family adjusted by Holm (1979), in their order.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none falls below one before it, and none exceeds 1.
    Rejecting where the adjusted value is below 0.05 keeps the chance of any false rejection below 5 %.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    in_order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(in_order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
