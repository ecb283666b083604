"""A run from values: the cells that are asked for, those that are missing carried out, the tables written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bdbench.api.given_victim import GivenVictim, with_checked_victim
from bdbench.collector import no_garbage
from bdbench.errors import StorageError, UsageError, WorkersLost, nearest
from bdbench.matrix.receipt import Receipt, records_digest, table_digests
from bdbench.matrix.storage import LocalPlace, Place
from bdbench.plugin_files import PluginFile
from bdbench.portable import encodable, last_part

if TYPE_CHECKING:
    from rich.console import Console

    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.matrix.ahead import RayAhead
    from bdbench.matrix.plan import Plan
    from bdbench.matrix.progress import MatrixProgress
    from bdbench.matrix.remote_victims import AnyStore
    from bdbench.matrix.results import Results
    from bdbench.matrix.selection import Selection
    from bdbench.matrix.worker import Worker
    from bdbench.specs.records import Record
    from bdbench.specs.work import CellSpec

MOST_AT_ONCE = 1024  # workers, or threads of one
LEAST_GPU = 0.01
MOST_SECONDS = 1e7  # of a time limit: four months
BOUNDS: Mapping[str, tuple[float, float]] = {
    "workers": (1, MOST_AT_ONCE),
    "threads": (1, MOST_AT_ONCE),
    "gpus_per_cell": (LEAST_GPU, 1.0),
    "cell_timeout": (0, MOST_SECONDS),
}


@dataclass(frozen=True)
class Order:
    """All that a run is asked for. `overrides` are values of a `Selection` in place of the preset's, and `given` is a victim
    that the user brings.

    The rest says where and how it is done, and decides no number but `threads` and `device`. Raises UsageError for a number out
    of BOUNDS.
    """

    preset: str
    overrides: Mapping[str, Any]
    out: Place
    victims: Place
    plugins: tuple[PluginFile, ...] = ()
    tuned: tuple[Path, ...] = ()
    inline: bool = False
    workers: int | None = None
    threads: int = 1
    device: str = "auto"
    address: str | None = None
    gpus_per_cell: float = 1.0
    cell_timeout: float | None = None
    force: bool = False
    given: GivenVictim = GivenVictim()

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            whole = next(field.type for field in fields(self) if field.name == name).startswith("int")
            if value is None and name in ("workers", "cell_timeout"):
                continue
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
                what = "a whole number" if whole else "a number"
                raise UsageError(f"--{name.replace('_', '-')} {value}: give {what} between {low:g} and {high:g}")
        if self.inline and self.address is not None:
            raise UsageError(f"--inline --address {self.address}: a run is in this process or on a cluster; leave one out")


@dataclass(frozen=True)
class Voice:
    """How a run speaks to whoever asked for it.

    `note` gets lines about how it goes and `warn` what deserves a look, without a word like "warning". The display of a running
    matrix goes to `console` (None: to standard error).
    """

    note: Callable[[str], None]
    warn: Callable[[str], None]
    console: Console | None = None


@dataclass(frozen=True)
class Execution:
    """What became of the cells that were missing: their progress, how many processes did it, and what ended it early.

    That is a signal, with this `exit_status`, or an `error`: the disk is full, or no worker is left.
    """

    progress: MatrixProgress
    processes: int
    exit_status: int | None = None
    error: StorageError | WorkersLost | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run has left: its `board`, where each table lies, and the cells that did not end well, with their labels.

    `is_complete` says that every cell has ended well, or was skipped.
    """

    execution: Execution
    board: Leaderboard
    tables: tuple[str, ...]
    failed: Mapping[str, Record]
    is_complete: bool


def selection_of(preset: str, overrides: Mapping[str, Any]) -> Selection:
    """The selection of a preset with the user's values over its own. Raises UsageError for a preset that there is not."""
    from bdbench.matrix.presets import PRESETS

    if preset not in PRESETS:
        raise UsageError(f"no preset named '{preset}'{nearest(preset, PRESETS)}; known: {', '.join(PRESETS)}")
    return PRESETS[preset].select(overrides)


