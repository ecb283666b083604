"""`bdbench status DIRECTORY`: how far a run is, asked from another shell."""

from __future__ import annotations

from typing import Annotated

import typer


def status(directory: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/quick")]) -> None:
    """Say how far the run in a folder is and what its workers do, or how the last one ended and what is there."""
    from bdbench.matrix.status import describe
    from bdbench.matrix.storage import place_of

    for line in describe(place_of(directory)):
        typer.echo(line)
