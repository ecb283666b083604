"""From names and overrides to cells: every default filled in, every bad value refused before the first cell runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bdbench.attacks.base import Attack, MadeElsewhere
from bdbench.data import TextSet
from bdbench.defenses.base import Defense, Detector
from bdbench.engine.classifiers import classifier_skeleton
from bdbench.engine.findings import find_out
from bdbench.engine.kernels import widening_pays
from bdbench.engine.models import ModelSource, find_model
from bdbench.engine.precision import PRECISIONS, native_precision, torch_device
from bdbench.engine.probe import SHORTEST_MAX_LENGTH, probe
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import Recipe
from bdbench.errors import UsageError
from bdbench.fence import refusing
from bdbench.goals import ALL_TO_ALL
from bdbench.matrix.graph import victims_of
from bdbench.matrix.peers import attack_on_peers, peers_of
from bdbench.matrix.selection import Selection, attacks_of, defenses_of, distinct
from bdbench.matrix.sizes import check_users_rows, checked_rows, data_spec, overlaps, row_count, unlabelled_row_count
from bdbench.matrix.tuned import tuned_defenses
from bdbench.matrix.tuned_files import TunedFile
from bdbench.plugin_files import PluginFile
from bdbench.protocol.paired_texts import check_paired, identified
from bdbench.protocol.plugins import needs_of, plugin_spec
from bdbench.protocol.row_checks import naming
from bdbench.protocol.rows import DefenderSets, Rows
from bdbench.protocol.site import Site
from bdbench.protocol.sources import load
from bdbench.registry import TASKS
from bdbench.source import source_digest
from bdbench.specs.checked import checked
from bdbench.specs.tuned import Tuned
from bdbench.specs.work import CellSpec, VictimSpec
from bdbench.tasks.base import Splits, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Plan:
    """The cells in the order they are to be run, where their model and data are, and what the user should be warned of.

    `model` is how the user named the model: a directory, or a name by which any machine finds it. `tunings` chose the
    hyperparameters of some cells. `checkpoint` is the folder of a victim that the user brought.

    Every task comes to its first attack before any comes to its second, and to a seed before any comes to the next, so that
    a run that is cut short has the same rows for all tasks.
    """

    cells: tuple[CellSpec, ...]
    model_folder: Path
    data_folder: Path | None
    model: str
    warnings: tuple[str, ...] = ()
    tunings: tuple[Tuned, ...] = ()
    checkpoint: Path | None = None

    @property
    def victims(self) -> tuple[VictimSpec, ...]:
        """The distinct victims of the cells, each behind the clean model it needs."""
        return victims_of(self.cells)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose rows the victims are made of, those of peers among them."""
        return tuple(dict.fromkeys(victim.task for victim in self.victims))


