"""`bdbench report DIRECTORY`: the tables of a run, anew from its records."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bdbench.cli.boards import board_of
from bdbench.errors import UsageError, nearest

if TYPE_CHECKING:
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.matrix.storage import Place

NO_MATPLOTLIB = "no figures, which need matplotlib: pip install -c constraints.txt -e '.[figures]'"


def report(
    directory: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/quick")],
    rank_by: Annotated[
        str, typer.Option(help="added (ASR less base rate), asr, worst (the worst attack's ASR) or anti-bad")
    ] = "added",
    tolerance: Annotated[float, typer.Option(help="share of clean accuracy that a defense with a rank may lose")] = 0.05,
    together: Annotated[bool, typer.Option("--together", help="rank all kinds of defenses in one table")] = False,
    figures: Annotated[
        bool | None,
        typer.Option("--figures/--no-figures", help="figures as PDF, PNG and SVG (default: if matplotlib is installed)"),
    ] = None,
) -> None:
    """Write the tables of a run anew from its records, Markdown, CSV and LaTeX, and figures into its folder figures."""
    from bdbench.analysis.ranking import CRITERIA, Rules
    from bdbench.matrix.storage import place_of
    from bdbench.reports.files import write_tables

    if rank_by not in CRITERIA:
        raise UsageError(f"--rank-by {rank_by}{nearest(rank_by, CRITERIA)}: one of {', '.join(CRITERIA)}")
    if not 0 <= tolerance <= 1:
        raise UsageError(f"--tolerance {tolerance:g}: a share of clean accuracy between 0 and 1, such as 0.05")
    place = place_of(directory)
    board = board_of(place, rules=Rules(rank_by, tolerance, together))
    for file in write_tables(place.write, board):
        typer.echo(file)
    if figures is False:
        return
    if importlib.util.find_spec("matplotlib") is None:
        if figures:
            raise UsageError(NO_MATPLOTLIB)
        typer.echo(NO_MATPLOTLIB, err=True)
        return
    for file in write_figures(place.sub("figures"), board):
        typer.echo(file)


def write_figures(folder: Place, board: Leaderboard) -> Iterator[str]:
    """Write the figures, of which there may be none; where each lies. Raises UsageError or StorageError if one cannot be."""
    from bdbench.reports.figures import figure_files

    content_by_name = figure_files(board)
    if content_by_name:
        folder.prepare("figures")
    for name, content in content_by_name.items():
        yield folder.write(name, content)