@no_garbage()
def plan_of(order: Order, warn: Callable[[str], None]) -> Plan:
    """The plan of an order; `warn` is told what it warns of. Raises UsageError for whatever cannot be run."""
    selection = selection_of(order.preset, order.given.over(order.overrides))
    from bdbench.matrix.plan import plan  # imports torch: after what can be refused without it
    from bdbench.matrix.tuned_files import read_tuned

    selection, of_victim = with_checked_victim(selection)
    planned = plan(selection, order.device, [read_tuned(file) for file in order.tuned])
    planned = replace(planned, warnings=(*of_victim, *planned.warnings))
    for warning in planned.warnings:
        warn(warning)
    return planned


@contextmanager
def ray_ahead(order: Order, with_plugin_files: bool = False) -> Iterator[RayAhead | None]:
    """Ray, which starts while the block plans a run and carries it out. Afterwards it has ended, whatever became of the run.

    None where it would start for nothing, or may: for a run in this process or on a cluster, or one with records already,
    which may be all. See `start_ahead` for the rest.
    """
    from bdbench.matrix.ahead import start_ahead

    ahead = None
    is_new = isinstance(order.out, LocalPlace) and not any((order.out.folder / "records").glob("*.json"))
    if not order.inline and order.address is None and (order.force or is_new):
        with suppress(UsageError):  # the plan will say so
            selection = selection_of(order.preset, order.given.over(order.overrides))
            place = {"workers": order.workers, "threads": order.threads, "device": order.device}
            ahead = start_ahead(selection, **place, with_plugin_files=with_plugin_files)
    try:
        yield ahead
    finally:
        if ahead is not None:
            ahead.head.end()


def carry_out(
    order: Order, plan: Plan, voice: Voice, began: float, draft: Receipt | None = None, ahead: RayAhead | None = None
) -> Outcome:
    """Run the cells that have no finished record, and write the tables.

    `began` is the monotonic time at which the run did. If all cells ended well and no file had to be left out, the `draft` of
    a receipt is filled in and written, too. `ahead` is what `ray_ahead` started. Raises StorageError if a table could not be
    written, or what broke the run off before that.
    """
    from bdbench.engine.folders import count_weights
    from bdbench.matrix.deadline import TimeLimit
    from bdbench.matrix.plan import site_for
    from bdbench.matrix.remote_lock import locked_place
    from bdbench.matrix.remote_victims import victims_at
    from bdbench.matrix.results import Results
    from bdbench.matrix.tuned_files import keep_tuned
    from bdbench.matrix.worker import Worker

    with locked_place(order.out), _working_folder(order.victims) as victims_folder:
        results, store = Results(order.out), victims_at(order.victims).prepare()
        keep_tuned(order.out, plan.tunings)
        time_limit = TimeLimit(order.cell_timeout, count_weights(plan.model_folder), order.threads)
        site = site_for(plan, order.plugins, order.threads, order.device)
        typed = typed_values(order.preset, order.overrides) | order.given.typed()
        worker = Worker(site, victims_folder, typed, time_limit=time_limit)
        execution = _execute_missing(order, plan, results, store, worker, voice, ahead)
        store.sweep()  # what interrupted workers left
        return _finish(plan, results, execution, voice, began, draft)


