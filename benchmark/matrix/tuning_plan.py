"""What a tuning is to do: which defense is tuned on which victims, and for which attacks and tasks the setting is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bdbench.defenses.base import Defense, ModelRepair
from bdbench.engine.classifiers import classifier_skeleton
from bdbench.errors import UsageError
from bdbench.fence import refusing
from bdbench.matrix.plan import Plan, data_source, plan
from bdbench.matrix.selection import Selection, defenses_of, distinct
from bdbench.matrix.sizes import row_count
from bdbench.protocol.compositions import name_of
from bdbench.protocol.plugins import attack_of, needs_of, parts_of
from bdbench.protocol.rows import DefenderSets
from bdbench.protocol.sources import load
from bdbench.protocol.trials import Measure
from bdbench.registry import TASKS
from bdbench.specs.work import CellSpec, VictimSpec

MEASURES: dict[str, Measure] = {"accuracy": "accuracy", "planted": "planted", "oracle": "oracle", "transfer": "oracle"}
# Resources that say nothing of the victims of a trial, in which a trigger of the defender's own may be planted.
NOT_OF_A_TRIAL = frozenset({"peers", "training-set", "training-control"})


@dataclass(frozen=True)
class Transfer:
    """What "transfer" tunes on: development attacks, or all but one at a time; and tasks (None: those of the run)."""

    attacks: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    leave_one_out: bool = False


@dataclass(frozen=True)
class Group:
    """One defense and the victims it is tuned on: a cell for each, with the defense's default.

    The setting is for `tasks`, and there for the attacks named `attacks`; None means all.
    """

    tasks: tuple[str, ...]
    attacks: tuple[str, ...] | None
    parts: tuple[Defense, ...]
    cells: tuple[CellSpec, ...]


@dataclass(frozen=True)
class TuningPlan:
    """The groups, the sizes of the defender's sets by task, the victims as a plan of cells, and what to warn of."""

    groups: tuple[Group, ...]
    sets: dict[str, DefenderSets]
    plan: Plan
    warnings: tuple[str, ...] = ()

    @property
    def victims(self) -> tuple[VictimSpec, ...]:
        """The victims that are tuned on; the clean models that they need are not among them."""
        return tuple({cell.victim.key(): cell.victim for group in self.groups for cell in group.cells}.values())


def plan_tuning(selection: Selection, objective: str, transfer: Transfer = Transfer(), device: str = "auto") -> TuningPlan:
    """Check and spell out a tuning. Raises UsageError for whatever cannot be tuned, or run (see `plan`)."""
    _check_transfer(selection, objective, transfer)
    tasks = tuple(distinct("task", selection.tasks))
    tuned_on = replace(selection, tasks=transfer.tasks or tasks)
    if transfer.attacks is not None:
        names = _names(transfer.attacks)
        params = {name: value for name, value in selection.attack_params.items() if name.partition(".")[0] in names}
        tuned_on = replace(tuned_on, attacks=transfer.attacks, attack_params=params)
    for part in [part for parts in defenses_of(tuned_on) for part in parts]:
        if part.kind != ModelRepair.kind or part.needs & NOT_OF_A_TRIAL:
            raise UsageError(
                f"bdbench tune tries repairs that take no other models and no training set; '{part.name}' is of the kind "
                f"{part.kind} and needs "
                f"{', '.join(needs_of([part])) or 'nothing'}; leave it out of -d"
            )
    planned = plan(tuned_on, device)
    groups, warnings = [], list(planned.warnings)
    for attacks, cells in _by_attacks(planned.cells, selection, transfer):
        for of_tasks, cells_of_tasks in _by_tasks(cells, tasks, transfer):
            for parts, own_cells in _by_defense(cells_of_tasks):
                reason = _why_skipped(parts, own_cells, planned)
                if reason:
                    warnings.append(
                        f"{'+'.join(part.name for part in parts)} is not tuned on {' and '.join(of_tasks)}: {reason}"
                    )
                    continue
                if MEASURES[objective] == "oracle" and not any(attack_of(cell.victim).has_trigger for cell in own_cells):
                    raise UsageError(f"--objective {objective}: no attack that is tuned on has a trigger; name others with -a")
                groups.append(Group(of_tasks, attacks, parts, own_cells))
    if not groups:
        raise UsageError(f"no defense can be tuned here: {warnings[-1]}")
    return TuningPlan(tuple(groups), _sets(tuned_on), planned, tuple(dict.fromkeys(warnings)))