def plan(selection: Selection, device: str = "auto", tuned_files: Sequence[TunedFile] = ()) -> Plan:
    """Check everything that can be checked without training, and spell the cells out.

    A defense is run with its selected hyperparameters and with those that the files chose for the task.

    Raises UsageError for whatever cannot be run; see the module of the part that refuses it.
    """
    tasks = distinct("task", selection.tasks)
    attacks = attacks_of(selection)
    for attack in attacks:
        if isinstance(attack, MadeElsewhere) and (selection.victim is None or not attack.digest):
            raise UsageError(
                f"the attack '{attack.name}' is a victim that you bring: bdbench run --victim DIR --base BASE --trigger TEXT "
                "--target CLASS"
            )
    tuned = tuned_defenses(tuned_files, tasks, [attack.name for attack in attacks], defenses_of(selection))
    defenses = tuned.all
    recipe, asked_precision = Recipe.build(selection.training), _precision(selection.precision, torch_device(device))
    _check_counts(selection)
    model = find_model(selection.model, selection.model_digest)
    source, folder = data_source(selection.data)
    tokenizer = load_tokenizer(model.folder)
    warnings: list[str] = [*tuned.warnings]
    needed = {resource for parts in defenses for resource in needs_of(parts)}
    on_peers = attack_on_peers(selection) if "peers" in needed else None
    for attack in attacks if on_peers is None else dict.fromkeys((*attacks, on_peers)):
        with refusing(f"'{attack.name}'"):
            warnings += attack.warnings(tokenizer)
    cells: dict[tuple[int, Attack, str], list[CellSpec]] = {}
    for task_name in tasks:
        task = TASKS.get(task_name)()
        splits = load(task, source, folder)
        data = data_spec(task_name, splits, selection)
        validation_rows = row_count(task_name, selection.validation_rows, len(splits.validation), "--validation-rows")
        precision, doubts = _probed(model, task, selection.max_length, asked_precision, torch_device(device))
        warnings += doubts + _unfit(defenses, model, len(task.label_names))
        unlabelled_rows = unlabelled_row_count(task_name, splits, data, selection) if "unlabelled" in needed else 0
        even_classes = selection.even_classes and "clean" in needed
        sets = DefenderSets(selection.clean_rows, validation_rows, even_classes, unlabelled_rows)
        settings = {parts: _cell_setting(parts, sets, selection.frr) for parts in tuned.all}
        peers = None if on_peers is None else peers_of(on_peers, task, selection, source, folder)
        made = {attack: identified(attack, task, folder) for attack in attacks}
        for seed in selection.seeds:
            victims = {
                attack: VictimSpec(
                    task=task_name,
                    data=data,
                    model=model.spec,
                    max_length=selection.max_length,
                    training=recipe.values(),
                    precision=precision,
                    attack=plugin_spec(made[attack]),
                    seed=seed,
                    task_version=task.version,
                )
                for attack in attacks
            }
            rows = checked_rows(victims[attacks[0]], splits, sets)  # they are the same for every attack
            warnings += overlaps(f"{task_name}, seed {seed}", rows)
            of_seed = () if peers is None else peers.of(victims[attacks[0]])
            with naming(f"--peers {selection.peers}"):
                for peer in of_seed:  # the defender's sets hold none of its rows
                    of_peer = checked_rows(peer, peers.splits, DefenderSets())
                    _check_attack(peers.attack, peer, peers.task, peers.splits, of_peer, DefenderSets(), tokenizer, folder)
            for attack, victim in victims.items():
                _check_attack(made[attack], victim, task, splits, rows, sets, tokenizer, folder)
                cells[seed, attack, task_name] = [
                    CellSpec(victim, **settings[parts], peers=of_seed if "peers" in needs_of(parts) else ())
                    for parts in tuned.of(task_name, attack.name)
                ]
    in_order = itertools.product(selection.seeds, attacks, tasks)
    ordered_cells = tuple(cell for place in in_order for cell in cells[place])
    _check_specs(ordered_cells)
    tunings = tuple(file.tuned for file in tuned_files)
    return Plan(
        ordered_cells,
        model.folder,
        folder,
        selection.model,
        tuple(dict.fromkeys(warnings)),
        tunings,
        None if selection.victim is None else Path(selection.victim).resolve(),
    )


def data_source(data: str) -> tuple[str, Path | None]:
    """("hub" | "builtin", None), or ("directory", its path)."""
    return (data, None) if data in ("hub", "builtin") else ("directory", Path(data))


def site_for(plan: Plan, plugins: Sequence[PluginFile] = (), threads: int = 1, device: str = "auto") -> Site:
    """Where this machine does the work of a plan. What decides bits is decided here, once, for all processes of the run."""
    on_cpu_in_bf16 = torch_device(device).type == "cpu" and any(victim.precision == "bf16" for victim in plan.victims)
    torch.set_num_threads(threads)  # the timing below is that of a worker
    return Site(
        model=plan.model_folder,
        data=None if plan.data_folder is None else plan.data_folder.resolve(),
        plugins=tuple(plugins),
        threads=threads,
        device=device,
        widened=on_cpu_in_bf16 and widening_pays(),
        source=source_digest(),
        checkpoint=plan.checkpoint,
    )


def cell_of(victim: VictimSpec, parts: Sequence[Defense], sets: DefenderSets) -> CellSpec:
    """The spec of a repair's cell, without peers."""
    return CellSpec(victim, **_cell_setting(parts, sets))


def _cell_setting(parts: Sequence[Defense], sets: DefenderSets, frr: float | None = None) -> dict[str, Any]:
    """The fields of a cell's spec beside its victim and its peers.

    The size of a set that the defense does not get makes no difference, so it makes no other cell.
    """
    needs = needs_of(parts)
    return {
        "defense": tuple(plugin_spec(part) for part in parts),
        "clean_rows": sets.clean_rows if "clean" in needs else 0,
        "validation_rows": sets.validation_rows if "validation" in needs else 0,
        "even_classes": sets.even_classes and "clean" in needs,
        "unlabelled_rows": sets.unlabelled_rows if "unlabelled" in needs else 0,
        "frr": frr if parts[-1].kind == Detector.kind else None,
    }


