"""`bdbench status DIRECTORY`: how far a run is, asked from another shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def status(directory: Annotated[Path, typer.Argument(help="folder of a run, such as results/quick")]) -> None:
    """Say how far the run in a folder is and what its workers do, or how the last one ended and what is there."""
    from bdbench.matrix.status import describe

    for line in describe(directory):
        typer.echo(line)
