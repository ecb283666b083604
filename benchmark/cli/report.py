"""`bdbench report DIRECTORY`: the tables of a run, anew from its records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(directory: Annotated[Path, typer.Argument(help="folder of a run, such as results/quick")]) -> None:
    """Write the tables of a run anew from its records: Markdown, CSV and LaTeX."""
    from bdbench.matrix.results import read_records
    from bdbench.matrix.tuned_files import read_kept
    from bdbench.reports.files import write_report

    for file in write_report(directory, read_records(directory), read_kept(directory)):
        typer.echo(file)