def _check_specs(cells: Sequence[CellSpec]) -> None:
    """Raises UsageError for a cell whose record nobody could read.

    Cells share their victims and their settings, which are one object each. What was read in one cell is read in all.
    """
    seen: set[int] = set()
    for cell in cells:
        shared = {id(cell.victim), id(cell.defense)}
        if shared <= seen:
            continue
        seen |= shared
        try:
            checked(CellSpec, json.loads(json.dumps(asdict(cell))))
        except ValueError as error:
            raise UsageError(f"{cell.label()}: no record can hold its settings: {error}") from error


def _check_counts(selection: Selection) -> None:
    if not selection.seeds:
        raise UsageError("no seed to run; give --seeds 0 or --seeds 0-2")
    if selection.max_length < SHORTEST_MAX_LENGTH:
        raise UsageError(f"--max-length {selection.max_length}: at least {SHORTEST_MAX_LENGTH} word pieces are needed")
    counted = ("clean_rows", "train_rows", "unlabelled_rows", "peer_count")
    for flag, value in ((name.replace("_", "-"), getattr(selection, name)) for name in counted):
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: at least 1 is needed")
    if not 0 < selection.frr < 1:
        raise UsageError(f"--frr {selection.frr:g}: the share of clean rows that a detector may reject is between 0 and 1")


def _probed(model: ModelSource, task: Task, max_length: int, precision: str, device: torch.device) -> tuple[str, list[str]]:
    """The precision in which the model can be trained for the task, and a warning if it is not the one asked for."""
    classes, paired = len(task.label_names), len(task.columns) > 1
    trial = probe(model.folder, classes, max_length=max_length, paired=paired, precision=precision, device=device)
    if trial.precision == precision:
        return precision, []
    return trial.precision, [
        f"{model.spec.name} fails in {precision} ({trial.why_not_asked}); its cells are computed in {trial.precision}"
    ]


def _unfit(defenses: Sequence[Sequence[Defense]], model: ModelSource, classes: int) -> list[str]:
    """A warning for every defense that cannot repair such a model. Raises UsageError if none can."""
    reason_by_part = _reasons_against(dict.fromkeys(part for defense in defenses for part in defense), model, classes)
    reasons = {}
    for defense in defenses:
        for part in defense:
            if reason := reason_by_part.get(part):
                reasons[defense] = f"{part.name} is skipped: {reason}"
    if len(reasons) == len(defenses):
        raise UsageError(f"no defense of this run fits the model: {reasons[defenses[0]]}; name others with -d")
    return list(reasons.values())


def _reasons_against(parts: Iterable[Defense], model: ModelSource, classes: int) -> dict[Defense, str | None]:
    """What those say that have something to say of a model. The answers of bdbench's own are kept (see `findings`)."""
    picky = [part for part in parts if type(part).unfit is not Defense.unfit]
    own = [part for part in picky if type(part).__module__.startswith("bdbench.")]

    def answers(asked: Sequence[Defense]) -> list[str | None]:
        return [part.unfit(classifier_skeleton(model.folder, classes)) for part in asked]

    files = {"weights": model.spec.digest, "config": model.spec.config}
    question = {"what": "unfit", "parts": [asdict(plugin_spec(part)) for part in own], "classes": classes, **files}
    reasons = dict(zip(own, find_out(question, lambda: answers(own)) if own else (), strict=True))
    others = [part for part in picky if part not in reasons]
    return reasons | dict(zip(others, answers(others), strict=True))


def _check_attack(
    attack: Attack,
    victim: VictimSpec,
    task: Task,
    splits: Splits,
    rows: Rows,
    sets: DefenderSets,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | None,
) -> None:
    """Raises UsageError if the attack cannot make this victim, or if there is no way to test it."""
    classes = len(task.label_names)
    _check_goal(attack, classes, rows.test)
    check_users_rows(attack, victim, splits, sets)
    check_paired(attack, task, rows, folder)
    with refusing(f"'{attack.name}'"):
        attack.check(rows.train, classes, tokenizer, victim.max_length)


def _check_goal(attack: Attack, classes: int, test: TextSet) -> None:
    if attack.has_trigger and not 0 <= attack.target < classes:
        raise UsageError(f"{attack.name}.target={attack.target}, but the task's classes are 0 to {classes - 1}")
    if attack.values().get("goal") == ALL_TO_ALL and test.labels.max() < classes - 1:
        raise UsageError(
            f"{attack.name}.goal={ALL_TO_ALL} needs test rows of every class, but has none of {classes - 1}; raise --test-rows"
        )


def _precision(precision: str, device: torch.device) -> str:
    """The effective precision, since records of machines with and without bf16 must not pass for the same cell."""
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not one of {', '.join(PRECISIONS)}")
    return native_precision(device) if precision == "auto" else precision
