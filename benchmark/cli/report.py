"""`bdbench report DIRECTORY`: the tables of a run, anew from its records."""

from __future__ import annotations

from typing import Annotated

import typer

from bdbench.cli.boards import board_of
from bdbench.errors import UsageError, nearest


def report(
    directory: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/quick")],
    rank_by: Annotated[
        str, typer.Option(help="added (ASR less base rate), asr, worst (the worst attack's ASR) or anti-bad")
    ] = "added",
    tolerance: Annotated[float, typer.Option(help="share of clean accuracy that a defense with a rank may lose")] = 0.05,
    together: Annotated[bool, typer.Option("--together", help="rank all kinds of defenses in one table")] = False,
) -> None:
    """Write the tables of a run anew from its records: Markdown, CSV and LaTeX."""
    from bdbench.analysis.ranking import CRITERIA, Rules
    from bdbench.matrix.storage import place_of
    from bdbench.reports.files import write_tables

    if rank_by not in CRITERIA:
        raise UsageError(f"--rank-by {rank_by}{nearest(rank_by, CRITERIA)}: one of {', '.join(CRITERIA)}")
    if not 0 <= tolerance <= 1:
        raise UsageError(f"--tolerance {tolerance:g}: a share of clean accuracy between 0 and 1, such as 0.05")
    place = place_of(directory)
    for file in write_tables(place.write, board_of(place, rules=Rules(rank_by, tolerance, together))):
        typer.echo(file)
