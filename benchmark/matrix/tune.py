"""From a plan of a tuning to its file: prepare the victims, run the trials of all studies, choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from bdbench.errors import StorageError, in_one_line
from bdbench.matrix.search_space import Setting, check_only, dimensions
from bdbench.matrix.searchers import least_accepted, searcher_of
from bdbench.matrix.studies import Goal, Request, Studies, Study
from bdbench.matrix.tune_worker import Ended, TuneWorker, Tuning
from bdbench.matrix.tuning_plan import Group, TuningPlan
from bdbench.protocol.environment import environment
from bdbench.seeds import derive
from bdbench.specs.tuned import Trial, Tuned
from bdbench.specs.work import VictimSpec

Tell = Callable[[str], None]  # shows a line


@dataclass(frozen=True)
class Budget:
    """What every defense gets: so many trials, and no more once they have trained on `rows` rows (None: not bounded)."""

    trials: int
    rows: int | None = None


@dataclass(frozen=True)
class Search:
    """How settings are looked for: the searcher by name, and the hyperparameters it is restricted to (None: all)."""

    searcher: str
    only: Collection[str] | None = None


def tune(
    tuning_plan: TuningPlan,
    worker: TuneWorker,
    tuning: Tuning,
    goal: Goal,
    search: Search,
    budget: Budget,
    *,
    slots: int = 1,
    typed: Mapping[str, Any] | None = None,
    tell: Tell = lambda line: None,
) -> Tuned:
    """Run every trial that is not known yet, and choose a setting for every group.

    The victims must be in the store. `slots` trials run at a time. Raises what `check_search` raises, and StorageError as soon
    as a result cannot be written; what ended before is kept.
    """
    prepare(tuning_plan, worker, tuning, tell)
    window = max(1, math.ceil(slots / len(tuning_plan.groups)))
    befores = [_before(group, worker) for group in tuning_plan.groups]
    studies = Studies(
        [
            _study(group, tuning_plan, goal, search, budget, window, before)
            for group, before in zip(tuning_plan.groups, befores, strict=True)
        ]
    )

    def end(request: Request, ended: Ended) -> None:
        if ended.unstored:
            raise StorageError(ended.error)
        trial = trial_of(request, ended, goal, befores[request.study])
        studies.end(request, trial)
        for warning in ended.warnings:
            tell(f"warning: {warning}")
        study = studies.studies[request.study]
        which = f"trial {request.number + 1} of {study.budget}"
        tell(f"{study.name}: {which}: {_described(trial, study.settings[request.number])}")

    def suggest() -> Request | None:
        """The next trial that has to be run."""
        while request := studies.suggest():
            known = worker.known(request)
            if known is None:
                return request
            end(request, known)
        return None

    waiting = [request] if (request := suggest()) else []
    if waiting:
        tuning.run(lambda: waiting.pop() if waiting else suggest(), lambda: studies.is_over and not waiting, end)
    return Tuned(
        objective=goal.objective,
        searcher=search.searcher,
        budget=budget.trials,
        trained_rows=budget.rows,
        tolerance=goal.tolerance,
        settings=tuple(setting for study in studies.studies for setting in study.tuned()),
        typed=dict(typed or {}),
        env=environment(worker.site) | {"at_a_time": window},
        notes=_notes(tuning_plan, worker),
    )


def check_search(tuning_plan: TuningPlan, goal: Goal, search: Search, budget: Budget) -> None:
    """Raises UsageError if the searcher is not there, or cannot search one of the defenses."""
    if search.only is not None:
        check_only(search.only, [group.parts for group in tuning_plan.groups])
    for group in tuning_plan.groups:
        _study(group, tuning_plan, goal, search, budget, window=1, before=1.0)


def prepare(tuning_plan: TuningPlan, worker: TuneWorker, tuning: Tuning, tell: Tell) -> None:
    """Score every victim before any defense; with the objective "planted" plant a backdoor into a copy of it first.

    A victim for which that fails is told of, and fails its trials.
    """

    def ended(victim: VictimSpec, outcome: Ended) -> None:
        label = f"{victim.task} / {victim.attack.name} / seed {victim.seed}"
        if outcome.unstored:
            raise StorageError(outcome.error)
        for warning in outcome.warnings:
            tell(f"warning: {warning}")
        if outcome.error:
            tell(f"victim {label}: failed: {in_one_line(outcome.error.strip().splitlines()[-1])}")
            return
        before = worker.store.before(victim, worker.sets[victim.task])
        tell(f"victim {label}: {_rates(before.measured.cacc, before.measured.asr)}")
        if before.planted is not None and not before.planted.took:
            tell(
                f"warning: the backdoor planted into {label} did not take in {before.planted.attempts} attempts (ASR "
                f"{100 * before.planted.asr:.1f}, accuracy lost {100 * before.planted.lost:.1f}): tuning on it says little"
            )

    missing = [victim for victim in tuning_plan.victims if worker.store.before(victim, worker.sets[victim.task]) is None]
    tuning.prepare(missing, ended)


def trial_of(request: Request, ended: Ended, goal: Goal, before: float) -> Trial:
    """A trial from what was measured on each victim: means, and the score. `before` is the victims' own mean accuracy."""
    if ended.error is not None:
        return Trial(request.defense, "failed", None, None, None, 0, 0.0, ended.error)
    cacc = fmean(measured.cacc for measured in ended.measured)
    rates = [measured.asr for measured in ended.measured if measured.asr is not None]
    asr = fmean(rates) if rates else None
    rows, seconds = (sum(getattr(measured, name) for measured in ended.measured) for name in ("trained_rows", "seconds"))
    return Trial(request.defense, "ok", goal.score(cacc, asr, before), cacc, asr, rows, seconds)


