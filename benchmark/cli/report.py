"""`bdbench report DIRECTORY`: the tables of a run, anew from its records."""

from __future__ import annotations

from typing import Annotated

import typer


def report(directory: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/quick")]) -> None:
    """Write the tables of a run anew from its records: Markdown, CSV and LaTeX."""
    from bdbench.matrix.results import read_records
    from bdbench.matrix.storage import place_of
    from bdbench.matrix.tuned_files import read_kept
    from bdbench.reports.files import write_tables

    place = place_of(directory)
    for file in write_tables(place.write, read_records(place), read_kept(place)):
        typer.echo(file)
