"""`bdbench report DIRECTORY`: the tables and the page of a run, anew from its records."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bdbench.api.boards import board_of, latex_of, rules_of
from bdbench.cli.arguments import Text, names, warn
from bdbench.cli.strict import Strict, fail_if_strict
from bdbench.errors import UsageError, nearest

if TYPE_CHECKING:
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.matrix.storage import Place

NO_MATPLOTLIB = "no figures, which need matplotlib: pip install -c constraints.txt -e '.[figures]'"
FORMATS = ("latex",)
OF_LATEX = "with --format latex: "


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
    format: Annotated[Text, typer.Option(help="latex: print one table for a paper, and write no files")] = None,
    layout: Annotated[Text, typer.Option(help=OF_LATEX + "ranking (the default), paper, per-task or worst-case")] = None,
    tasks: Annotated[Text, typer.Option("-T", "--tasks", help=OF_LATEX + "which, in this order: names or labels")] = None,
    attacks: Annotated[Text, typer.Option("-a", "--attacks", help=OF_LATEX + "as --tasks")] = None,
    defenses: Annotated[Text, typer.Option("-d", "--defenses", help=OF_LATEX + "as --tasks; 'none' is always shown")] = None,
    caption: Annotated[Text, typer.Option(help=OF_LATEX + "its caption, as LaTeX")] = None,
    label: Annotated[Text, typer.Option(help=OF_LATEX + "its label, as LaTeX")] = None,
    style: Annotated[
        Text,
        typer.Option(help=OF_LATEX + "interval (95 %), pm (deviation over seeds) or plain (but for a ranking the default)"),
    ] = None,
    standalone: Annotated[bool, typer.Option("--standalone", help=OF_LATEX + "a document that compiles as it is")] = False,
    strict: Strict = False,
) -> None:
    """Write the tables and the page of a run anew from its records, and its figures. Or print one table for a paper.

    A file that cannot be read is left out, with a warning.
    """
    from bdbench.matrix.storage import place_of

    rules = rules_of(rank_by, tolerance, together)
    place = place_of(directory)
    of_table = {"layout": layout, "tasks": tasks, "attacks": attacks, "defenses": defenses, "caption": caption}
    of_table |= {"label": label, "style": style, "standalone": standalone or None}
    if format is None and (typed := [flag for flag, value in of_table.items() if value is not None]):
        raise UsageError(f"--{typed[0]} is for one table: add --format latex")
    if format is not None and figures:
        raise UsageError("--figures is for the files of a report: leave --format out")
    if format is not None and format not in FORMATS:
        raise UsageError(f"--format {format}{nearest(format, FORMATS)}: one of {', '.join(FORMATS)}")
    board = board_of(place, warn, rules)
    if format is None:
        write_files(place, board, figures)
    else:
        chosen = (names(tasks), names(attacks), names(defenses))
        typer.echo(latex_of(board, layout or "ranking", *chosen, style, caption, label, standalone), nl=False)
    fail_if_strict(strict, board.left_out)


def write_files(place: Place, board: Leaderboard, figures: bool | None) -> None:
    """Write the tables, and the figures if they are asked for, or if nothing is said and matplotlib is there; say where."""
    from bdbench.reports.files import write_tables

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
