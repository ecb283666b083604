"""Running cells of a finished run again from their specs: victims trained anew, in this process, in a folder of its own."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bdbench.attacks.base import MadeElsewhere
from bdbench.engine.folders import count_weights
from bdbench.engine.models import ModelSource, check_model, find_model
from bdbench.errors import UsageError
from bdbench.matrix.deadline import TimeLimit
from bdbench.matrix.execute import InlinePool, execute
from bdbench.matrix.expected import ExpectedWork
from bdbench.matrix.graph import in_order, steps_of
from bdbench.matrix.interrupts import Interrupts
from bdbench.matrix.plan import Plan, site_for
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.results import Results
from bdbench.matrix.victim_store import VictimStore
from bdbench.matrix.worker import Worker
from bdbench.plugin_files import PluginFile
from bdbench.protocol.plugins import attack_of, parts_of, task_of
from bdbench.protocol.rows import splits_of
from bdbench.protocol.victims import check_brought, check_site
from bdbench.specs.keys import PROTOCOL
from bdbench.specs.work import CellSpec, ModelSpec, VictimSpec

SEED = 0  # which cells are drawn is the same for everybody who checks a run


@dataclass(frozen=True)
class Here:
    """Where cells are run again: what the flags of the same names say. `data` and `victim` are directories, or None."""

    model: str | None = None
    data: Path | None = None
    victim: Path | None = None
    plugins: tuple[PluginFile, ...] = ()
    threads: int = 1
    device: str = "auto"


def draw(cells: Mapping[str, CellSpec], count: int) -> list[str]:
    """The names of `count` of the cells, or of all if they are fewer, sorted; the same ones each time."""
    names = sorted(cells)
    return sorted(random.Random(SEED).sample(names, min(count, len(names))))


def why_of_another_version(cell: CellSpec) -> str | None:
    """Why this version of bdbench, with its plugins, cannot run the cell again; None if it can.

    Raises UsageError for a plugin that is not there at all.
    """
    victims = (cell.victim, *cell.peers)
    for victim in victims:
        if victim.protocol != PROTOCOL:
            return f"of protocol {victim.protocol}, but bdbench here follows protocol {PROTOCOL}"
    try:
        parts_of(cell)
        for victim in victims:
            attack_of(victim)
            task_of(victim)
    except ValueError as error:
        return f"of another version of a plugin ({error})"
    except UsageError as error:
        raise UsageError(f"{cell.label()}: {error}; where it comes from a file, give that with --plugin") from error
    return None


def why_without_victim(cell: CellSpec, here: Here) -> str | None:
    """Why the cell's victim, which was made elsewhere, is not to be had here; None if it is, or if the victim is trained."""
    attack = attack_of(cell.victim)
    if isinstance(attack, MadeElsewhere):
        try:
            check_brought(attack, here.victim)
        except ValueError as error:
            return f"whose victim is not here ({error})"
    return None


def run_again(
    cells: Sequence[CellSpec], folder: Path, here: Here, labels: Mapping[str, str], interrupts: Interrupts | None = None
) -> None:
    """Run the cells, with all the victims that they take; records and predictions go to `folder`/run, victims beside it.

    `labels` are for the display, by key. Raises UsageError, before anything is trained, if a model or the data is not what a
    cell names.
    """
    results, store = Results(folder / "run"), VictimStore(folder / "victims").prepare()
    interrupts = interrupts or Interrupts()
    for plan in plans(cells, here):
        site = site_for(plan, here.plugins, here.threads, here.device)
        for spec in {victim.key(): victim for victim in plan.victims}.values():
            try:
                check_site(spec, site)
                splits_of(spec, site)
            except ValueError as error:
                raise UsageError(f"{_name(spec)} cannot be trained again here: {error}") from error
        weights = count_weights(plan.model_folder)
        worker = Worker(site, store.folder, {}, time_limit=TimeLimit(None, weights, here.threads))
        steps = in_order(steps_of(plan.cells), ExpectedWork(weights))
        progress = MatrixProgress(len(plan.cells), len(steps) - len(plan.cells), labels=labels, steps=steps)
        with progress.shown(), interrupts:
            execute(steps, InlinePool(worker, progress), results, progress, interrupts)


def plans(cells: Sequence[CellSpec], here: Here) -> list[Plan]:
    """The cells, those with one model and one kind of data together. Raises UsageError for a flag that is for none of them."""
    typed_model = None if here.model is None else find_model(here.model)
    cells_by_site: dict[Hashable, list[CellSpec]] = {}
    for cell in cells:
        cells_by_site.setdefault((cell.victim.model.canonical, _reads_directory(cell)), []).append(cell)
    plans = []
    for of_site in cells_by_site.values():
        source = _find(of_site[0].victim.model, typed_model)
        reads_directory = _reads_directory(of_site[0])
        if reads_directory and here.data is None:
            raise UsageError(f"{of_site[0].label()} was made from a directory of data; give it with --data DIR")
        data = here.data if reads_directory else None
        plans.append(Plan(tuple(of_site), source.folder, data, source.spec.name, checkpoint=here.victim))
    if here.data is not None and not any(map(_reads_directory, cells)):
        raise UsageError(f"--data {here.data}: the cells that were drawn read no directory; leave it out")
    if typed_model is not None and not any(typed_model.folder == plan.model_folder for plan in plans):
        raise UsageError(f"--model {here.model}: {_difference(typed_model, cells[0].victim.model)}")
    return plans


def _find(spec: ModelSpec, typed_model: ModelSource | None) -> ModelSource:
    """The model of a spec: what was typed, or what goes by its name here. Raises UsageError if neither is it."""
    if typed_model is not None and typed_model.spec.canonical == spec.canonical:
        return typed_model
    try:
        model = find_model(spec.name)
        difference = _difference(model, spec)
    except UsageError as error:
        difference = str(error)
    if not difference:
        return model
    if typed_model is not None:
        difference = _difference(typed_model, spec)
    raise UsageError(
        f"the model '{spec.name}', whose weights have the SHA-256 {spec.digest}, is not at hand: {difference}; give it with "
        "--model"
    )


def _difference(model: ModelSource, spec: ModelSpec) -> str:
    """What of a model is not what a spec names; empty if it is the one."""
    try:
        check_model(model.folder, spec)
    except ValueError as error:
        return str(error)
    return ""


def _reads_directory(cell: CellSpec) -> bool:
    return cell.victim.data.source == "directory"


def _name(victim: VictimSpec) -> str:
    return f"the victim {victim.task} / {victim.attack.name} / seed {victim.seed}"
