"""Rates of defenses on the same victims: intervals, deviations over seeds, and tests of their differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import stdev

import numpy as np

from bdbench.analysis.bootstrap import PARTS, Block, CellRows, Draws, Estimate, Rates, as_they_are, comparable_seeds, draw
from bdbench.analysis.contest import mcnemar_of_rows
from bdbench.analysis.saved_rows import PredictionsOf, SavedRows
from bdbench.specs.records import Record

Cells = Mapping[Block, Record]  # those of one defense that ended well
Statistic = Callable[[Draws, Rates], Rates]  # such as Draws.mean: (rounds, blocks) -> (rounds,)


class Paired:
    """Reads the saved predictions of each cell once, and draws the rounds for each set of victims once."""

    def __init__(self, predictions_of: PredictionsOf) -> None:
        self._rows = SavedRows(predictions_of)
        self._draws_by_blocks: dict[tuple[Block, ...], Draws] = {}

    def estimate(self, cells: Cells, metric: str, statistic: Statistic = Draws.mean) -> Estimate | None:
        """The statistic of a metric with its interval; None of no cells, and without predictions."""
        of_rows = self._rows_of(cells, tuple(cells))
        if not of_rows:
            return None
        draws = self._draws(tuple(cells), of_rows)
        return draws.estimate(statistic(draws, draws.rates(of_rows, metric)), (0.0, 1.0))

    def p_value(self, cells: Cells, others: Cells, metric: str, statistic: Statistic = Draws.mean) -> float | None:
        """Of two defenses having the same rate on the victims that both have; None without any, and without predictions.

        McNemar's exact test of one victim, the bootstrap of several.
        """
        shared = tuple(block for block in cells if block in others)
        if len(shared) != 1:
            difference = self.difference(cells, others, metric, statistic)
            return None if difference is None else difference.p
        of_rows, of_other_rows = self._rows_of(cells, shared), self._rows_of(others, shared)
        if not of_rows or not of_other_rows:
            return None
        return mcnemar_of_rows(PARTS[metric](of_rows[0])[1], PARTS[metric](of_other_rows[0])[1])

    def difference(self, cells: Cells, others: Cells, metric: str, statistic: Statistic = Draws.mean) -> Estimate | None:
        """The statistic of the cells less that of the others, of the victims that both have; None without predictions."""
        shared = tuple(block for block in cells if block in others)
        of_rows, of_other_rows = self._rows_of(cells, shared), self._rows_of(others, shared)
        if not of_rows or not of_other_rows:
            return None
        draws = self._draws(shared, of_rows)
        one, other = (statistic(draws, draws.rates(rows, metric)) for rows in (of_rows, of_other_rows))
        return draws.estimate(one - other)

    def _rows_of(self, cells: Cells, blocks: Sequence[Block]) -> list[CellRows]:
        """The rows of the cells of these blocks; empty if those of one are not there."""
        rows_of_cells = [self._rows.of(cells[block]) for block in blocks]
        return [] if any(rows is None for rows in rows_of_cells) else rows_of_cells

    def _draws(self, blocks: tuple[Block, ...], of_rows: Sequence[CellRows]) -> Draws:
        if blocks not in self._draws_by_blocks:
            counts = {block.task: len(rows.right) for block, rows in zip(blocks, of_rows, strict=True)}
            self._draws_by_blocks[blocks] = draw(blocks, counts)
        return self._draws_by_blocks[blocks]


def seed_deviation(cells: Cells, metric: str, statistic: Statistic = Draws.mean) -> float | None:
    """The sample standard deviation of a statistic over the seeds; None unless two seeds or more have the same victims."""
    blocks = tuple(cells)
    of_seeds = [
        of_cells({blocks[place]: cells[blocks[place]] for place in places}, metric, statistic)
        for places in comparable_seeds(blocks)
    ]
    return stdev(of_seeds) if of_seeds else None


def of_cells(cells: Cells, metric: str, statistic: Statistic = Draws.mean) -> float:
    """The statistic of a metric of the cells as they are, which are one or more."""
    draws = as_they_are(tuple(cells))
    return float(statistic(draws, np.array([[cell.metrics[metric].value for cell in cells.values()]]))[0])
