"""What tunings chose and what it changed: validation rows as the tuner saw them, test rows beside those of the default."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bdbench.analysis.labels import Label, component_fields
from bdbench.analysis.standing import victims
from bdbench.analysis.summaries import Summary
from bdbench.analysis.tunings import tuned_methods
from bdbench.params import Value
from bdbench.specs.records import Record
from bdbench.specs.tuned import Trial, Tuned, TunedSetting, setting_of
from bdbench.specs.work import PluginSpec


@dataclass(frozen=True)
class Change:
    """The mean of a metric over the same victims with the default and with the chosen hyperparameters, in [0, 1].

    Both are None if there are no such victims.
    """

    default: float | None = None
    tuned: float | None = None

    @property
    def difference(self) -> float | None:
        """In [-1, 1]."""
        return None if self.default is None or self.tuned is None else self.tuned - self.default


@dataclass(frozen=True)
class TuningRow:
    """What a tuning chose for a task and a defense of the folder, and what that changed on test rows.

    `cacc` and `asr` are over the same `victims`: those that the task's averages count, with a trigger, whose cells ended well
    with both settings.
    """

    task: Label
    defense: Label
    setting: TunedSetting
    victims: int
    cacc: Change
    asr: Change

    @property
    def differing(self) -> list[tuple[str, Value, Value]]:
        """The hyperparameters that were changed: name, default and choice."""
        default, chosen = component_fields(self.setting.default), component_fields(self.setting.chosen)
        return [(name, value, chosen[name]) for name, value in default.items() if name in chosen and chosen[name] != value]

    @property
    def default_trial(self) -> Trial | None:
        """The trial of the default; None if it is not among the trials."""
        return self._trial_of(self.setting.default)

    @property
    def chosen_trial(self) -> Trial | None:
        """The trial of the setting that was chosen; None if it is not among the trials."""
        return self._trial_of(self.setting.chosen)

    @property
    def exceeds_tolerance(self) -> bool:
        """Whether all trials cost more clean accuracy than the tolerance, so that the one that cost least was chosen.

        Only then is its score negative (see the tuner's `Goal.score`).
        """
        return self.chosen_trial is not None and (self.chosen_trial.score or 0.0) < 0

    @property
    def trained_rows(self) -> int:
        """The rows that all trials trained on, each as often as it was visited."""
        return sum(trial.trained_rows for trial in self.setting.trials)

    @property
    def failed_trials(self) -> int:
        return sum(trial.status == "failed" for trial in self.setting.trials)

    def _trial_of(self, defense: tuple[PluginSpec, ...]) -> Trial | None:
        """One that ended well, if any did."""
        same = [trial for trial in self.setting.trials if setting_of(trial.defense) == setting_of(defense)]
        return next((trial for trial in same if trial.status == "ok"), same[0] if same else None)


def tuning_rows(summaries: Sequence[Summary], tunings: Sequence[Tuned]) -> list[TuningRow]:
    """A row for each task, defense and setting of which there is a cell, in the order of the tables."""
    settings = {method.terms: method.settings for method in tuned_methods(tunings)}
    if not settings:
        return []
    defaults = {
        (record.spec.victim.key(), setting_of(record.spec.defense)): record
        for summary in summaries
        for record in summary.records
        if record.status == "ok"
    }
    counting = _counting(summaries)
    tuned_cells: dict[tuple[Label, Label, int], list[Record]] = {}
    for summary in summaries:
        for place, setting in enumerate(settings.get(summary.defense.terms, ())):
            cells = [record for record in summary.records if _is_choice(setting, summary.defense, record)]
            if cells:
                counted = cells if (summary.task, summary.attack) in counting else []
                tuned_cells.setdefault((summary.task, summary.defense, place), []).extend(counted)
    rows = []
    for (task, defense, place), cells in sorted(
        tuned_cells.items(), key=lambda item: (item[0][0].rank, item[0][1].rank, item[0][2])
    ):
        setting = settings[defense.terms][place]
        default = setting_of(setting.default)
        pairs = [
            (defaults[key, default], cell)
            for cell in cells
            for key in [cell.spec.victim.key()]
            if cell.status == "ok" and (key, default) in defaults
        ]
        rows.append(TuningRow(task, defense, setting, len(pairs), _change(pairs, "cacc"), _change(pairs, "asr")))
    return rows


def _is_choice(setting: TunedSetting, defense: Label, record: Record) -> bool:
    """Whether the cell, in the row of this defense, has what the setting says."""
    spec, default = record.spec, component_fields(setting.default)
    return (
        setting.task == spec.victim.task
        and setting.is_for(spec.victim.attack.name)
        and setting_of(setting.chosen) == setting_of(spec.defense)
        and all(default[field] == value for field, value in defense.variant if field in default)
    )


def _counting(summaries: Sequence[Summary]) -> set[tuple[Label, Label]]:
    """The tasks and attacks with a trigger that are averaged: the attack works on all its victims."""
    of_all = victims(summaries).values()
    return {(victim.task, victim.attack) for victim in of_all} - {(v.task, v.attack) for v in of_all if not v.works}


def _change(pairs: Sequence[tuple[Record, Record]], metric: str) -> Change:
    if not pairs:
        return Change()
    default, tuned = zip(*((first.metrics[metric].value, second.metrics[metric].value) for first, second in pairs), strict=True)
    return Change(statistics.fmean(default), statistics.fmean(tuned))
