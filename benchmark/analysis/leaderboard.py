"""A folder's records as one leaderboard: what its reports show, each part made once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from bdbench.analysis.attack_rows import AttackRow, InnocentRow, attack_rows, innocent_rows
from bdbench.analysis.counterparts import Counterpart, counterparts
from bdbench.analysis.examples import NotedPredictions, ShownExample, shown_examples
from bdbench.analysis.ranking import Ranking, Rules, rankings
from bdbench.analysis.saved_rows import PredictionsOf
from bdbench.analysis.summaries import Summary, summarize
from bdbench.analysis.tables import Table, overall_table, task_tables
from bdbench.analysis.tuning_tables import TuningRow, tuning_rows
from bdbench.analysis.verification import left_out, sound_predictions
from bdbench.specs.records import Record
from bdbench.specs.saved import LeftOut, SavedRun
from bdbench.specs.tuned import Tuned


class Leaderboard:
    """The records of a folder, and the tunings that chose some of them. Each part raises ValueError if a cell occurs twice.

    `predictions_of` gives the saved predictions of a cell that ended well, or None; the rankings' intervals come from them.
    `left_out` are the files that could not be read.
    """

    def __init__(
        self,
        records: Iterable[Record],
        tunings: Iterable[Tuned] = (),
        predictions_of: PredictionsOf = lambda record: None,
        rules: Rules | None = None,
        left_out: Iterable[LeftOut] = (),
    ) -> None:
        self.records, self.tunings, self.left_out = tuple(records), tuple(tunings), tuple(left_out)
        self._predictions, self.rules = NotedPredictions(predictions_of), rules or Rules()
        self.predictions_of = self._predictions.of

    @classmethod
    def of_run(cls, run: SavedRun, tunings: Iterable[Tuned] = (), rules: Rules | None = None) -> Leaderboard:
        """That of what can be read of a folder."""
        predictions = {run.records[file].key: arrays for file, arrays in sound_predictions(run).items()}
        return cls(run.records.values(), tunings, lambda record: predictions.get(record.key), rules, left_out(run))

    @cached_property
    def summaries(self) -> list[Summary]:
        return summarize(self.records, self.tunings)

    @cached_property
    def rankings(self) -> list[Ranking]:
        return rankings(self.summaries, self.predictions_of, self.rules)

    @cached_property
    def overall(self) -> Table | None:
        return overall_table(self.summaries)

    @cached_property
    def by_task(self) -> list[Table]:
        return task_tables(self.summaries)

    @cached_property
    def tuning_rows(self) -> list[TuningRow]:
        return tuning_rows(self.summaries, self.tunings)

    @cached_property
    def attack_rows(self) -> list[AttackRow]:
        return attack_rows(self.summaries)

    @cached_property
    def innocent_rows(self) -> list[InnocentRow]:
        return innocent_rows(self.summaries, self.predictions_of)

    @cached_property
    def counterparts(self) -> list[Counterpart]:
        return counterparts(self.summaries, self.predictions_of)

    @cached_property
    def examples(self) -> dict[str, tuple[ShownExample, ...]]:
        """The triggered rows that each record shows, by its key. After the rankings, whose predictions are not read again."""
        _ = self.rankings
        return shown_examples(self.records, self._predictions)
