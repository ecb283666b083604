"""A run's folder as reports see it: what can be read of it, with a warning for each file that cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bdbench.errors import UsageError, nearest

if TYPE_CHECKING:
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.analysis.ranking import Rules
    from bdbench.matrix.storage import Place
    from bdbench.specs.saved import LeftOut, SavedRun


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


def board_of(place: Place, warn: Callable[[str], None], rules: Rules | None = None, run: SavedRun | None = None) -> Leaderboard:
    """The leaderboard of a folder; of the `run` that was read from it already, if it was.

    `warn` is told of the files that are left out. Raises UsageError for a damaged file of a tuning, and as
    `read_reported` does.
    """
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.matrix.tuned_files import read_kept

    tunings = read_kept(place)
    board = Leaderboard.of_run(read_reported(place) if run is None else run, tunings, rules)
    tell_left_out(place, board.left_out, warn)
    return board


def tell_left_out(place: Place, left_out: Iterable[LeftOut], warn: Callable[[str], None]) -> None:
    """Tell `warn` of each file that is left out, with what to do."""
    for each in left_out:
        cure = "move it away and run the cell again" if each.is_record else "run the cell again with --force"
        warn(f"{place}: {each.file} is left out: {each.reason}; {cure}")


def rules_of(rank_by: str, tolerance: float, together: bool) -> Rules:
    """How to rank. Raises UsageError for a criterion that there is not, and for a tolerance outside [0, 1]."""
    from bdbench.analysis.ranking import CRITERIA, Rules

    if rank_by not in CRITERIA:
        raise UsageError(f"--rank-by {rank_by}{nearest(rank_by, CRITERIA)}: one of {', '.join(CRITERIA)}")
    if not 0 <= tolerance <= 1:
        raise UsageError(f"--tolerance {tolerance:g}: a share of clean accuracy between 0 and 1, such as 0.05")
    return Rules(rank_by, tolerance, together)


def latex_of(
    board: Leaderboard,
    layout: str = "ranking",
    tasks: Iterable[str] | None = None,
    attacks: Iterable[str] | None = None,
    defenses: Iterable[str] | None = None,
    style: str | None = None,
    caption: str | None = None,
    label: str | None = None,
    standalone: bool = False,
) -> str:
    """One table for a paper (see `reports.latex_layouts`). Raises UsageError for a layout, style or name that there is not."""
    from bdbench.analysis.chosen import choose
    from bdbench.reports.latex_grid import STYLES
    from bdbench.reports.latex_layouts import LAYOUTS, Request, latex_table

    for flag, value, known in (("layout", layout, LAYOUTS), ("style", style, STYLES)):
        if value is not None and value not in known:
            raise UsageError(f"--{flag} {value}{nearest(value, known)}: one of {', '.join(known)}")
    named = (None if names is None else tuple(names) for names in (tasks, attacks, defenses))
    return latex_table(board, choose(board.summaries, *named), Request(layout, style, caption, label, standalone))
