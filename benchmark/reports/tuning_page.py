"""What a report says of tunings, in plain text: their terms, and two tables, of what was chosen and of what it changed."""

from __future__ import annotations

from collections.abc import Iterable

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.printed import ABSENT, percent, points
from bdbench.analysis.tables import Table
from bdbench.analysis.tuning_tables import Change, TuningRow
from bdbench.analysis.tunings import TunedMethod, tuned_methods
from bdbench.params import Value
from bdbench.reports.text_tables import TextTable
from bdbench.specs.tuned import Trial, Tuned

GOALS = {
    "accuracy": "the best clean accuracy; among settings within the tolerance of it, the most aggressive one",
    "planted": "the lowest ASR of a trigger that the defender plants in a copy of the victim",
    "transfer": "the lowest ASR of development attacks; the choice is then kept for other attacks, the ones in the table",
    "oracle": (
        "the lowest ASR of the attack's own trigger, which no defender knows; so this is an upper bound of what tuning can "
        "give, no result of a defense, and never in bold"
    ),
}
CHOICES = (
    "Arrows lead from the default to what was chosen. Trials: a failed one counts against the budget, too. Rows trained "
    "on: over all trials, each row as often as it was visited. Score: what the tuner maximized. CACC and ASR: on validation "
    "rows, in per cent, means over the victims tuned on; the ASR is that of the objective's own trigger. Spread: mean absolute "
    "difference of this ASR between two trials, in points: how much the defense hangs on its hyperparameters."
)
BEYOND_TOLERANCE = " (every trial cost more clean accuracy than the tolerance)"
CHANGES = (
    "CACC and ASR: on test rows, in per cent, with the default and with the chosen hyperparameters. Both are means over the "
    "same victims: those of the attacks that are averaged, with a trigger, for which both cells ended well. Change: tuned less "
    "default, in points."
)


def terms_of(table: Table, tunings: Iterable[Tuned]) -> list[str]:
    """A line on the terms of every tuning that has a row or column of the table."""
    shown = {defense.terms for defense in table.defenses if defense.terms}
    return [_terms(method) for method in tuned_methods(tunings) if method.terms in shown]


def tuning_tables(board: Leaderboard) -> list[TextTable]:
    """What was chosen, and what it changed; no table without a cell that a tuning chose."""
    rows = board.tuning_rows
    if not rows:
        return []
    shown = {row.defense.terms for row in rows}
    terms = tuple(_terms(method) for method in tuned_methods(board.tunings) if method.terms in shown)
    some_attacks = any(row.setting.attacks is not None for row in rows)
    first = ("Task", "Defense", *(("For attacks",) if some_attacks else ()))
    names = [(*map(str, (row.task, row.defense)), *((_attacks(row),) if some_attacks else ())) for row in rows]
    search = ("Hyperparameters", "Trials", "Rows trained on", "Score", "CACC", "ASR", "Spread")
    effect = ("Victims", "CACC, default", "CACC, tuned", "CACC change", "ASR, default", "ASR, tuned", "ASR change")
    choices = tuple(name + _choice(row) for name, row in zip(names, rows, strict=True))
    changes = tuple(
        (*name, str(row.victims), *_change(row.cacc), *_change(row.asr)) for name, row in zip(names, rows, strict=True)
    )
    return [
        TextTable("Tuning", "What was chosen, on validation rows", first + search, choices, len(first) + 1, CHOICES, terms),
        TextTable("Tuning", "What it changes, on test rows", first + effect, changes, len(first), CHANGES, terms),
    ]


def _terms(method: TunedMethod) -> str:
    tuned, terms = method.tunings[0], method.terms
    bound = "any number of rows" if tuned.trained_rows is None else f"at most {tuned.trained_rows:,} rows in all"
    return (
        f"Tuned ({terms}): hyperparameters chosen on validation rows, for each task and defense from at most "
        f"{_count(terms.budget)}, the default among them, that train on {bound}. Searcher: {tuned.searcher}. Tolerance: "
        f"{100 * tuned.tolerance:g} points of clean accuracy. Objective {terms.objective}: {GOALS[terms.objective]}."
    )


def _count(trials: int) -> str:
    return f"{trials:,} trial{'' if trials == 1 else 's'}"


def _attacks(row: TuningRow) -> str:
    return "all" if row.setting.attacks is None else ", ".join(row.setting.attacks)


def _choice(row: TuningRow) -> tuple[str, ...]:
    changed = [f"{name} {_value(default)} → {_value(chosen)}" for name, default, chosen in row.differing]
    spread = row.setting.asr_spread
    trials = (row.default_trial, row.chosen_trial)
    return (
        (", ".join(changed) or "default kept") + (BEYOND_TOLERANCE if row.exceeds_tolerance else ""),
        f"{len(row.setting.trials)}" + (f" ({row.failed_trials} failed)" if row.failed_trials else ""),
        f"{row.trained_rows:,}",
        _arrow(*(None if trial is None or trial.score is None else f"{trial.score:.3f}" for trial in trials)),
        _arrow(*(_rate(trial, "cacc") for trial in trials)),
        _arrow(*(_rate(trial, "asr") for trial in trials)),
        ABSENT if spread is None else percent(spread),
    )


def _rate(trial: Trial | None, metric: str) -> str | None:
    value = None if trial is None else getattr(trial, metric)
    return None if value is None else percent(value)


def _arrow(default: str | None, chosen: str | None) -> str:
    """`0.500 → 0.900`; one dash if there is neither."""
    return ABSENT if default is None and chosen is None else f"{default or ABSENT} → {chosen or ABSENT}"


def _change(change: Change) -> tuple[str, ...]:
    if change.difference is None:
        return (ABSENT, ABSENT, ABSENT)
    return (percent(change.default), percent(change.tuned), points(change.difference))


def _value(value: Value) -> str:
    """A hyperparameter; of a drawn number the first four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
