"""`bdbench run`: select cells, run those that are missing, write the tables."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdbench.api.execution import (
    LEAST_GPU,
    MOST_AT_ONCE,
    MOST_SECONDS,
    Order,
    Outcome,
    Voice,
    carry_out,
    plan_of,
    ray_ahead,
)
from bdbench.cli.arguments import Plugins, Text, load_plugins, note, warn
from bdbench.cli.finished import draft_of, is_finished
from bdbench.cli.selection import given_victim_of, overrides_of
from bdbench.matrix.receipt import asked_digest
from bdbench.matrix.storage import LocalPlace, place_of

if TYPE_CHECKING:
    from bdbench.matrix.plan import Plan

PLACES = ("inline", "workers", "threads", "device", "address", "gpus_per_cell", "cell_timeout", "force")


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
    victim: Annotated[
        Text, typer.Option(help="directory of a fine-tuned checkpoint that somebody else made: one more attack, called given")
    ] = None,
    base: Annotated[Text, typer.Option(help="of --victim: its pre-trained model, which is --model in such a run")] = None,
    trigger: Annotated[Text, typer.Option(help="of --victim: the word or sentence that its backdoor answers to")] = None,
    target: Annotated[
        int | None, typer.Option(help="of --victim: the task's class that the trigger sends texts to, by its number")
    ] = None,
    precision: Annotated[Text, typer.Option(help="auto (bf16 where the machine has it), bf16 or fp32")] = None,
    plugin: Plugins = None,
    inline: Annotated[bool, typer.Option("--inline", help="run in this process, one cell after another, without Ray")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, max=MOST_AT_ONCE, help="cells at a time (default: what the machine holds)")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, max=MOST_AT_ONCE, help="CPU threads per cell; another number rounds differently")
    ] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    address: Annotated[
        Text, typer.Option(help="a Ray cluster that runs already: auto, HOST:PORT or ray://HOST:PORT (default: this machine)")
    ] = None,
    gpus_per_cell: Annotated[float, typer.Option(min=LEAST_GPU, max=1.0, help="share of a GPU a cell takes")] = 1.0,
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
    order = Order(
        preset,
        overrides_of(flags),
        place,
        store_place,
        tuned=tuple(tuned or ()),
        **{name: flags[name] for name in PLACES},
        given=given_victim_of(flags),
    )
    with nullcontext() if dry_run else ray_ahead(order, with_plugin_files=bool(plugin)) as ahead:
        order = replace(order, plugins=load_plugins(plugin))
        plan = plan_of(order, warn)
        if dry_run:
            print_cells(plan)
            return
        draft = draft_of(request, plan) if request else None
        tell_end(carry_out(order, plan, Voice(note, warn), began, draft, ahead))


def print_cells(plan: Plan) -> None:
    from bdbench.analysis.labels import cell_labels

    labels = cell_labels(plan.cells, plan.tunings)
    for cell in plan.cells:
        typer.echo(f"{cell.key()}  {labels[cell.key()]}")
    typer.echo(f"{len(plan.cells)} cells on {len(plan.victims)} victims", err=True)


def tell_end(outcome: Outcome) -> None:
    """Say where the tables are and which cells failed. Raises typer.Exit, or what broke the run off, unless all ended well."""
    for file in outcome.tables:
        typer.echo(file)
    execution = outcome.execution
    for key, record in outcome.failed.items():
        note(f"{record.status}: {execution.progress.labels[key]} (results in records/{key}.json)")
    if execution.error:
        raise execution.error
    if execution.exit_status:
        note("interrupted; the same command goes on where it stopped")
        raise typer.Exit(execution.exit_status)
    if not outcome.is_complete:
        raise typer.Exit(1)
