"""Figures of numbers in cells: the ASR of each defense under each attack, and how often a defense beats another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps

from bdbench.analysis.block_ranks import BlockRanks
from bdbench.analysis.figure_data import HeatMap, Matrix, win_matrix
from bdbench.analysis.printed import ABSENT
from bdbench.reports.figure_canvas import BLACK, COLUMN, LINE, PAD, TEXT, Page, figure_names, fitted_apart, text_width, widest

CELL_WIDTH, CELL_HEIGHT = 0.25, 0.19  # room for three digits
WIDEST_CELL = 0.6
LONGEST_HEAD = 2.2
SHORTEST_NAME = 1.6  # of the room for a name where there are many columns
WHITE_FROM = 0.72  # in the colors from there on white has more contrast than black
COLORS = colormaps["Blues"]  # its lightness falls from end to end, so it reads in grey


def heat_map_page(shown: HeatMap) -> Page:
    """Rows of defenses, columns of attacks, ASR in per cent; a dash where there is none."""
    names = figure_names([defense for defense in shown.defenses if not defense.is_undefended])
    attacks = figure_names(shown.attacks)
    rows = [names.get(defense, "undefended") for defense in shown.defenses]
    heads = fitted_apart([attacks[attack] for attack in shown.attacks], LONGEST_HEAD)
    return _matrix_page(shown.asr, rows, heads, "ASR (%)", absent=ABSENT, are_heads_upright=True)


def win_rate_page(ranks: BlockRanks) -> Page:
    """Rows and columns of defenses, the best average rank first; the columns have the numbers of the rows."""
    defenses = ranks.defenses
    names = figure_names(defenses)
    rows = [f"{place}  {names[defense]}" for place, defense in enumerate(defenses, 1)]
    heads = [str(place) for place in range(1, len(defenses) + 1)]
    title = "victims on which the row beats the column (%)"
    return _matrix_page(win_matrix(ranks), rows, heads, title, absent="", are_heads_upright=False)


def _matrix_page(
    values: Matrix, rows: Sequence[str], heads: Sequence[str], title: str, absent: str, are_heads_upright: bool
) -> Page:
    """A page with the number of each cell, (rows, columns), in per cent, and `absent` in place of NaN.

    It is as wide as a paper's text at most, but for columns that would leave no room for the names of rows.
    """
    count_rows, count_columns = values.shape
    cells_width = count_columns * CELL_WIDTH
    needed = widest(rows) + cells_width + 4 * PAD
    width = COLUMN if needed <= COLUMN else max(TEXT, SHORTEST_NAME + cells_width + 4 * PAD)
    names = fitted_apart(rows, width - cells_width - 4 * PAD)
    left = widest(names) + 2 * PAD
    head_height = (widest(heads) if are_heads_upright else LINE) + PAD
    bottom = LINE + 2 * PAD
    height = bottom + count_rows * CELL_HEIGHT + head_height + PAD
    page = Page(width, height)
    cell_width = min((width - left - 2 * PAD) / count_columns, WIDEST_CELL)
    axes = page.axes(left, bottom, count_columns * cell_width, count_rows * CELL_HEIGHT)
    edges = (range(count_columns + 1), range(count_rows + 1))
    axes.pcolormesh(*edges, np.ma.masked_invalid(values), cmap=COLORS, vmin=0, vmax=1, edgecolors="white", linewidth=0.5)
    axes.set(xlim=(0, count_columns), ylim=(count_rows, 0))
    axes.axis("off")
    for (row, column), value in np.ndenumerate(values):
        text, color = (absent, BLACK) if np.isnan(value) else (f"{100 * value:.0f}", "white" if value >= WHITE_FROM else BLACK)
        axes.text(column + 0.5, row + 0.5, text, color=color, ha="center", va="center_baseline")
    cells_top = bottom + count_rows * CELL_HEIGHT
    for row, name in enumerate(names):
        page.text(left - PAD, cells_top - (row + 0.5) * CELL_HEIGHT, name, ha="right", va="center_baseline")
    for column, head in enumerate(heads):
        rotation = {"rotation": 90} if are_heads_upright else {}
        page.text(left + (column + 0.5) * cell_width, cells_top + PAD, head, ha="center", va="bottom", **rotation)
    title_left = max(PAD, left + count_columns * cell_width - text_width(title))
    page.text(title_left, PAD, title, va="bottom")
    return page
