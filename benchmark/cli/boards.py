"""A run's folder as reports see it: what can be read of it, with a warning for each file that cannot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from bdbench.errors import UsageError

if TYPE_CHECKING:
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.analysis.ranking import Rules
    from bdbench.matrix.storage import Place
    from bdbench.specs.saved import LeftOut, SavedRun

Strict = Annotated[
    bool,
    typer.Option("--strict", help="exit with 1 if a file had to be left out; all that can be written is written before"),
]


def board_of(place: Place, run: SavedRun, rules: Rules | None = None) -> Leaderboard:
    """The leaderboard of what was read from a folder. The files that are left out are named on standard error."""
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.matrix.tuned_files import read_kept

    board = Leaderboard.of_run(run, read_kept(place), rules)
    warn(place, board.left_out)
    return board


def read_reported(place: Place, with_predictions: bool = True) -> SavedRun:
    """What can be read of a folder. Raises UsageError if there is no such folder, or no record in it that can be read."""
    from bdbench.matrix.saved import read_run

    run = read_run(place, with_predictions)
    if not run.records:
        file, reason = next(iter(run.damaged_records.items()))
        raise UsageError(
            f"{place}: this version of bdbench reads none of its {len(run.damaged_records):,} files of records; the first is "
            f"{file} ({reason}). Move them away and run the cells again, or give the folder of another run"
        )
    return run


def warn(place: Place, left_out: Iterable[LeftOut]) -> None:
    """A line on standard error for each file that is left out."""
    for each in left_out:
        cure = "move it away and run the cell again" if each.is_record else "run the cell again with --force"
        typer.echo(f"warning: {place}: {each.file} is left out: {each.reason}; {cure}", err=True)


def fail_if_strict(strict: bool, left_out: Iterable[LeftOut]) -> None:
    """With --strict, raise typer.Exit with status 1 if there is a file that is left out."""
    if strict and any(True for _ in left_out):
        raise typer.Exit(1)
