"""`bdbench new defense NAME`: a package with a plugin of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bdbench.cli.arguments import Text, note


def new(
    what: Annotated[str, typer.Argument(help="defense or attack")],
    name: Annotated[str, typer.Argument(help="small letters, digits and dashes, such as my-defense")],
    kind: Annotated[
        Text,
        typer.Option(
            help="of a defense: repair (the default), detector, purifier, filter, training; of an attack: data, weights"
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--in", help="the folder in which the package's own folder is made")] = Path("."),
) -> None:
    """Write a package with a plugin that works as it is: the plugin, its entry point, its tests, a README."""
    from bdbench.api.scaffold import new_plugin

    for path in new_plugin(what, name, kind, folder):
        typer.echo(path)
    home = folder / name
    note(f"next: cd {home} && pip install -e '.[test]' && python -m pytest && bdbench show {name}")
