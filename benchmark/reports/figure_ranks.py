"""The critical-difference diagram (Demšar, 2006, JMLR 7): average ranks on an axis, bars over those that may be alike."""

from __future__ import annotations

import math

from bdbench.analysis.block_ranks import BlockRanks
from bdbench.analysis.figure_data import cliques
from bdbench.reports.figure_canvas import BLACK, COLUMN, LINE, PAD, TEXT, Page, figure_names, fitted_apart, text_width, widest

AXIS_WIDTH, WIDE_AXIS_WIDTH = 1.5, 2.8  # at least, in a column and across the text
TICK = 0.04
BAR_STEP = 0.07  # from one bar to the next


def critical_difference_page(ranks: BlockRanks) -> Page:
    """Rank 1 is at the right, as in the paper, and the names stand to the right of it: so no two lines cross."""
    defenses = ranks.defenses
    values = [ranks.average_ranks[defense] for defense in defenses]
    by_defense = figure_names(defenses)
    texts = [f"{by_defense[defense]}  {value:.2f}" for defense, value in zip(defenses, values, strict=True)]
    is_narrow = AXIS_WIDTH + widest(texts) + 6 * PAD <= COLUMN
    width, least_axis_width = (COLUMN, AXIS_WIDTH) if is_narrow else (TEXT, WIDE_AXIS_WIDTH)
    axis_width = max(least_axis_width, width - widest(texts) - 6 * PAD)
    left, names_left = 3 * PAD, axis_width + 5 * PAD
    room = width - names_left - PAD
    number_width = widest([f"  {value:.2f}" for value in values])
    names = fitted_apart([by_defense[defense] for defense in defenses], room - number_width)

    runs = cliques(values, ranks.critical_difference)
    bars_height = (len(runs) + 1) * BAR_STEP
    axis_y = bars_height + len(defenses) * LINE + PAD
    difference_y = axis_y + LINE + 3 * PAD
    page = Page(width, difference_y + TICK + LINE + PAD)

    def x_of(rank: float) -> float:
        return left + axis_width * (len(defenses) - rank) / (len(defenses) - 1)

    page.line([(x_of(len(defenses)), axis_y), (x_of(1), axis_y)], color=BLACK, linewidth=0.8)
    step = max(1, math.ceil(len(defenses) / 12))
    for rank in range(1, len(defenses) + 1, step):
        page.line([(x_of(rank), axis_y), (x_of(rank), axis_y + TICK)], color=BLACK, linewidth=0.6)
        page.text(x_of(rank), axis_y + TICK + PAD / 2, str(rank), ha="center", va="bottom")
    _draw_difference(page, ranks.critical_difference, left, axis_width / (len(defenses) - 1), difference_y)

    for place, (value, name) in enumerate(zip(values, names, strict=True)):
        y = axis_y - bars_height - (place + 0.5) * LINE
        page.line([(x_of(value), axis_y), (x_of(value), y), (names_left - PAD / 2, y)], color=BLACK, linewidth=0.6)
        page.text(names_left, y, f"{name}  {value:.2f}", va="center_baseline")
    for level, (first, last) in enumerate(runs, 1):
        y = axis_y - level * BAR_STEP
        ends = (x_of(values[last]) - 0.03, x_of(values[first]) + 0.03)
        page.line([(ends[0], y), (ends[1], y)], color=BLACK, linewidth=2.2, solid_capstyle="butt")
    return page


def _draw_difference(page: Page, difference: float, left: float, per_rank: float, y: float) -> None:
    """The critical difference as a length, above the axis."""
    right = left + difference * per_rank
    page.line([(left, y), (right, y)], color=BLACK, linewidth=0.8)
    for end in (left, right):
        page.line([(end, y - TICK), (end, y + TICK)], color=BLACK, linewidth=0.8)
    text = f"CD = {difference:.2f}"
    page.text(max((left + right) / 2 - text_width(text) / 2, left), y + TICK + PAD / 2, text, va="bottom")
