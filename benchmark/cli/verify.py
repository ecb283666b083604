"""`bdbench verify DIRECTORY`: whether a run's numbers are those of its predictions."""

from __future__ import annotations

from typing import Annotated

import typer


def verify(directory: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/quick")]) -> None:
    """Check every record of a run."""
    from bdbench.analysis.verification import verify as verified
    from bdbench.matrix.saved import read_run
    from bdbench.reports.verification_lines import lines

    verification = verified(read_run(directory))
    for line in lines(verification):
        typer.echo(line)
    if verification.findings:
        raise typer.Exit(1)
