"""What chooses the settings of a study, one after another. Each is asked for a setting and told what became of it.

Both run without Ray and, behind Ray Tune's interface, with it (`ray_tune`): the suggestions are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol

from bdbench.defenses._search import GRID, Trial, bisect_ratios, coarser_grid, least_accuracy
from bdbench.errors import UsageError
from bdbench.matrix.search_space import Dimension, Setting
from bdbench.params import Value

# One trial in so many is drawn at random before the estimator has a say. Its own default, ten trials, is all of a small budget.
ONE_IN = 4


@dataclass(frozen=True)
class Outcome:
    """What a searcher learns of a trial: what it scored, and its clean accuracy."""

    score: float
    cacc: float


class Searcher(Protocol):
    """Chooses settings. `is_sequential` says that it must know every earlier outcome before it chooses."""

    is_sequential: bool

    def suggest(self, number: int) -> Setting | None:
        """The setting of trial `number`, 0 for the first; None if there is nothing left to try."""

    def learn(self, number: int, outcome: Outcome | None) -> None:
        """What became of a trial; None for one that failed."""


def searcher_of(name: str, dimensions: Sequence[Dimension], seed: int, budget: int, least: Fraction, defense: str) -> Searcher:
    """The searcher called `name`, "optuna", "random" or "bisect", for a defense; without dimensions the default alone.

    `least` is the clean accuracy that "bisect" accepts.

    Raises UsageError if the searcher cannot search these dimensions, or its library is not there.
    """
    if not dimensions:
        return DefaultAlone()
    if name == "bisect":
        return Bisection(dimensions, budget, least, defense)
    return OptunaSearcher(dimensions, seed, budget, "tpe" if name == "optuna" else "random")


class DefaultAlone:
    """For a defense with nothing to tune."""

    is_sequential = False

    def suggest(self, number: int) -> Setting | None:
        return {} if number == 0 else None

    def learn(self, number: int, outcome: Outcome | None) -> None:
        """It has nothing to learn."""


class OptunaSearcher:
    """Optuna's tree-structured Parzen estimator, or draws at random; the default comes first."""

    is_sequential = False

    def __init__(self, dimensions: Sequence[Dimension], seed: int, budget: int, sampler: Literal["tpe", "random"]) -> None:
        optuna = _optuna()
        startup = max(1, budget // ONE_IN)
        samplers = optuna.samplers
        self._study = optuna.create_study(
            direction="maximize",
            sampler=samplers.TPESampler(seed=seed, n_startup_trials=startup)
            if sampler == "tpe"
            else samplers.RandomSampler(seed=seed),
            pruner=optuna.pruners.NopPruner(),
        )
        self._dimensions = dimensions
        self._distributions = {dimension.name: _distribution(dimension) for dimension in dimensions}
        self._asked: dict[int, Any] = {}  # Optuna's trials by number

    def suggest(self, number: int) -> Setting | None:
        if number == 0:
            default = default_setting(self._dimensions)
            if not all(dimension.contains(dimension.default) for dimension in self._dimensions):
                return default  # outside of what is searched, so that Optuna cannot be told
            self._study.enqueue_trial(dict(default))
        self._asked[number] = self._study.ask(self._distributions)
        return dict(self._asked[number].params)

    def learn(self, number: int, outcome: Outcome | None) -> None:
        import optuna

        if number not in self._asked:
            return
        if outcome is None:
            self._study.tell(self._asked[number], state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(self._asked[number], outcome.score)


class Bisection:
    """The search for the smallest reserve ratio that is accurate enough (`defenses/_search.py`), after the default.

    For one hyperparameter in a range, whose aggressive direction is declared. The search assumes that accuracy falls towards
    the aggressive end. It ends by itself, after six trials at most. Raises UsageError for other dimensions, saying why.
    """

    is_sequential = True

    def __init__(self, dimensions: Sequence[Dimension], budget: int, least: Fraction, defense: str) -> None:
        reason = _why_not_bisected(dimensions)
        if reason:
            raise UsageError(f"--searcher bisect: {defense} {reason}; take optuna or random, or name one with --only")
        (self._dimension,) = dimensions
        self._least = least
        # of the budget one is the default, and one more is needed where no ratio but the last is accepted
        self._grid = coarser_grid(GRID, max(0, min(len(GRID).bit_length() - 1, budget - 2)))
        self._accuracies: dict[float, Fraction] = {}  # by place on the grid
        self._asked: dict[int, float] = {}

    def suggest(self, number: int) -> Setting | None:
        if number == 0:
            return default_setting([self._dimension])
        try:
            bisect_ratios(self._grid, self._least, self._known_trial)
        except _Untried as untried:
            self._asked[number] = untried.place
            return {self._dimension.name: self._value(untried.place)}
        return None

    def learn(self, number: int, outcome: Outcome | None) -> None:
        if number in self._asked:  # a failed trial is not accurate enough
            self._accuracies[self._asked[number]] = Fraction(-1) if outcome is None else Fraction(str(outcome.cacc))

    def _known_trial(self, place: float) -> Trial:
        if place not in self._accuracies:
            raise _Untried(place)
        return Trial(place, self._accuracies[place], None)

    def _value(self, place: float) -> Value:
        """From a place on the grid, 0 at the aggressive end and 1 at the other, to a value."""
        low, high = self._dimension.low, self._dimension.high
        value = low + place * (high - low) if self._dimension.aggressive == "low" else high - place * (high - low)
        return round(value) if self._dimension.is_whole else value


class _Untried(Exception):
    """Bisection wants to know of a place that was not tried yet."""

    def __init__(self, place: float) -> None:
        super().__init__(place)
        self.place = place


def default_setting(dimensions: Sequence[Dimension]) -> Setting:
    return {dimension.name: dimension.default for dimension in dimensions}


def least_accepted(before: float, tolerance: float) -> Fraction:
    """The clean accuracy that a setting must keep, for one of `before` and a tolerance, both in [0, 1]."""
    return least_accuracy(Fraction(str(before)), tolerance)


def _why_not_bisected(dimensions: Sequence[Dimension]) -> str | None:
    if len(dimensions) != 1:
        return (
            f"has {len(dimensions)} hyperparameters to search ({', '.join(dimension.name for dimension in dimensions)}), not 1"
        )
    (dimension,) = dimensions
    if dimension.choices is not None or dimension.aggressive is None:
        return f"declares no aggressive direction of {dimension.name}"
    return None


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    if dimension.is_whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "--searcher optuna and random need Optuna: pip install 'bdbench[tune]', or take --searcher bisect"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