def _check_transfer(selection: Selection, objective: str, transfer: Transfer) -> None:
    if objective != "transfer":
        if transfer != Transfer():
            raise UsageError("--dev-attacks, --dev-tasks and --leave-one-attack-out are for --objective transfer")
        return
    if (transfer.attacks is None) == (not transfer.leave_one_out):
        raise UsageError("--objective transfer: give --dev-attacks a,b or --leave-one-attack-out, one of the two")
    names = _names(selection.attacks)
    if transfer.leave_one_out and len(names) < 2:
        raise UsageError(f"--leave-one-attack-out: {', '.join(names)} is one attack; name others with -a")
    if transfer.attacks is not None and not set(names) - set(_names(transfer.attacks)):
        raise UsageError("--dev-attacks: all attacks of the run are tuned on, so that none is left to use the setting on")


def _names(attacks: Sequence[str]) -> tuple[str, ...]:
    """The names of attacks, each once, without the values in brackets."""
    return tuple(dict.fromkeys(name_of(attack) for attack in attacks))


def _by_attacks(
    cells: Sequence[CellSpec], selection: Selection, transfer: Transfer
) -> list[tuple[tuple[str, ...] | None, list[CellSpec]]]:
    """What a setting is for, as names of attacks (None: all), and the cells that it is tuned on."""
    if transfer.leave_one_out:
        return [
            ((held_out,), [cell for cell in cells if cell.victim.attack.name != held_out])
            for held_out in _names(selection.attacks)
        ]
    if transfer.attacks is not None:
        dev = _names(transfer.attacks)
        return [(tuple(name for name in _names(selection.attacks) if name not in dev), list(cells))]
    return [(None, list(cells))]


def _by_tasks(
    cells: Sequence[CellSpec], tasks: tuple[str, ...], transfer: Transfer
) -> list[tuple[tuple[str, ...], list[CellSpec]]]:
    """The tasks that a setting is for, and the cells it is tuned on: each task's own, or those of all development tasks."""
    if transfer.tasks is not None:
        return [(tasks, list(cells))]
    return [((task,), [cell for cell in cells if cell.victim.task == task]) for task in tasks]


def _by_defense(cells: Sequence[CellSpec]) -> list[tuple[tuple[Defense, ...], tuple[CellSpec, ...]]]:
    cells_by_parts: dict[tuple[Defense, ...], list[CellSpec]] = {}
    for cell in cells:
        cells_by_parts.setdefault(tuple(parts_of(cell)), []).append(cell)
    return [(parts, tuple(own_cells)) for parts, own_cells in cells_by_parts.items()]


def _why_skipped(parts: Sequence[Defense], cells: Sequence[CellSpec], planned: Plan) -> str | None:
    """Why a run would skip cells of this defense."""
    for task in dict.fromkeys(cell.victim.task for cell in cells):
        for part in parts:
            with refusing(f"'{part.name}'"):
                skeleton = classifier_skeleton(planned.model_folder, len(TASKS.get(task).label_names))
                reason = part.skip(task) or (None if part.unchanged else part.unfit(skeleton))
            if reason:
                return reason
    return None


def _sets(selection: Selection) -> dict[str, DefenderSets]:
    """The defender's sets by task, whatever a defense asks for: its own backdoor and the scores need both."""
    source, folder = data_source(selection.data)
    sizes = {}
    for task in selection.tasks:
        rows = len(load(TASKS.get(task)(), source, folder).validation)
        validation_rows = row_count(task, selection.validation_rows, rows, "--validation-rows")
        sizes[task] = DefenderSets(selection.clean_rows, validation_rows, selection.even_classes)
    return sizes
