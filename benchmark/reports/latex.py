"""The leaderboard in LaTeX: a document that compiles as it is, and a fragment of the same tables for a paper.

All tables are of one size of type, and fit the text of article at 10 points, or one of its two columns. A table that does not
is cut, with the undefended victims in each part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bdbench.analysis.labels import Label
from bdbench.analysis.layouts import board_grid, grid_of_rankings
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.short_names import short_names
from bdbench.analysis.tables import Table
from bdbench.reports.latex_columns import text_parts
from bdbench.reports.latex_document import PrintedTable, rendered, with_notes
from bdbench.reports.latex_grid import parts_of
from bdbench.reports.latex_layouts import Request, layout_table
from bdbench.reports.latex_text import tex
from bdbench.reports.ranking_page import average_ranks, titles
from bdbench.reports.sections import other_tables
from bdbench.reports.text_tables import TextTable
from bdbench.reports.tuning_page import terms_of
from bdbench.reports.words import caption, counts, definitions, left_out_files, notes

WIDEST_NAMES = 10.0  # em


def latex(board: Leaderboard) -> tuple[str, str]:
    """The document and the fragment, ASCII only. Raises ValueError if a cell occurs twice."""
    labels = [label for each in board.summaries for label in (each.task, each.attack, each.defense)]
    tables = [*_ranking(board, labels)]
    for ranking, title in zip(board.rankings, titles(board.rankings), strict=True):
        tables += [_text_table(table, labels) for table in average_ranks(ranking, title)]
    of_rates = [board.overall, *board.by_task] if board.overall else []
    tables += [_rates(table, place, labels, terms_of(table, board.tunings)) for place, table in enumerate(of_rates)]
    tables += [_text_table(table, labels) for table in other_tables(board)]
    sentences = [counts(board.records), *left_out_files(board.left_out, len(board.records))]
    comments = ["Written by bdbench report.", *sentences]
    document, fragment = (
        rendered(tables, is_document, comments, " ".join(map(tex, sentences))) for is_document in (True, False)
    )
    return document, fragment


def _ranking(board: Leaderboard, labels: Sequence[Label]) -> list[PrintedTable]:
    """The layout of that name, of the whole board."""
    if not board.rankings:
        return []
    seeds = len({record.spec.victim.seed for record in board.records})
    return [layout_table(Request("ranking"), grid_of_rankings(board.rankings, seeds), labels, board.summaries)]


def _rates(table: Table, place: int, labels: Sequence[Label], terms: Sequence[str]) -> PrintedTable:
    """CACC and ASR by task or attack, a pair of columns for each defense."""
    grid = board_grid(table)
    names = short_names(labels, grid.texts)
    has_deviations = any(figure.deviation is not None for figure in grid.figures)
    parts = parts_of(grid, "pm" if has_deviations else "plain", names.of, WIDEST_NAMES)
    texts = [*definitions(table), *terms, *notes(table), *names.legend]
    return PrintedTable(tex(caption(table)), f"tab:bdbench-{place}", with_notes(parts, texts), names)


def _text_table(table: TextTable, labels: Sequence[Label]) -> PrintedTable:
    names = short_names(labels, {text for row in table.rows for text in row[: table.words]})
    words = re.sub(r"[^a-z]+", "-", f"{table.section} {table.title}".lower()).strip("-")
    title = tex(f"{table.section}: {table.title[0].lower()}{table.title[1:]}.")
    texts = [*table.terms, table.note, *names.legend]
    return PrintedTable(title, f"tab:bdbench-{words}", with_notes(text_parts(table, names.of), texts), names)
