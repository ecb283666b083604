"""A run's folder as a leaderboard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bdbench.errors import UsageError, nearest

if TYPE_CHECKING:
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.analysis.ranking import Rules
    from bdbench.matrix.storage import Place
    from bdbench.specs.records import Predictions, Record


def board_of(
    place: Place, warn: Callable[[str], None], records: Iterable[Record] | None = None, rules: Rules | None = None
) -> Leaderboard:
    """The leaderboard of a folder; of its records, unless they are given.

    `warn` is told of predictions that cannot be read: the ranking then has no intervals. Raises UsageError if the folder or a
    record cannot be read.
    """
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.matrix.results import read_predictions, read_records
    from bdbench.matrix.tuned_files import read_kept

    def predictions_of(record: Record) -> Predictions | None:
        try:
            return read_predictions(place, record)
        except UsageError as error:
            warn(str(error))
            return None

    return Leaderboard(read_records(place) if records is None else records, read_kept(place), predictions_of, rules)


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
