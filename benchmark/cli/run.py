"""`bdbench run`: select cells, run those that are missing, write the tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bdbench.cli.arguments import Plugins, Text, load_plugins
from bdbench.cli.finished import draft_of, is_finished
from bdbench.cli.selection import overrides_of, selection_of
from bdbench.errors import StorageError, UsageError, WorkersLost
from bdbench.matrix.receipt import Receipt, asked_digest, records_digest, table_digests
from bdbench.matrix.storage import LocalPlace, Place, place_of
from bdbench.portable import encodable, last_part

if TYPE_CHECKING:
    from bdbench.matrix.plan import Plan
    from bdbench.matrix.progress import MatrixProgress
    from bdbench.matrix.remote_victims import AnyStore
    from bdbench.matrix.results import Results
    from bdbench.matrix.worker import Worker
    from bdbench.specs.work import CellSpec

MOST_SECONDS = 1e7  # of a time limit: four months


def run(
    preset: Annotated[
        str, typer.Option(help="quick, laptop, paper, paper-mini, paper-base: the values that no flag overrides")
    ] = "quick",
    out: Annotated[Text, typer.Option(help="folder of the results, or a URI such as s3://… (default: results/PRESET)")] = None,
    victims: Annotated[Text, typer.Option(help="folder of the victims, or a URI (default: beside --out)")] = None,
    tasks: Annotated[Text, typer.Option("--tasks", "-T", help="names, separated by commas")] = None,
    attacks: Annotated[Text, typer.Option("--attacks", "-a", help="names, separated by commas")] = None,
    defenses: Annotated[Text, typer.Option("--defenses", "-d", help="names, separated by commas; x+y is x, then y")] = None,
    seeds: Annotated[Text, typer.Option(help="such as 0-2 or 0,5")] = None,
    model: Annotated[Text, typer.Option(help="bundled, bundled-base, a directory, or a Hugging Face id (id@revision)")] = None,
    model_digest: Annotated[Text, typer.Option(help="SHA-256 that the model's weights must have")] = None,
    data: Annotated[Text, typer.Option(help="hub, builtin, or a directory with <task>/train.parquet and so on")] = None,
    train_rows: Annotated[Text, typer.Option(help="rows that train the victim, or 'all' but those kept for clean sets")] = None,
    validation_rows: Annotated[Text, typer.Option(help="rows a defense may validate on, or 'all'")] = None,
    test_rows: Annotated[Text, typer.Option(help="rows tested on, or 'all'")] = None,
    clean_rows: Annotated[int | None, typer.Option(help="rows of the defender's small clean set")] = None,
    unlabelled_rows: Annotated[
        Text, typer.Option(help="most clean texts without labels, for a defense that takes them (default: 1000), or 'all'")
    ] = None,
    even_classes: Annotated[
        bool | None,
        typer.Option("--even-classes/--uneven-classes", help="clean set: as many rows of each class, or as they come"),
    ] = None,
    frr: Annotated[float | None, typer.Option(help="share of clean rows that a detector may reject (default: 0.05)")] = None,
    peers: Annotated[
        Text, typer.Option(help="attack on the other models that a defense takes (default: none, so they are clean)")
    ] = None,
    peers_task: Annotated[Text, typer.Option(help="task of those other models (default: the same)")] = None,
    peer_count: Annotated[int | None, typer.Option(help="how many other models (default: 1)")] = None,
    max_length: Annotated[int | None, typer.Option(help="word pieces kept of a text or pair")] = None,
    epochs: Annotated[Text, typer.Option(help="the victim's training: epochs")] = None,
    learning_rate: Annotated[Text, typer.Option(help="the victim's training: peak learning rate")] = None,
    batch_size: Annotated[Text, typer.Option(help="the victim's training: rows per step")] = None,
    warmup: Annotated[Text, typer.Option(help="the victim's training: share of warm-up steps")] = None,
    clip: Annotated[Text, typer.Option(help="the victim's training: largest gradient norm")] = None,
    attack_param: Annotated[list[str] | None, typer.Option("-A", help="ATTACK.PARAMETER=VALUE; repeatable")] = None,
    defense_param: Annotated[list[str] | None, typer.Option("-D", help="DEFENSE.PARAMETER=VALUE; repeatable")] = None,
    tuned: Annotated[
        list[Path] | None, typer.Option("--tuned", help="a file of bdbench tune, whose settings are run as well; repeatable")
    ] = None,
    precision: Annotated[Text, typer.Option(help="auto (bf16 where the machine has it), bf16 or fp32")] = None,
    plugin: Plugins = None,
    inline: Annotated[bool, typer.Option("--inline", help="run in this process, one cell after another, without Ray")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="cells at a time (default: what the machine holds)")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads per cell; another number rounds differently")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    address: Annotated[
        Text, typer.Option(help="a Ray cluster that runs already: auto, HOST:PORT or ray://HOST:PORT (default: this machine)")
    ] = None,
    gpus_per_cell: Annotated[float, typer.Option(min=0.01, max=1.0, help="share of a GPU a cell takes")] = 1.0,
    cell_timeout: Annotated[
        float | None,
        typer.Option(
            min=0, max=MOST_SECONDS, help="seconds a victim or cell may take (default: an hour and more; 0: no limit)"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="run cells again that ended well before")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cells and their number, and stop")] = False,
) -> None:
    """Run attacks x defenses x tasks x seeds, then write the tables. Finished cells are not run again."""
    flags, began = dict(locals()), time.monotonic()
    place = place_of(out or f"results/{preset}").absolute()
    store_place = place_of(victims).absolute() if victims else place.beside("victims")
    folder = place.folder if isinstance(place, LocalPlace) else None
    request = None if force or dry_run or folder is None else asked_digest(flags)
    if request and is_finished(folder, request):
        return
    plugins = load_plugins(plugin)
    overrides = overrides_of(flags)
    if inline and address is not None:
        raise UsageError(f"--inline --address {address}: a run is in this process or on a cluster; leave one out")
    plan = select(preset, overrides, device, tuned or ())
    if dry_run:
        print_cells(plan)
        return
    draft = draft_of(request, plan) if request else None

    from bdbench.engine.folders import count_weights
    from bdbench.matrix.deadline import TimeLimit
    from bdbench.matrix.plan import site_for
    from bdbench.matrix.remote_lock import locked_place
    from bdbench.matrix.remote_victims import victims_at
    from bdbench.matrix.results import Results
    from bdbench.matrix.tuned_files import keep_tuned
    from bdbench.matrix.worker import Worker

    with locked_place(place), working_folder(store_place) as victims_folder:
        results, store = Results(place), victims_at(store_place).prepare()
        keep_tuned(place, plan.tunings)
        time_limit = TimeLimit(cell_timeout, count_weights(plan.model_folder), threads)
        site = site_for(plan, plugins, threads, device)
        worker = Worker(site, victims_folder, typed_values(preset, overrides), time_limit=time_limit)
        execution = execute_missing(plan, results, store, worker, inline, workers, gpus_per_cell, force, address)
        store.sweep()  # what interrupted workers left
        finish(plan, results, execution, time.monotonic() - began, draft)


@contextmanager
def working_folder(victims: Place) -> Iterator[Path]:
    """Where this process opens victims: their own folder, or for those that are kept elsewhere a temporary one."""
    if isinstance(victims, LocalPlace):
        yield victims.folder
    else:
        with TemporaryDirectory(prefix="bdbench-victims-") as folder:
            yield Path(folder)


def select(preset: str, overrides: Mapping[str, Any], device: str, tuned: Iterable[Path] = ()) -> Plan:
    """The plan of a preset with the user's values over its own, and with the tuned ones; warnings go to standard error."""
    selection = selection_of(preset, overrides)
    from bdbench.matrix.plan import plan  # imports torch: after what can be refused without it
    from bdbench.matrix.tuned_files import read_tuned

    planned = plan(selection, device, [read_tuned(file) for file in tuned])
    for warning in planned.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return planned


