"""Studies: for each task and defense the settings that are tried, in order, each defense with the same budget.

Pure: no Ray, no file, no clock. What a study suggests hangs on the outcomes of its own earlier trials alone, of all but the
last `window - 1`, in whatever order these end. So it is the same again after an interruption, with as many workers.

The window hangs on their number: with more of them Optuna's TPE suggests knowing less, and a budget of rows is found spent
later. Bisection and, without such a budget, draws at random are the same with any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bdbench.defenses.base import Defense
from bdbench.errors import UsageError
from bdbench.fence import refusing
from bdbench.matrix.plan import cell_of
from bdbench.matrix.search_space import Dimension, Setting, defense_with, with_setting
from bdbench.matrix.searchers import Outcome, Searcher
from bdbench.protocol.rows import DefenderSets
from bdbench.specs.tuned import Trial, TunedSetting
from bdbench.specs.work import CellSpec, PluginSpec

ROUNDING = 1e-9  # of a mean of shares


@dataclass(frozen=True)
class Goal:
    """What is maximized: one of specs.tuned.OBJECTIVES, and the clean accuracy that a setting may cost, in [0, 1]."""

    objective: str
    tolerance: float

    def score(self, cacc: float, asr: float | None, before: float) -> float:
        """Clean accuracy for "accuracy". Else 1 - ASR where `cacc` is at most the tolerance below `before`, and minus what is
        missing where it is not: so what is allowed beats what is not. `before` is the accuracy before the defense."""
        if self.objective == "accuracy":
            return cacc
        missing = before - self.tolerance - cacc
        return -missing if missing > ROUNDING else 1 - asr

    def choice(self, trials: Sequence[Trial], settings: Sequence[Setting], dimensions: Sequence[Dimension]) -> int | None:
        """The place of the trial that is chosen; None if none ended well. Of equals the first one is.

        For "accuracy": of those at most the tolerance below the best the most aggressive. Else the one of the best score, of
        equal ones that of the best accuracy.
        """
        places = [place for place, trial in enumerate(trials) if trial.status == "ok"]
        if not places:
            return None
        best = max(trials[place].score for place in places)
        if self.objective != "accuracy":
            return max(places, key=lambda place: (trials[place].score, trials[place].cacc, -place))
        near = [place for place in places if trials[place].score >= best - self.tolerance - ROUNDING]
        ranks = aggressiveness([settings[place] for place in near], dimensions)
        order = {place: (rank, trials[place].score, -place) for place, rank in zip(near, ranks, strict=True)}
        return max(near, key=order.__getitem__)


def aggressiveness(settings: Sequence[Setting], dimensions: Sequence[Dimension]) -> list[float]:
    """How much of the victim each setting removes, by the dimensions that declare a direction.

    The sum over these of the value's rank among the distinct values of all settings, from 0 for the least to 1 for the most
    aggressive.
    """
    sums = [0.0] * len(settings)
    for dimension in dimensions:
        if dimension.aggressive is not None:
            values = sorted({setting[dimension.name] for setting in settings}, reverse=dimension.aggressive == "low")
            for place, setting in enumerate(settings):
                sums[place] += values.index(setting[dimension.name]) / max(1, len(values) - 1)
    return sums


@dataclass(frozen=True)
class Request:
    """One trial to be run: a setting of a study's defense, as one cell for each victim."""

    study: int
    number: int
    cells: tuple[CellSpec, ...]

    @property
    def defense(self) -> tuple[PluginSpec, ...]:
        return self.cells[0].defense