def _study(
    group: Group, tuning_plan: TuningPlan, goal: Goal, search: Search, budget: Budget, window: int, before: float
) -> Study:
    own_dimensions, name = dimensions(group.parts, search.only), "+".join(part.name for part in group.parts)
    first = group.cells[0].victim
    seed = derive(first.seed, "tune", *group.tasks, name) % 2**32
    least = least_accepted(before, goal.tolerance)
    return Study(
        group.tasks,
        group.attacks,
        group.parts,
        group.cells,
        [tuning_plan.sets[cell.victim.task] for cell in group.cells],
        own_dimensions,
        searcher_of(search.searcher, own_dimensions, seed, budget.trials, least, name),
        goal,
        budget.trials,
        budget.rows,
        window,
    )


def _before(group: Group, worker: TuneWorker) -> float:
    """The mean clean accuracy of a group's victims before any defense; 0 if one of them failed, as its trials will."""
    befores = [worker.store.before(cell.victim, worker.sets[cell.victim.task]) for cell in group.cells]
    return 0.0 if None in befores else fmean(before.measured.cacc for before in befores)


def _notes(tuning_plan: TuningPlan, worker: TuneWorker) -> dict[str, Any]:
    notes: dict[str, Any] = {"before": {}, "planted": {}}
    for victim in tuning_plan.victims:
        before = worker.store.before(victim, worker.sets[victim.task])
        if before is not None:
            notes["before"][victim.key()] = {"cacc": before.measured.cacc, "asr": before.measured.asr}
            if before.planted is not None:
                notes["planted"][victim.key()] = asdict(before.planted)
    return notes


def _described(trial: Trial, setting: Setting) -> str:
    if trial.status == "failed":
        return f"failed: {in_one_line(trial.error.strip().splitlines()[-1])}"
    values = [f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in setting.items()]
    return f"score {trial.score:.3f}, {_rates(trial.cacc, trial.asr)} ({', '.join(values) or 'nothing to tune'})"


def _rates(cacc: float, asr: float | None) -> str:
    return f"cacc {100 * cacc:.1f}" + ("" if asr is None else f", asr {100 * asr:.1f}")
