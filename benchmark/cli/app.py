"""The command `bdbench`: list and describe plugins, run a matrix, write its tables.

Standard output is data, standard error is progress. Exit status: 0 all cells ok, 1 some cell failed, 2 bad usage.
Heavy imports (torch, ray, pandas) are inside the commands, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bdbench.errors import UsageError, nearest
from bdbench.params import split_names
from bdbench.registry import ATTACKS, DEFENSES, TASKS, load_plugin_file

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compare defenses against backdoor attacks on fine-tuned language models.",
)

REGISTRIES = {"attacks": ATTACKS, "defenses": DEFENSES, "tasks": TASKS}

Plugins = Annotated[list[Path] | None, typer.Option("--plugin", help="a Python file that registers plugins; repeatable")]
Text = str | None


@app.command("list")
def list_plugins(
    kind: Annotated[Text, typer.Argument(help="attacks, defenses, tasks or presets; all of them if left out")] = None,
    plugin: Plugins = None,
) -> None:
    """Show the known attacks, defenses, tasks and presets, each with a line about it."""
    from bdbench.matrix.presets import PRESETS

    load_files(plugin)
    kinds = (*REGISTRIES, "presets")
    if kind is not None and kind not in kinds:
        raise UsageError(f"list {kind}: not one of {', '.join(kinds)}")
    for name in kinds if kind is None else (kind,):
        if name == "presets":
            rows = [(preset, values.summary) for preset, values in PRESETS.items()]
        else:
            rows = [(found, REGISTRIES[name].summary(found)) for found in REGISTRIES[name].names()]
        typer.echo(f"{name}:")
        for row, summary in rows:
            typer.echo(f"  {row:<22}{summary}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="an attack, a defense or a task")], plugin: Plugins = None) -> None:
    """Describe a plugin: what it is, what it needs, and its hyperparameters with defaults and ranges."""
    from bdbench.params import hyperparameters

    load_files(plugin)
    found = [(kind, registry) for kind, registry in REGISTRIES.items() if name in registry.names()]
    if not found:
        hint = "; describe the parts of a composition one by one" if "+" in name else "; bdbench list shows what there is"
        raise UsageError(f"no attack, defense or task named '{name}'{hint}")
    for kind, registry in found:
        cls = registry.get(name)
        typer.echo(f"{name} ({kind}, version {cls.version}, paper {cls.paper})")
        typer.echo((sys.modules[cls.__module__].__doc__ or "").strip())
        if getattr(cls, "needs", None):
            typer.echo(f"needs: {', '.join(sorted(cls.needs))}")
        for field in hyperparameters(cls):
            allowed = field.metadata["hp"]
            typer.echo(f"  {name}.{field.name}={field.default} {allowed.bounds()}: {allowed.help}".replace(" :", ":"))


@app.command()
def run(
    preset: Annotated[str, typer.Option(help="quick, laptop or paper: the values that no flag overrides")] = "quick",
    out: Annotated[Path | None, typer.Option(help="folder of the results (default: results/PRESET)")] = None,
    victims: Annotated[Path | None, typer.Option(help="folder of the victims (default: beside --out)")] = None,
    tasks: Annotated[Text, typer.Option("--tasks", "-T", help="names, separated by commas")] = None,
    attacks: Annotated[Text, typer.Option("--attacks", "-a", help="names, separated by commas")] = None,
    defenses: Annotated[Text, typer.Option("--defenses", "-d", help="names, separated by commas; x+y is x, then y")] = None,
    seeds: Annotated[Text, typer.Option(help="such as 0-2 or 0,5")] = None,
    model: Annotated[Text, typer.Option(help="bundled, a directory, or a Hugging Face id (id@revision)")] = None,
    model_digest: Annotated[Text, typer.Option(help="SHA-256 that the model's weights must have")] = None,
    data: Annotated[Text, typer.Option(help="hub, builtin, or a directory with <task>/train.parquet and so on")] = None,
    train_rows: Annotated[Text, typer.Option(help="rows that train the victim, or 'all' but those kept for clean sets")] = None,
    validation_rows: Annotated[Text, typer.Option(help="rows a defense may validate on, or 'all'")] = None,
    test_rows: Annotated[Text, typer.Option(help="rows tested on, or 'all'")] = None,
    clean_rows: Annotated[int | None, typer.Option(help="rows of the defender's small clean set")] = None,
    max_length: Annotated[int | None, typer.Option(help="word pieces kept of a text or pair")] = None,
    epochs: Annotated[Text, typer.Option(help="the victim's training: epochs")] = None,
    learning_rate: Annotated[Text, typer.Option(help="the victim's training: peak learning rate")] = None,
    batch_size: Annotated[Text, typer.Option(help="the victim's training: rows per step")] = None,
    warmup: Annotated[Text, typer.Option(help="the victim's training: share of warm-up steps")] = None,
    clip: Annotated[Text, typer.Option(help="the victim's training: largest gradient norm")] = None,
    attack_param: Annotated[list[str] | None, typer.Option("-A", help="ATTACK.PARAMETER=VALUE; repeatable")] = None,
    defense_param: Annotated[list[str] | None, typer.Option("-D", help="DEFENSE.PARAMETER=VALUE; repeatable")] = None,
    precision: Annotated[Text, typer.Option(help="auto (bf16 where the machine has it), bf16 or fp32")] = None,
    plugin: Plugins = None,
    inline: Annotated[bool, typer.Option("--inline", help="run in this process, one cell after another, without Ray")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="cells at a time (default: what the machine holds)")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per cell (default: 1; inline: all cores)")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    gpus_per_cell: Annotated[float, typer.Option(min=0.01, max=1.0, help="share of a GPU a cell takes")] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="run cells again that ended well before")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cells and their number, and stop")] = False,
) -> None:
    """Run attacks x defenses x tasks x seeds, then write the tables. Finished cells are not run again."""
    began = time.monotonic()
    load_files(plugin)
    typed: dict[str, Any] = {
        "model": model,
        "model_digest": model_digest,
        "data": data,
        "tasks": names(tasks),
        "attacks": names(attacks),
        "defenses": names(defenses),
        "seeds": seed_numbers(seeds),
        "clean_rows": clean_rows,
        "max_length": max_length,
        "training": drop_none(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, warmup=warmup, clip=clip),
        "attack_params": assignments("-A", attack_param),
        "defense_params": assignments("-D", defense_param),
        "precision": precision,
    }
    rows = {"train_rows": train_rows, "validation_rows": validation_rows, "test_rows": test_rows}
    overrides = drop_none(**typed) | {field: row_count(field, text) for field, text in rows.items() if text is not None}

    from bdbench.matrix.presets import PRESETS

    if preset not in PRESETS:
        raise UsageError(f"no preset named '{preset}'{nearest(preset, PRESETS)}; known: {', '.join(PRESETS)}")
    from bdbench.analysis.tables import cell_labels
    from bdbench.matrix.plan import plan, site_for

    made = plan(PRESETS[preset].choose(overrides), device)
    for warning in made.warnings:
        typer.echo(f"warning: {warning}", err=True)
    labels = cell_labels(made.cells)
    if dry_run:
        for cell in made.cells:
            typer.echo(f"{cell.key()}  {labels[cell.key()]}")
        typer.echo(f"{len(made.cells)} cells on {len(made.victims)} victims", err=True)
        return

    from bdbench.matrix.pool import at_a_time, cores, remaining, run_inline, run_ray
    from bdbench.matrix.progress import MatrixProgress
    from bdbench.matrix.store import Results, VictimStore, read_records
    from bdbench.reports.report import write_report

    site = site_for(made, plugin or (), threads or (cores() if inline else 1), device)
    out = out or Path("results") / preset
    results = Results(out)
    store = VictimStore(victims or out.parent / "victims")
    work = remaining(made, results, force)
    progress = MatrixProgress(len(work.cells), len(work.victims), labels=labels)
    if len(work.cells) < len(made.cells):
        typer.echo(f"{len(made.cells) - len(work.cells)} cells are there already; {len(work.cells)} to run", err=True)
    # what was typed, for the records; a directory by its last part, for no record may name a path of this machine
    given = {"preset": preset} | {
        name: Path(value).name if name in ("model", "data") else value for name, value in overrides.items() if value != {}
    }
    interrupted = False
    if work.cells:
        try:
            with progress.shown():
                if inline:
                    run_inline(work, site, results, store, progress, given)
                else:
                    run_ray(work, site, results, store, progress, given, workers=workers, gpus_per_cell=gpus_per_cell)
        except KeyboardInterrupt:
            interrupted = True
    for file in write_report(out, read_records(out)):  # with what another process may have added meanwhile
        typer.echo(file)
    if work.cells:
        workers_used = 1 if inline else at_a_time(site, workers, gpus_per_cell)
        typer.echo(progress.split(time.monotonic() - began, workers_used), err=True)
    failed = [results.records[key] for cell in made.cells if (key := cell.key()) in results.records and not results.done(key)]
    for record in failed:
        typer.echo(f"{record.status}: {labels[record.key]} (results in records/{record.key}.json)", err=True)
    if interrupted:
        typer.echo("interrupted; the same command goes on where it stopped", err=True)
        raise typer.Exit(130)
    if failed or progress.failed:  # a forced cell that failed may have an earlier record that is kept
        raise typer.Exit(1)


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="folder of a run, such as results/quick")]) -> None:
    """Write the tables of a run anew from its records: markdown, CSV and LaTeX."""
    from bdbench.matrix.store import read_records
    from bdbench.reports.report import write_report

    for file in write_report(directory, read_records(directory)):
        typer.echo(file)


@app.command()
def claims(directory: Annotated[Path, typer.Argument(help="folder of a run, such as results/paper-mini")]) -> None:
    """Test the seed paper's claims on a run's records: differences, 95 % intervals, verdicts."""
    from bdbench.analysis.claims import text
    from bdbench.matrix.store import read_records

    typer.echo(text(read_records(directory)), nl=False)


def load_files(files: list[Path] | None) -> None:
    for file in files or ():
        load_plugin_file(file)


def names(text: str | None) -> tuple[str, ...] | None:
    """ "a, b[x=1,y=2]" -> ("a", "b[x=1,y=2]")."""
    return None if text is None else tuple(split_names(text, ","))


def seed_numbers(text: str | None) -> tuple[int, ...] | None:
    """ "0-2,5" -> (0, 1, 2, 5). Raises UsageError for anything else."""
    if text is None:
        return None
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--seeds {text}: give whole numbers and ranges, such as 0-2,5")
        seeds += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(seeds))


def row_count(field: str, text: str) -> int | None:
    """ "all" -> None. Raises UsageError for what is neither "all" nor a whole number."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise UsageError(f"--{field.replace('_', '-')} {text}: give a whole number, or 'all'")
    return int(text)


def assignments(flag: str, texts: list[str] | None) -> dict[str, str]:
    """["a.b=1"] -> {"a.b": "1"}."""
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{flag} {text}: give PLUGIN.PARAMETER=VALUE, such as fine-mixing.ratio=0.5")
        found[name.strip()] = value.strip()
    return found


def drop_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def main(command: typer.Typer = app) -> None:
    """Entry point: bad usage is one line on standard error and exit status 2."""
    try:
        sys.exit(command(sys.argv[1:] or ["--help"], standalone_mode=False))
    except UsageError as error:
        message = str(error)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own: an unknown flag, or a value of the wrong type
            raise
        message = f"{error.format_message()} (bdbench run --help lists the flags)"
    typer.echo(f"bdbench: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