class Study:
    """The trials of one defense on one group of victims.

    - `tasks` and `attacks` say what the chosen setting is for (see `TunedSetting`); `cells` are those of the default, one for
      each victim. `before` is the mean clean accuracy of these victims, undefended.
    - At most `budget` trials are asked for, and none once the earlier ones have trained on `budget_rows` rows. `window` is how
      many may be under way at a time.
    """

    def __init__(
        self,
        tasks: tuple[str, ...],
        attacks: tuple[str, ...] | None,
        parts: tuple[Defense, ...],
        cells: tuple[CellSpec, ...],
        sets: Sequence[DefenderSets],
        dimensions: tuple[Dimension, ...],
        searcher: Searcher,
        goal: Goal,
        budget: int,
        budget_rows: int | None = None,
        window: int = 1,
    ) -> None:
        self.tasks, self.attacks, self.goal = tasks, attacks, goal
        self._parts, self._cells, self._sets, self._dimensions = parts, cells, sets, dimensions
        self._searcher = searcher
        self.budget = budget if dimensions else 1  # nothing to tune: the default is all there is
        self._budget_rows, self._window = budget_rows, 1 if searcher.is_sequential else window
        self.settings: list[Setting] = []
        self._trials: dict[int, Trial] = {}  # by number; they may end in another order
        self._learned = 0
        self._is_exhausted = False

    @property
    def name(self) -> str:
        held_out = "" if self.attacks is None else f" (for {', '.join(self.attacks)})"
        return f"{' and '.join(self.tasks)} / {'+'.join(part.name for part in self._parts)}{held_out}"

    @property
    def is_over(self) -> bool:
        """Whether all trials have ended and none is to come."""
        return self._is_exhausted and len(self._trials) == len(self.settings)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials that ended, in the order of their suggestion."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    def suggest(self, study: int) -> Request | None:
        """The next trial; None while others must end first, and for good once the budget is spent."""
        number = len(self.settings)
        if self._is_exhausted or not self._learn(number - self._window + 1):
            return None
        spent = sum(self._trials[earlier].trained_rows for earlier in range(self._learned))
        out_of_rows = self._budget_rows is not None and spent >= self._budget_rows
        setting = None if number >= self.budget or out_of_rows else self._searcher.suggest(number)
        if setting is None:
            self._is_exhausted = True
            return None
        self.settings.append(setting)
        try:
            with refusing(f"'{self.name}'"):
                parts = with_setting(self._parts, setting)
        except UsageError as error:  # values that are no good together
            defense = defense_with(self._cells[0].defense, setting)
            self.end(number, Trial(defense, "failed", None, None, None, 0, 0.0, str(error)))
            return self.suggest(study)
        cells = (cell_of(cell.victim, parts, sets) for cell, sets in zip(self._cells, self._sets, strict=True))
        return Request(study, number, tuple(cells))

    def end(self, number: int, trial: Trial) -> None:
        """A suggested trial has ended, well or not."""
        self._trials[number] = trial

    def tuned(self) -> list[TunedSetting]:
        """What was chosen, for every task that it is for; the default where no trial ended well."""
        chosen = self.goal.choice(self.trials, self.settings, self._dimensions)
        default = self._cells[0].defense
        setting = default if chosen is None else self.trials[chosen].defense
        return [TunedSetting(task, self.attacks, default, setting, self.trials) for task in self.tasks]

    def _learn(self, until: int) -> bool:
        """Tell the searcher the outcomes of the trials before number `until`; False if one of them has not ended."""
        while self._learned < until:
            trial = self._trials.get(self._learned)
            if trial is None:
                return False
            outcome = Outcome(trial.score, trial.cacc) if trial.status == "ok" else None
            self._searcher.learn(self._learned, outcome)
            self._learned += 1
        return True


class Studies:
    """All studies of a tuning, in turn: each gets its first trial before any gets its second."""

    def __init__(self, studies: Sequence[Study]) -> None:
        self.studies = list(studies)
        self._next = 0

    @property
    def is_over(self) -> bool:
        return all(study.is_over for study in self.studies)

    def suggest(self) -> Request | None:
        """The next trial of the study whose turn it is, or of the next one that has one; None while there is none."""
        for _ in self.studies:
            place, self._next = self._next, (self._next + 1) % len(self.studies)
            if request := self.studies[place].suggest(place):
                return request
        return None

    def end(self, request: Request, trial: Trial) -> None:
        self.studies[request.study].end(request.number, trial)
