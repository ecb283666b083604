"""Intervals around means over cells, by a cluster bootstrap of the saved predictions.

A mean over cells hangs on which tasks, which seeds and which test rows there happened to be. What was drawn at the highest
level is drawn anew with replacement:

- Of five tasks or more it is the tasks. A task comes with its own rows, and its seeds draw other rows and weights than those
  of another task, so that both are drawn anew with it.
- Fewer tasks stay as they are: the interval holds for these. Of three seeds or more it is the seeds, those of each task by
  themselves, and apart from them the test rows of each task, once for all of its cells, which were all scored on the same
  rows. The two variances add up; what is peculiar to a row in one seed is in both, so the interval is rather too wide.
- Of fewer seeds it is the test rows alone: the interval says nothing of other seeds.

Attacks are not drawn: they are what is compared. In a mean each task counts the same, whatever its attacks and seeds.

G clusters make the variance of a bootstrap too small by (G - 1) / G, and a normal quantile is too small as well. So that
variance is enlarged by G / (G - 1), and the quantile is Student's with G - 1 degrees of freedom (of seeds: as often as there
are tasks); where the variance of the rows is added, with those of Satterthwaite (1946).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import numpy.typing as npt
from scipy import stats

from bdbench.analysis.intervals import CONFIDENCE

Rows = npt.NDArray[np.bool_]
Rates = npt.NDArray[np.float64]

ROUNDS = 1000  # of clusters, and as many of rows
ENOUGH_TASKS, ENOUGH_SEEDS = 5, 3  # to say something of others
SEED = 20221009  # the same draws, and so the same bytes, from the same records


@dataclass(frozen=True, eq=False)
class CellRows:
    """What a cell's predictions say of each test row of its task, (n,) each.

    `right`: the class is the gold one. `others`: the gold class is not the goal, so that the row was triggered. `hit` and
    `base`: the goal is predicted, with and without the trigger; False where `others` is. `rejected`: by a detector, without
    the trigger.
    """

    right: Rows
    others: Rows
    hit: Rows
    base: Rows
    rejected: Rows


# Of a metric: the rows that it is a share of, and those that it counts.
PARTS: Mapping[str, Callable[[CellRows], tuple[Rows, Rows]]] = {
    "cacc": lambda rows: (np.ones_like(rows.right), rows.right),
    "asr": lambda rows: (rows.others, rows.hit),
    "base": lambda rows: (rows.others, rows.base),
    "frr": lambda rows: (np.ones_like(rows.right), rows.rejected),
}


@dataclass(frozen=True)
class Block:
    """What cells are compared on: a victim, of one task, attack and seed."""

    task: str
    attack: str
    seed: int


@dataclass(frozen=True, eq=False)
class Draws:
    """Rounds over some blocks: round 0 is the cells as they are, then come those that draw clusters, then those that draw rows.

    `weights`, (rounds, blocks), say how often each block was drawn. `clusters` are how many are drawn from together, 0 if none
    are, and `degrees` of freedom is what they leave. `of_rows` has, by task, (rounds of rows, n), how often each row was drawn.
    """

    blocks: tuple[Block, ...]
    weights: Rates
    clusters: int = 0
    degrees: float = math.inf
    of_rows: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def rates(self, cells: Sequence[CellRows], metric: str) -> Rates:
        """(rounds, blocks): the metric of the cell of each block, in [0, 1]; NaN where no row that counts was drawn."""
        rates = np.empty_like(self.weights)
        of_cells = [PARTS[metric](cell) for cell in cells]
        rates[:] = [counted.sum() / counting.sum() for counting, counted in of_cells]
        for task, drawn in self.of_rows.items():
            places = [place for place, block in enumerate(self.blocks) if block.task == task]
            parts = zip(*(of_cells[place] for place in places), strict=True)
            counting, counted = (drawn @ np.stack(part, axis=1).astype(np.float32) for part in parts)
            with np.errstate(invalid="ignore"):
                rates[-len(drawn) :, places] = counted / counting
        return rates

    def mean(self, rates: Rates, where: Sequence[bool] = ()) -> Rates:
        """(rounds,): the mean over the tasks of the means over the blocks of each; NaN in a round that drew none of them.

        `where` says which blocks count, all by default.
        """
        weights = self.weights * np.array(_weights(self.blocks, where or [True] * len(self.blocks)))
        with np.errstate(invalid="ignore"):
            return (np.where(weights > 0, rates, 0.0) * weights).sum(axis=1) / weights.sum(axis=1)

    def worst(self, rates: Rates) -> Rates:
        """(rounds,): the highest of the means over the blocks of each attack."""
        return np.nanmax([self.mean(rates, of_attack) for of_attack in by_attack(self.blocks).values()], axis=0)

    def estimate(self, statistic: Rates, bounds: tuple[float, float] = (-1.0, 1.0)) -> Estimate:
        """The interval of a statistic, (rounds,), cut at its bounds; none if there is no round but the first."""
        value, of_rounds = float(statistic[0]), statistic[1:]
        if not len(of_rounds):
            return Estimate(value)
        of_clusters, of_rows = np.split(of_rounds, [ROUNDS if self.clusters else 0])
        cluster_variance = _variance(of_clusters) * self.clusters / (self.clusters - 1) if self.clusters else 0.0
        variance = cluster_variance + (_variance(of_rows) if self.of_rows else 0.0)
        degrees = self.degrees * (variance / cluster_variance) ** 2 if cluster_variance else math.inf
        error = math.sqrt(variance)
        half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
        p_value = 2 * float(stats.t.sf(abs(value) / error, degrees)) if error else float(value == 0)
        return Estimate(value, max(bounds[0], value - half_width), min(bounds[1], value + half_width), p_value)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval at CONFIDENCE, and the two-sided p-value of its being 0; None where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def as_they_are(blocks: Sequence[Block]) -> Draws:
    """The first round alone."""
    return Draws(tuple(blocks), np.ones((1, len(blocks))))


def draw(blocks: Iterable[Block], rows_of_task: Mapping[str, int]) -> Draws:
    """The rounds for these blocks; `rows_of_task` has the number of test rows of each of their tasks."""
    blocks = tuple(blocks)
    generator = np.random.default_rng(SEED)

    def drawn(n: int) -> npt.NDArray[np.int64]:
        """(rounds, n): how often each of n is among n draws."""
        return generator.multinomial(n, np.full(n, 1 / n), size=ROUNDS)

    tasks, seeds = sorted({block.task for block in blocks}), sorted({block.seed for block in blocks})
    first = as_they_are(blocks).weights
    if len(tasks) >= ENOUGH_TASKS:
        of_tasks = drawn(len(tasks))[:, [tasks.index(block.task) for block in blocks]]
        return Draws(blocks, np.concatenate([first, of_tasks]), len(tasks), len(tasks) - 1)
    weights, clusters, degrees = [first], 0, math.inf
    if len(seeds) >= ENOUGH_SEEDS:
        clusters, degrees = len(seeds), len(tasks) * (len(seeds) - 1)
        of_seeds = {task: drawn(len(seeds)) for task in tasks}
        weights.append(np.stack([of_seeds[block.task][:, seeds.index(block.seed)] for block in blocks], axis=1))
    weights.append(np.ones((ROUNDS, len(blocks))))
    of_rows = {task: drawn(rows_of_task[task]).astype(np.float32) for task in tasks}
    return Draws(blocks, np.concatenate(weights), clusters, degrees, of_rows)


def by_attack(blocks: Sequence[Block]) -> dict[str, list[bool]]:
    """Which blocks are of each attack, by its label."""
    return {attack: [block.attack == attack for block in blocks] for attack in sorted({block.attack for block in blocks})}


def worst_attack(blocks: Sequence[Block], rates: Sequence[float]) -> str:
    """The attack of the highest mean rate, of equal ones the first by name."""
    means = {attack: fmean(rates, _weights(blocks, of_attack)) for attack, of_attack in by_attack(blocks).items()}
    return max(means, key=lambda attack: means[attack])


def _weights(blocks: Sequence[Block], where: Sequence[bool]) -> list[float]:
    """What each block counts in a mean over those that do: every task the same, 1, and in it every block."""
    blocks_by_task = Counter(block.task for block in itertools.compress(blocks, where))
    return [1 / blocks_by_task[block.task] if counts else 0.0 for block, counts in zip(blocks, where, strict=True)]


def comparable_seeds(blocks: Sequence[Block]) -> list[list[int]]:
    """The places of the blocks of each seed; none unless there are two seeds or more, all with the same tasks and attacks."""
    places_by_seed: dict[int, list[int]] = {}
    for place, block in enumerate(blocks):
        places_by_seed.setdefault(block.seed, []).append(place)
    victims = {frozenset((blocks[place].task, blocks[place].attack) for place in places) for places in places_by_seed.values()}
    return list(places_by_seed.values()) if len(places_by_seed) > 1 and len(victims) == 1 else []


def _variance(values: Rates) -> float:
    """Of the rounds that drew something to average."""
    return float(np.var(values[np.isfinite(values)], ddof=1))
