"""`bdbench tune`: search the hyperparameters of each defense with the same budget, and write the file that a run uses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bdbench.api.execution import selection_of, typed_values
from bdbench.api.values import drop_none
from bdbench.cli.arguments import Text, load_plugins, names
from bdbench.cli.run import run
from bdbench.cli.selection import SELECTING, overrides_of, with_flags_of
from bdbench.errors import UsageError, nearest
from bdbench.matrix.storage import LocalPlace, place_of

if TYPE_CHECKING:
    from bdbench.matrix.plan import Plan
    from bdbench.matrix.tune_worker import TuneWorker, Tuning
    from bdbench.matrix.worker import Worker

SEARCHERS = ("optuna", "random", "bisect")
PLACES = ("inline", "workers", "threads", "device", "gpus_per_cell", "cell_timeout")
TOLERANCES = {"accuracy": 0.02}  # of clean accuracy; 0.05 for the objectives with a trigger
TOLERANCE = 0.05


@with_flags_of(run, *SELECTING, *PLACES)
def tune(
    out: Annotated[Path, typer.Option(help="the file to write, for bdbench run --tuned; trials are kept in FILE.trials")],
    victims: Annotated[str, typer.Option(help="folder of the victims, on this machine")] = "results/victims",
    objective: Annotated[
        str,
        typer.Option(
            help="accuracy (near-ties: the most aggressive), planted (a backdoor of the defender's own), transfer (on "
            "development attacks), oracle (the attack's own trigger: an upper bound)"
        ),
    ] = "planted",
    budget: Annotated[int, typer.Option(min=1, max=10_000, help="trials of each defense, the default first")] = 16,
    budget_rows: Annotated[
        int | None, typer.Option(min=1, help="no more trials of a defense that has trained on so many rows")
    ] = None,
    searcher: Annotated[str, typer.Option(help="optuna (TPE), random, or bisect (one hyperparameter alone)")] = "optuna",
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="clean accuracy that a setting may cost (0.05; accuracy: what is a near-tie, 0.02)"),
    ] = None,
    only: Annotated[Text, typer.Option(help="search these alone: DEFENSE.PARAMETER, separated by commas")] = None,
    dev_attacks: Annotated[Text, typer.Option(help="transfer: attacks to tune on; the setting is for the others")] = None,
    dev_tasks: Annotated[Text, typer.Option(help="transfer: tasks to tune on (default: each task by itself)")] = None,
    leave_one_attack_out: Annotated[
        bool, typer.Option("--leave-one-attack-out", help="transfer: for each attack a setting tuned on the others")
    ] = False,
    **flags: Any,
) -> None:
    """Tune each defense with the same budget, on stored victims and validation rows alone. Finished trials are kept."""
    from bdbench.specs.tuned import OBJECTIVES

    for flag, value, known in (("objective", objective, OBJECTIVES), ("searcher", searcher, SEARCHERS)):
        if value not in known:
            raise UsageError(f"--{flag} {value}{nearest(value, known)}; known: {', '.join(known)}")
    out, victims_place = out.absolute(), place_of(victims).absolute()
    if not isinstance(victims_place, LocalPlace):
        raise UsageError(f"--victims {victims_place}: trials read victims from a folder of this machine alone; give one")
    plugins = load_plugins(flags["plugin"])
    overrides = overrides_of(flags)
    from bdbench.matrix.tuning_plan import MEASURES, Transfer, plan_tuning

    transfer = Transfer(names(dev_attacks), names(dev_tasks), leave_one_attack_out)
    tuning_plan = plan_tuning(selection_of(flags["preset"], overrides), objective, transfer, flags["device"])
    for warning in tuning_plan.warnings:
        typer.echo(f"warning: {warning}", err=True)

    from bdbench.engine.folders import count_weights
    from bdbench.matrix.deadline import TimeLimit
    from bdbench.matrix.lock import locked
    from bdbench.matrix.plan import site_for
    from bdbench.matrix.studies import Goal
    from bdbench.matrix.trial_store import TrialStore
    from bdbench.matrix.tune import Budget, Search, check_search
    from bdbench.matrix.tune import tune as run_trials
    from bdbench.matrix.tune_worker import TuneWorker
    from bdbench.matrix.tuned_files import write_tuned
    from bdbench.matrix.victim_store import VictimStore
    from bdbench.matrix.worker import Worker

    goal = Goal(objective, TOLERANCES.get(objective, TOLERANCE) if tolerance is None else tolerance)
    search, tries = Search(searcher, names(only)), Budget(budget, budget_rows)
    check_search(tuning_plan, goal, search, tries)
    trials = TrialStore(out.with_name(f"{out.name}.trials"), MEASURES[objective])
    trials.prepare()
    store = VictimStore(victims_place.folder).prepare()
    site = site_for(tuning_plan.plan, plugins, flags["threads"], flags["device"])
    limit = TimeLimit(flags["cell_timeout"], count_weights(tuning_plan.plan.model_folder), flags["threads"])
    own_flags = drop_none(
        dev_attacks=transfer.attacks,
        dev_tasks=transfer.tasks,
        only=search.only,
        leave_one_attack_out=transfer.leave_one_out or None,
    )
    typed = typed_values(flags["preset"], overrides) | own_flags
    worker = TuneWorker(site, store.folder, trials, tuning_plan.sets, time_limit=limit)
    with locked(trials.folder):
        try:
            make_missing_victims(tuning_plan.plan, Worker(site, store.folder, typed, time_limit=limit), flags)
            tuning_context, slots = places(worker, flags)
            with tuning_context as tuning:
                tuned = run_trials(tuning_plan, worker, tuning, goal, search, tries, slots=slots, typed=typed, tell=_tell)
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on where it stopped", err=True)
            raise typer.Exit(130) from None
        write_tuned(place_of(out.parent), out.name, tuned)
    typer.echo(out)
    failed = sum(trial.status == "failed" for setting in tuned.settings for trial in setting.trials)
    if failed:
        typer.echo(f"{failed} trials failed (their reasons are in the file)", err=True)
        raise typer.Exit(1)


def make_missing_victims(plan: Plan, worker: Worker, flags: Mapping[str, Any]) -> None:
    """Train the victims that are not in the store, as `bdbench run` does it. Those that fail are told of."""
    from bdbench.matrix.execute import InlinePool, execute
    from bdbench.matrix.graph import steps_of
    from bdbench.matrix.progress import MatrixProgress
    from bdbench.matrix.victim_store import VictimStore
    from bdbench.specs.work import VictimSpec

    store = VictimStore(worker.victims)
    steps = [step for step in steps_of(plan.cells) if isinstance(step.spec, VictimSpec)]
    if all(store.load(step.spec) is not None for step in steps):
        return
    progress = MatrixProgress(0, len(steps), steps=steps)
    if flags["inline"]:
        pool_context = nullcontext(InlinePool(worker, progress))
    else:
        from bdbench.matrix.pool import RayPool

        pool_context = RayPool(worker, progress, workers=flags["workers"], gpus_per_cell=flags["gpus_per_cell"])
    with progress.shown(), pool_context as pool:
        execute(steps, pool, None, progress)  # no step is a cell, so there are no results to write
    store.sweep()


def places(worker: TuneWorker, flags: Mapping[str, Any]) -> tuple[AbstractContextManager[Tuning], int]:
    """Where trials run, and how many at a time."""
    from bdbench.matrix.tune_worker import InlineTuning

    if flags["inline"]:
        return nullcontext(InlineTuning(worker)), 1
    from bdbench.matrix.ray_tune import RayTuning
    from bdbench.matrix.slots import local_slots

    gpu_share = flags["gpus_per_cell"] if worker.site.torch_device().type == "cuda" else 0.0
    at_a_time = local_slots(worker.site, flags["workers"], gpu_share)
    return RayTuning(worker, at_a_time, flags["gpus_per_cell"]), at_a_time


def _tell(line: str) -> None:
    typer.echo(line, err=True)
