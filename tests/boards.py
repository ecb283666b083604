"""Tables and pages straight from records and tunings, for the tests."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from bdbench.analysis import frame
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.tables import Table
from bdbench.reports import latex as latex_report
from bdbench.reports import markdown as markdown_report
from bdbench.specs.records import Record
from bdbench.specs.tuned import Tuned


def overall_table(records: Iterable[Record], tunings: Iterable[Tuned] = ()) -> Table | None:
    return Leaderboard(records, tunings).overall


def task_tables(records: Iterable[Record], tunings: Iterable[Tuned] = ()) -> list[Table]:
    return Leaderboard(records, tunings).by_task


def long_table(records: Iterable[Record], tunings: Iterable[Tuned] = ()) -> pd.DataFrame:
    return frame.long_table(Leaderboard(records, tunings).summaries)


def markdown(records: Iterable[Record], tunings: Iterable[Tuned] = ()) -> str:
    return markdown_report.markdown(Leaderboard(records, tunings))


def latex(records: Iterable[Record], tunings: Iterable[Tuned] = ()) -> tuple[str, str]:
    return latex_report.latex(Leaderboard(records, tunings))
