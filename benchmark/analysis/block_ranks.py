"""Defenses ranked on each block by itself: average ranks, and whether they differ (Friedman, Nemenyi, Wilcoxon with Holm).

These say how often a defense is better, not by how much, and hang on which defenses are compared. They take the blocks for
independent, which victims of one task are not. Fewer than five blocks say nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bdbench.analysis.intervals import LEVEL, holm
from bdbench.analysis.labels import Label

ENOUGH_BLOCKS, ENOUGH_DEFENSES = 5, 3
MOST_PERMUTED = 13  # blocks up to which SciPy permutes the signs of tied samples


@dataclass(frozen=True)
class BlockRanks:
    """`average_ranks` are by defense, 1 is best. `friedman_p` is the p-value of all ranks being alike.

    Two average ranks that differ by more than `critical_difference` differ (Nemenyi). `p_values` of pairs are Wilcoxon's,
    adjusted by Holm. `wins` has the share of the blocks on which the first of a pair is better than the second, a tie counting
    one half.
    """

    blocks: int
    average_ranks: Mapping[Label, float]
    friedman_p: float
    critical_difference: float
    p_values: Mapping[tuple[Label, Label], float]
    wins: Mapping[tuple[Label, Label], float]

    @property
    def defenses(self) -> list[Label]:
        """The lowest average rank first."""
        return sorted(self.average_ranks, key=lambda defense: (self.average_ranks[defense], defense.rank))

    @property
    def can_differ(self) -> bool:
        """Whether any pair could pass: whether it would if one were better on every block (Wilcoxon's least p is 2 / 2^n)."""
        return len(self.p_values) * 2.0 ** (1 - self.blocks) < LEVEL

    def is_clearly_better(self, one: Label, other: Label) -> bool:
        """Whether it is on more than half of the blocks, and by the test of the pair."""
        p_value = self.p_values[(one, other) if (one, other) in self.p_values else (other, one)]
        return p_value < LEVEL and self.wins[one, other] > 0.5


def block_ranks(scores: Mapping[Label, Sequence[float]]) -> BlockRanks | None:
    """From the score of each defense on each block, lower is better; None of too few blocks or defenses."""
    defenses = list(scores)
    table = np.array([scores[defense] for defense in defenses], dtype=np.float64)  # (defenses, blocks)
    if len(defenses) < ENOUGH_DEFENSES or table.shape[1] < ENOUGH_BLOCKS:
        return None
    average = stats.rankdata(table, axis=0).mean(axis=1)
    pairs = list(itertools.combinations(range(len(defenses)), 2))
    first, second = np.array(pairs).T
    p_values = holm(_wilcoxon(table[first] - table[second]).tolist())
    wins = {
        (defenses[one], defenses[other]): float(np.mean((table[one] < table[other]) + (table[one] == table[other]) / 2))
        for one, other in itertools.permutations(range(len(defenses)), 2)
    }
    return BlockRanks(
        table.shape[1],
        dict(zip(defenses, average.tolist(), strict=True)),
        _friedman(table),
        critical_difference(len(defenses), table.shape[1]),
        {(defenses[one], defenses[other]): p for (one, other), p in zip(pairs, p_values, strict=True)},
        wins,
    )


def critical_difference(defenses: int, blocks: int) -> float:
    """Nemenyi's (1963), at LEVEL: q sqrt(k (k + 1) / (6 n)), where q is the studentized range's quantile over sqrt(2)."""
    quantile = float(stats.studentized_range.ppf(1 - LEVEL, defenses, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(defenses * (defenses + 1) / (6 * blocks))


def _friedman(table: np.ndarray) -> float:
    """The p-value; 1 where all scores of every block are equal, of which the statistic is undefined."""
    if (table == table[0]).all():
        return 1.0
    return float(stats.friedmanchisquare(*table).pvalue)


def _wilcoxon(differences: np.ndarray) -> np.ndarray:
    """The p-values of the signed-rank test, (pairs,), of (pairs, blocks); 1 where no two scores differ.

    SciPy chooses its method by whether any of the samples it gets has a zero or a tie. So those with one are not tested beside
    those without, and where it permutes their signs, in small samples, each is tested alone.
    """
    sizes = np.sort(np.abs(differences), axis=1)
    has_tie = (sizes[:, 0] == 0) | (np.diff(sizes, axis=1) == 0).any(axis=1)
    tied, untied = (np.flatnonzero(rows & differences.any(axis=1)) for rows in (has_tie, ~has_tie))
    groups = [untied, *(tied[:, None] if differences.shape[1] <= MOST_PERMUTED else [tied])]
    p_values = np.ones(len(differences))
    for rows in groups:
        if len(rows):
            p_values[rows] = stats.wilcoxon(differences[rows], axis=1).pvalue
    return p_values
