"""`bdbench show NAME`: one plugin with its hyperparameters. `bdbench show DIRECTORY KEY`: one cell of a run."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from bdbench.cli.arguments import REGISTRIES, Plugins, Text, load_plugins
from bdbench.errors import UsageError
from bdbench.params import hyperparameters
from bdbench.specs.resources import RESOURCES

if TYPE_CHECKING:
    from bdbench.matrix.storage import Place
    from bdbench.specs.records import Predictions, Record

MOST_NAMED = 5  # of the keys that an ambiguous one may mean


def show(
    name: Annotated[str, typer.Argument(help="an attack, a defense or a task; or the folder of a run, or its URI")],
    key: Annotated[
        Text, typer.Argument(help="of a cell in that folder: its key, or as many first digits as tell it apart")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Describe a plugin: what it is, what it needs, its hyperparameters. With a KEY: one cell of a run, with all on record."""
    if key is None:
        show_plugin(name, plugin)
    else:
        show_cell(name, key)


def show_plugin(name: str, plugin: list[Path] | None) -> None:
    """Print what a plugin says of itself. Raises UsageError if there is none of this name."""
    load_plugins(plugin)
    registries = {kind: registry for kind, registry in REGISTRIES.items() if name in registry.names()}
    if not registries:
        hint = "; describe the parts of a composition one by one" if "+" in name else "; bdbench list shows what there is"
        if Path(name).is_dir():
            hint = "; of a run's folder, give the key of a cell as well"
        raise UsageError(f"no attack, defense or task named '{name}'{hint}")
    for kind, registry in registries.items():
        cls = registry.get(name)
        typer.echo(f"{name} ({kind}, version {cls.version}, paper {cls.paper})")
        typer.echo((sys.modules[cls.__module__].__doc__ or "").strip())
        if kind == "defenses":
            typer.echo(f"kind: {cls.kind}")
            if needs := cls.needs | cls.engine_needs:
                typer.echo(f"needs: {'; '.join(f'{name} ({RESOURCES[name].says})' for name in sorted(needs))}")
        for field in hyperparameters(cls):
            allowed = field.metadata["hp"]
            words = (f"{name}.{field.name}={field.default}", allowed.bounds(), allowed.tuning() if kind == "defenses" else "")
            typer.echo(f"  {' '.join(word for word in words if word)}: {allowed.help}")


def show_cell(directory: str, key: str) -> None:
    """Print all that is on record of a cell. Raises UsageError unless `key` begins the key of one cell, or its file's name."""
    from bdbench.analysis.examples import NotedPredictions, shown_examples
    from bdbench.analysis.labels import cell_labels
    from bdbench.analysis.methods import NO_DEFENSE
    from bdbench.matrix.saved import read_run
    from bdbench.matrix.storage import place_of
    from bdbench.matrix.tuned_files import read_kept
    from bdbench.reports.cell_page import cell_lines

    place = place_of(directory)
    saved = read_run(place, with_predictions=False)
    keys_by_file = {file: {PurePosixPath(file).stem} for file in (*saved.records, *saved.damaged_records)}
    for file, record in saved.records.items():
        keys_by_file[file].add(record.key)  # that of an older record is hashed anew
    files = [file for file, keys in sorted(keys_by_file.items()) if any(each.startswith(key) for each in keys)]
    if not files:
        raise UsageError(
            f"{place}: no key of its {len(keys_by_file):,} cells begins with '{key}'; give one of records/KEY.json"
        )
    if len(files) > 1:
        some = ", ".join(PurePosixPath(file).stem for file in files[:MOST_NAMED])
        more = ", ..." if len(files) > MOST_NAMED else ""
        raise UsageError(f"{place}: {len(files):,} keys begin with '{key}' ({some}{more}); give more digits")
    (file,) = files
    if file in saved.damaged_records:
        raise UsageError(f"{place.at(file)}: no record that this version reads: {saved.damaged_records[file]}")
    record = saved.records[file]
    labels = cell_labels([each.spec for each in saved.records.values()], read_kept(place))
    of_victim = [each for each in saved.records.values() if each.spec.victim == record.spec.victim]
    undefended = [each for each in of_victim if NO_DEFENSE.fits(each)]
    examples = shown_examples([record, *undefended], NotedPredictions(partial(predictions_of, place)))[record.key]
    for line in cell_lines(record, file, labels[record.key], examples):
        typer.echo(line)


def predictions_of(place: Place, record: Record) -> Predictions | None:
    """The saved predictions of a cell; None, with a warning, if they cannot be read."""
    from bdbench.matrix.results import UnreadableFile, read_predictions

    try:
        return read_predictions(place, record)
    except UnreadableFile as error:
        typer.echo(f"warning: {error}", err=True)
        return None