def typed_values(preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed, for the records; a directory by its last part, for no record may name a path of this machine."""
    from bdbench.protocol.compositions import text_of

    values = {name: value for name, value in overrides.items() if value != {}}
    values |= {name: tuple(map(text_of, values[name])) for name in ("attacks", "defenses") if name in values}
    return {"preset": preset} | {
        name: encodable(last_part(value)) if name in ("model", "data") else value for name, value in values.items()
    }


@contextmanager
def _working_folder(victims: Place) -> Iterator[Path]:
    """Where this process opens victims: their own folder, or for those that are kept elsewhere a temporary one."""
    if isinstance(victims, LocalPlace):
        yield victims.folder
    else:
        with TemporaryDirectory(prefix="bdbench-victims-") as folder:
            yield Path(folder)


def _execute_missing(
    order: Order, plan: Plan, results: Results, store: AnyStore, worker: Worker, voice: Voice, ahead: RayAhead | None
) -> Execution:
    """Run the cells that have no finished record, with `force` all; those that are there already are counted."""
    from bdbench.analysis.labels import cell_labels
    from bdbench.matrix.execute import InlinePool, execute
    from bdbench.matrix.expected import ExpectedWork
    from bdbench.matrix.graph import in_order, steps_of
    from bdbench.matrix.interrupts import Interrupts
    from bdbench.matrix.progress import MatrixProgress
    from bdbench.matrix.remote_victims import Errands, RemoteVictims
    from bdbench.matrix.status import StatusFile

    cells: list[CellSpec] = [cell for cell in plan.cells if order.force or not results.done(cell.key())]
    if len(cells) < len(plan.cells):
        voice.note(f"{len(plan.cells) - len(cells)} cells are there already; {len(cells)} to run")
    with no_garbage():
        steps = in_order(steps_of(cells), ExpectedWork(worker.time_limit.parameters))
        progress = MatrixProgress(
            len(cells),
            len(steps) - len(cells),
            console=voice.console,
            labels=cell_labels(plan.cells, plan.tunings),
            steps=steps,
            status=StatusFile.in_folder(results.place),
        )
    if not cells:
        return Execution(progress, processes=0)
    if order.inline:
        errands = Errands(store, worker.victims) if isinstance(store, RemoteVictims) else None
        pool_context = nullcontext(InlinePool(worker, progress, errands))
    else:
        from bdbench.matrix.freight import cargo_of
        from bdbench.matrix.pool import RayPool

        cargo = cargo_of(plan) if order.address is not None or isinstance(store, RemoteVictims) else None
        sizes = {"workers": order.workers, "gpus_per_cell": order.gpus_per_cell}
        pool_context = RayPool(worker, progress, **sizes, address=order.address, cargo=cargo, store=store, ahead=ahead)
    exit_status, lost, processes, interrupts = None, None, 1, Interrupts()
    try:
        with progress.shown(), pool_context as pool, interrupts:  # as the last one: Ray sets signal handlers when it starts
            processes = pool.slots
            execute(steps, pool, results, progress, interrupts)
    except KeyboardInterrupt:
        exit_status = interrupts.exit_status
    except (StorageError, WorkersLost) as error:
        lost = error
    return Execution(progress, processes, exit_status, lost)


def _finish(plan: Plan, results: Results, execution: Execution, voice: Voice, began: float, draft: Receipt | None) -> Outcome:
    """Write the tables, say where the time went, and find the cells that failed."""
    from bdbench.api.boards import board_of
    from bdbench.matrix.saved import run_of
    from bdbench.reports.files import write_tables

    place, progress = results.place, execution.progress
    try:
        # Taken before the records are read: if another process adds one in between, the receipt does not hold for it.
        digest_of_records = records_digest(place.folder) if draft else ""
        run = run_of(place, results.read_what_can_be())  # with what another process may have added
        board = board_of(place, voice.warn, run=run)
        tables: Sequence[str] = write_tables(place.write, board)
    except StorageError as error:
        raise execution.error or error from None
    if execution.processes:
        voice.note(progress.split(time.monotonic() - began, execution.processes))
    keys = [cell.key() for cell in plan.cells if not results.done(cell.key())]
    failed = {key: results.records[key] for key in keys if key in results.records}
    # a forced cell that failed may have an earlier record that is kept
    is_complete = not (keys or progress.failed or execution.error or execution.exit_status)
    if draft and is_complete and not board.left_out:
        digests_of_tables = table_digests(place.folder, map(Path, tables))
        replace(draft, records=digest_of_records, tables=digests_of_tables).write(place.folder)
    return Outcome(execution, board, tuple(tables), failed, is_complete)
