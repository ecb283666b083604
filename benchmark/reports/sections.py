"""The sections that every report has beside its rankings and rates."""

from __future__ import annotations

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.reports.attacks_page import attacks_tables
from bdbench.reports.kinds_page import kinds_tables
from bdbench.reports.text_tables import TextTable
from bdbench.reports.tuning_page import tuning_tables


def other_tables(board: Leaderboard) -> list[TextTable]:
    """Of tunings, of kinds of defense and of attacks, in this order; those that there is something to fill with."""
    return [*tuning_tables(board), *kinds_tables(board), *attacks_tables(board)]
