"""Intervals around the mean of paired differences.

All attacks on a task share its rows, its clean model and, of a seed, the clean set and the draws of a defense. So an interval
over several tasks takes the pairs of a task for one cluster (Liang and Zeger, 1986): with five tasks of fourteen pairs each
the five tasks decide, not the seventy pairs. The interval of one task is over its pairs as if they were independent, and holds
for the rows that were drawn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from bdbench.analysis.printed import ABSENT, points

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """The mean of n paired differences, fractions in [-1, 1], and its interval; unbounded with fewer than two pairs."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """In points: `-8.8 [-9.5, -8.1]`; the mean alone of one pair."""
        if not self.n:
            return ABSENT
        return points(self.mean) + (f" [{points(self.low)}, {points(self.high)}]" if self.n > 1 else "")

    def __neg__(self) -> Interval:
        """The interval of the differences the other way round."""
        return Interval(-self.mean, -self.high, -self.low, self.n)


def paired_interval(differences: Sequence[float], tasks: Sequence[str] = ()) -> Interval:
    """The mean d of n paired differences d_i with an interval of Student's t around it.

    Of several `tasks` (one name per difference) each is a cluster g, so that with G of them the squared standard error is
    G / (G - 1) sum_g (sum_{i in g} (d_i - d))^2 / n^2, at G - 1 degrees of freedom; otherwise each pair is its own cluster.
    """
    n = len(differences)
    if n < 2:
        mean = differences[0] if n else math.nan
        return Interval(mean, -math.inf, math.inf, n)
    mean = statistics.fmean(differences)
    clusters: Sequence[object] = tasks if len(set(tasks)) > 1 else range(n)
    deviations: dict[object, float] = {}  # the summed deviations from the mean of each cluster
    for cluster, difference in zip(clusters, differences, strict=True):
        deviations[cluster] = deviations.get(cluster, 0.0) + difference - mean
    count = len(deviations)
    squares = math.fsum(deviation**2 for deviation in deviations.values())
    standard_error = math.sqrt(count / (count - 1) * squares) / n
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * standard_error
    return Interval(mean, mean - half_width, mean + half_width, n)