def print_cells(plan: Plan) -> None:
    from bdbench.analysis.labels import cell_labels

    labels = cell_labels(plan.cells, plan.tunings)
    for cell in plan.cells:
        typer.echo(f"{cell.key()}  {labels[cell.key()]}")
    typer.echo(f"{len(plan.cells)} cells on {len(plan.victims)} victims", err=True)


def typed_values(preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed, for the records; a directory by its last part, for no record may name a path of this machine."""
    values = {name: value for name, value in overrides.items() if value != {}}
    return {"preset": preset} | {
        name: encodable(last_part(value)) if name in ("model", "data") else value for name, value in values.items()
    }


@dataclass(frozen=True)
class Execution:
    """What became of a run: its progress, how many processes did it, and what ended it early.

    That is a signal, with this `exit_status`, or an `error`: the disk is full, or no worker is left.
    """

    progress: MatrixProgress
    processes: int
    exit_status: int | None = None
    error: StorageError | WorkersLost | None = None


def execute_missing(
    plan: Plan,
    results: Results,
    store: AnyStore,
    worker: Worker,
    inline: bool,
    workers: int | None,
    gpus_per_cell: float,
    force: bool,
    address: str | None = None,
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

    cells: list[CellSpec] = [cell for cell in plan.cells if force or not results.done(cell.key())]
    if len(cells) < len(plan.cells):
        typer.echo(f"{len(plan.cells) - len(cells)} cells are there already; {len(cells)} to run", err=True)
    steps = in_order(steps_of(cells), ExpectedWork(worker.time_limit.parameters))
    progress = MatrixProgress(
        len(cells),
        len(steps) - len(cells),
        labels=cell_labels(plan.cells, plan.tunings),
        steps=steps,
        status=StatusFile.in_folder(results.place),
    )
    if not cells:
        return Execution(progress, processes=0)
    if inline:
        errands = Errands(store, worker.victims) if isinstance(store, RemoteVictims) else None
        pool_context = nullcontext(InlinePool(worker, progress, errands))
    else:
        from bdbench.matrix.freight import cargo_of
        from bdbench.matrix.pool import RayPool

        cargo = cargo_of(plan) if address is not None or isinstance(store, RemoteVictims) else None
        sizes = {"workers": workers, "gpus_per_cell": gpus_per_cell}
        pool_context = RayPool(worker, progress, **sizes, address=address, cargo=cargo, store=store)
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


def finish(plan: Plan, results: Results, execution: Execution, seconds: float, draft: Receipt | None = None) -> None:
    """Write the tables, say where the time went and which cells failed. Raises typer.Exit unless all cells ended well.

    If they did, and no file had to be left out, the `draft` of a receipt is filled in and written, too.

    Raises StorageError if a result or a table could not be written.
    """
    from bdbench.cli.boards import board_of
    from bdbench.matrix.saved import run_of
    from bdbench.reports.files import write_tables

    place = results.place
    try:
        # Taken before the records are read: if another process adds one in between, the receipt does not hold for it.
        digest_of_records = records_digest(place.folder) if draft else ""
        # with what another process may have added
        board = board_of(place, run_of(place, results.read_what_can_be()))
        tables = write_tables(place.write, board)
        for file in tables:
            typer.echo(file)
    except StorageError as error:
        raise execution.error or error from None
    progress = execution.progress
    if execution.processes:
        typer.echo(progress.split(seconds, execution.processes), err=True)
    keys = [cell.key() for cell in plan.cells if not results.done(cell.key())]
    failed_keys = [key for key in keys if key in results.records]
    for key in failed_keys:
        typer.echo(f"{results.records[key].status}: {progress.labels[key]} (results in records/{key}.json)", err=True)
    if execution.error:
        raise execution.error
    if execution.exit_status:
        typer.echo("interrupted; the same command goes on where it stopped", err=True)
        raise typer.Exit(execution.exit_status)
    if keys or progress.failed:  # a forced cell that failed may have an earlier record that is kept
        raise typer.Exit(1)
    if draft and not board.left_out:
        digests_of_tables = table_digests(place.folder, map(Path, tables))
        replace(draft, records=digest_of_records, tables=digests_of_tables).write(place.folder)
