"""The search for the smallest reserve ratio whose accuracy is still good enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# The reserve ratios of the seed paper's search (from memory).
GRID = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, eq=False)
class Trial:
    """One fine-tuning of a search: the ratio, the accuracy on the validation rows in [0, 1], and the repaired model.

    The accuracy is exact, a number of rows over another: floats miss a bound that is met exactly. `model` is None if the trial
    cannot be the result, so that its memory is free.
    """

    ratio: float
    accuracy: Fraction
    model: nn.Module | None


def coarser_grid(grid: Sequence[float], trials: int) -> Sequence[float]:
    """2**trials values of `grid`, evenly spaced, the last one included: as many as bisection searches in `trials` trials.

    The length of `grid` is a power of two, at least 2**trials.
    """
    step = len(grid) // 2**trials
    return grid[step - 1 :: step]


def exact_accuracy(accuracy: float, rows: int) -> Fraction:
    """The share of `rows` rows that a float is nearest to."""
    return Fraction(round(accuracy * rows), rows)


def least_accuracy(accuracy: Fraction, tolerance: float) -> Fraction:
    """The accuracy less a tolerance, which is the decimal fraction that it is typed and printed as: 0.05 is 1 / 20."""
    return accuracy - Fraction(str(float(tolerance)))


def bisect_ratios(grid: Sequence[float], least: Fraction, attempt: Callable[[float], Trial]) -> list[Trial]:
    """Bisection for the smallest ratio of an ascending grid whose accuracy is `least` or more: its trials, in order.

    The search assumes that accuracy grows with the ratio. Of 2**n ratios it tries n; if it accepts none of these, it tries the
    last ratio, too. While `attempt` runs, at most one model of an earlier trial is in memory.
    """
    trials: list[Trial] = []
    low, high = 0, len(grid) - 1
    while low < high:
        middle = (low + high) // 2
        trials = with_trial(trials, attempt(grid[middle]), least)
        if trials[-1].accuracy >= least:
            high = middle
        else:
            low = middle + 1
    if high == len(grid) - 1:
        trials.append(attempt(grid[high]))
    return trials


def with_trial(trials: Sequence[Trial], trial: Trial, least: Fraction) -> list[Trial]:
    """`trials` and then `trial`; only the last accepted one, whose ratio is the smallest, keeps its model."""
    if trial.accuracy >= least:
        return [*(replace(earlier, model=None) for earlier in trials), trial]
    return [*trials, replace(trial, model=None)]


def smallest_accepted(trials: Sequence[Trial], least: Fraction) -> Trial:
    """The trial of the smallest ratio whose accuracy is `least` or more; the last trial if there is none."""
    accepted = [trial for trial in trials if trial.accuracy >= least]
    return min(accepted, key=lambda trial: trial.ratio, default=trials[-1])
