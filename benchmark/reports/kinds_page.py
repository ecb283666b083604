"""What a report says of kinds of defenses, in plain text: what guards and filters do to rows, and what each defense costs."""

from __future__ import annotations

import math

from bdbench.analysis.kinds import (
    CostRow,
    DetectionRow,
    FilterRow,
    PurifierRow,
    cells_without_cost,
    cost_rows,
    detection_rows,
    filter_rows,
    purifier_rows,
)
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.printed import ABSENT, percent
from bdbench.analysis.summaries import by_setting
from bdbench.reports.text_tables import TextTable
from bdbench.reports.words import counted_cells

DETECTION = (
    "The threshold is taken from clean validation rows, of which it rejects no more than the stated FRR. FRR: share of the "
    "clean test rows that are rejected; FAR: share of the triggered ones that are not. AUROC: share of the pairs of a clean "
    "and a triggered row of which the triggered one is more suspicious, 50 by chance. All in per cent, means over seeds. In "
    "the tables of CACC and ASR a rejected clean row is an error, and a rejected triggered row no success."
)
PURIFYING = (
    "Changed: share of the rows of which the classifier gets another text. Emptied: share of those of which nothing is left, "
    "which are classified all the same. In per cent, means over seeds."
)
FILTERING = (
    "Dropped: share of the training rows. Precision: share of the dropped rows that are poisoned; recall: share of the "
    "poisoned rows that are dropped. In per cent, means over seeds."
)
COST = (
    "Means over cells. Seconds: defense and evaluation, on the machine of the run. Rows trained on: as often as they were "
    "visited; rows predicted: without the evaluation. Slowdown: of a text behind its guard, against the bare classifier. "
    "Memory: the most that the process of a cell had taken."
)


def kinds_tables(board: Leaderboard) -> list[TextTable]:
    """The tables that there is something to fill with."""
    tables = []
    names = ("Task", "Attack", "Defense")
    if detection := detection_rows(board.summaries):
        headers = (*names, "Stated FRR", "FRR", "FAR", "AUROC")
        rows = tuple(map(_detection, detection))
        tables.append(TextTable("Kinds", "Detectors: what they reject", headers, rows, len(names), DETECTION))
    if purifying := purifier_rows(board.summaries):
        headers = (*names, "Clean changed", "Triggered changed", "Clean emptied", "Triggered emptied")
        rows = tuple(map(_purifying, purifying))
        tables.append(TextTable("Kinds", "Purifiers: what they change", headers, rows, len(names), PURIFYING))
    if filtering := filter_rows(board.summaries):
        headers = (*names, "Dropped", "Precision", "Recall")
        rows = tuple(map(_filtering, filtering))
        tables.append(TextTable("Kinds", "Filters: the poison they find", headers, rows, len(names), FILTERING))
    return [*tables, *_cost_tables(board)]


def _cost_tables(board: Leaderboard) -> list[TextTable]:
    """A table for each setting whose cells say what they cost."""
    kinds = dict(zip(board.overall.defenses, board.overall.kinds, strict=True)) if board.overall else {}
    summaries_by_setting = by_setting(board.summaries)
    headers = ("Defense", "Kind", "Cells", "Seconds", "Rows trained on", "Rows predicted", "Slowdown", "Clean rows")
    headers += ("Validation rows", "Memory, MB")
    tables = []
    for setting, of_setting in summaries_by_setting.items():
        if costs := cost_rows(of_setting, kinds):
            title = "What each defense costs" + (f" {setting.suffix}" if len(summaries_by_setting) > 1 else "")
            without = cells_without_cost(of_setting)
            note = COST + (f" Left out: {counted_cells(without)} without a cost on record." if without else "")
            rows, undefended = tuple(map(_cost, costs)), sum(row.defense.is_undefended for row in costs)  # these come first
            tables.append(TextTable("Kinds", title, headers, rows, 2, note, baseline=undefended))
    return tables


def _detection(row: DetectionRow) -> tuple[str, ...]:
    rates = (row.frr, row.far, row.auroc)
    return (*map(str, (row.task, row.attack, row.defense)), f"{100 * row.stated_frr:g}", *map(_rate, rates))


def _purifying(row: PurifierRow) -> tuple[str, ...]:
    shares = (row.clean_changed, row.triggered_changed, row.clean_emptied, row.triggered_emptied)
    return (*map(str, (row.task, row.attack, row.defense)), *map(_rate, shares))


def _filtering(row: FilterRow) -> tuple[str, ...]:
    return (*map(str, (row.task, row.attack, row.defense)), *map(_rate, (row.dropped, row.precision, row.recall)))


def _cost(row: CostRow) -> tuple[str, ...]:
    slowdown = ABSENT if row.slowdown is None else f"{row.slowdown:.1f}"
    seconds = ABSENT if math.isnan(row.seconds) else f"{row.seconds:,.1f}"
    numbers = (row.cells, seconds, f"{row.trained_rows:,.0f}", f"{row.predicted_rows:,.0f}", slowdown)
    return (
        str(row.defense),
        row.kind,
        *map(str, numbers),
        f"{row.clean_rows:,}",
        f"{row.validation_rows:,}",
        f"{row.peak_memory_mb:,}",
    )


def _rate(fraction: float | None) -> str:
    return ABSENT if fraction is None else percent(fraction)
