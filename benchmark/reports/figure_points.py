"""Figures of a point for each defense: what it costs in clean accuracy, and in seconds, against the ASR that it leaves.

Names stand in a column at the right, each joined to its point by a thin line, so that no two of them can overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from bdbench.analysis.bootstrap import Estimate
from bdbench.analysis.figure_data import plane, shown_places, spread
from bdbench.analysis.ranking import Place, Ranking
from bdbench.reports.figure_canvas import (
    BLACK,
    COLUMN,
    GREY,
    LIGHT_GREY,
    LINE,
    MARKERS,
    PAD,
    TEXT,
    Page,
    figure_names,
    fitted_apart,
    text_width,
    widest,
)

LEFT, BOTTOM = 0.52, 0.42  # of the axes: room for numbers and a title
PLOT_WIDTH, WIDE_PLOT_WIDTH = 1.5, 2.8  # at least, in a column and across the text
PLOT_HEIGHT = 2.2
GUTTER = 0.22  # between the axes and the names
LEAST_SPAN = 4.0  # points of accuracy that the axis shows
MOST_TICKS = 6
INTERVAL = {"linewidth": 0.6, "alpha": 0.5, "zorder": 2}
UNDEFENDED_MARKER = ("X", BLACK)


@dataclass(frozen=True)
class Point:
    """A defense, or the undefended victims, at `x` (per cent or seconds) and `asr` (per cent).

    The marker of one without a rank is hollow.
    """

    name: str
    kind: str
    marker: tuple[str, str]
    is_hollow: bool
    x: Estimate
    asr: Estimate


@dataclass(frozen=True)
class Name:
    """A text of the column at the right, joined to a point of the axes."""

    text: str
    color: str
    x: float
    y: float


def plane_page(ranking: Ranking) -> Page:
    """CACC against ASR with both intervals, the Pareto front, the accuracy that is tolerated and the base rate.

    At least one place of the ranking has estimates.
    """
    shown = plane(ranking)
    points = _points(shown.places, ranking, [_in_percent(place.estimates["cacc"]) for place in shown.places])
    ends = [end for point in points for end in _ends(point.x)]
    tolerated = -math.inf if shown.tolerated is None else 100 * shown.tolerated
    levels = {} if shown.base is None else {"base rate": 100 * shown.base}
    axes, page = _axes(points, levels, "CACC (%)", _linear_limits([*ends, *([tolerated] if tolerated > 0 else [])]))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if tolerated > 0:
        axes.axvline(tolerated, color=GREY, linewidth=0.7, linestyle="--", zorder=1)
        _write_above(page, axes, f"{100 * ranking.rules.tolerance:g} points lost", tolerated)
    front = [(100 * cacc, 100 * asr) for cacc, asr in shown.front]
    if front:
        axes.plot(*zip(*front, strict=True), color=BLACK, linewidth=0.7, drawstyle="steps-pre", zorder=3)
    return page


def cost_page(ranking: Ranking) -> Page | None:
    """Seconds of a cell, on a logarithmic axis, against ASR; None if no defense has any on record.

    The undefended victims, whose seconds are those of the evaluation alone, are a line.
    """
    own = ranking.undefended
    places = [place for place in shown_places(ranking) if place is not own and place.seconds > 0]
    if not places:
        return None
    points = _points(places, ranking, [Estimate(place.seconds) for place in places])
    levels = {"undefended": 100 * own.estimates["asr"].value} if own and own.estimates else {}
    limits = (min(place.seconds for place in places) / 1.6, max(place.seconds for place in places) * 1.6)
    axes, page = _axes(points, levels, "seconds per cell", limits, scale="log")
    axes.xaxis.set_major_locator(FixedLocator(_log_ticks(*limits)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    return page


def _points(places: Sequence[Place], ranking: Ranking, xs: Sequence[Estimate]) -> list[Point]:
    own = ranking.undefended
    names = figure_names([place.defense for place in places if place is not own])
    return [
        Point(
            "undefended" if place is own else names[place.defense],
            "" if place is own else place.kind,
            UNDEFENDED_MARKER if place is own else MARKERS[place.kind],
            place.rank is None and place is not own,
            x,
            _in_percent(place.estimates["asr"]),
        )
        for place, x in zip(places, xs, strict=True)
    ]


def _axes(
    points: Sequence[Point], levels: dict[str, float], title: str, limits: tuple[float, float], scale: str = "linear"
) -> tuple[Axes, Page]:
    """Axes with the points, their names, and lines at the levels of ASR; on a page as wide and high as the names ask."""
    texts = [*(point.name for point in points), *levels]
    is_narrow = LEFT + PLOT_WIDTH + GUTTER + widest(texts) + PAD <= COLUMN
    width, least_plot_width = (COLUMN, PLOT_WIDTH) if is_narrow else (TEXT, WIDE_PLOT_WIDTH)
    plot_width = max(least_plot_width, width - LEFT - GUTTER - widest(texts) - PAD)
    plot_height = max(PLOT_HEIGHT, (len(texts) - 1) * LINE)
    kinds = [kind for kind in MARKERS if any(point.kind == kind for point in points)]
    has_key = len(kinds) > 1
    page = Page(width, BOTTOM + plot_height + (2 if has_key else 1) * (LINE + PAD))
    axes = page.axes(LEFT, BOTTOM, plot_width, plot_height)
    axes.set_xscale(scale)
    axes.set(xlim=limits, ylim=(-3, 103), xlabel=title, ylabel="ASR (%)", yticks=range(0, 101, 20))
    for level in levels.values():
        axes.axhline(level, color=GREY, linewidth=0.7, linestyle=":", zorder=1)
    _draw_points(axes, points)
    if has_key:
        _draw_key(page, kinds, page.height - LINE / 2 - PAD / 2)
    names = [Name(point.name, BLACK, point.x.value, point.asr.value) for point in points]
    names += [Name(text, GREY, limits[1], level) for text, level in levels.items()]
    _write_names(page, axes, names, LEFT + plot_width + GUTTER, plot_height)
    return axes, page


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    for point in points:
        shape, color = point.marker
        if point.x.low is not None:
            axes.plot(_ends(point.x), [point.asr.value] * 2, color=color, **INTERVAL)
        if point.asr.low is not None:
            axes.plot([point.x.value] * 2, _ends(point.asr), color=color, **INTERVAL)
        axes.plot(
            [point.x.value],
            [point.asr.value],
            marker=shape,
            color=color,
            markersize=4.5,
            markerfacecolor="white" if point.is_hollow else color,
            markeredgewidth=0.8,
            linestyle="none",
            zorder=4,
            clip_on=False,
        )


def _draw_key(page: Page, kinds: Sequence[str], y: float) -> None:
    """The markers of the kinds, in a line above the axes."""
    x = LEFT
    for kind in kinds:
        shape, color = MARKERS[kind]
        page.line([(x, y)], marker=shape, color=color, markersize=4.5, linestyle="none")
        page.text(x + 1.5 * PAD, y, kind, va="center_baseline")
        x += text_width(kind) + 5 * PAD


def _write_names(page: Page, axes: Axes, names: Sequence[Name], left: float, height: float) -> None:
    """The column of names, as near to the height of their points as there is room."""
    in_order = sorted(names, key=lambda name: (name.y, -name.x))
    on_page = [page.place_of(axes, name.x, name.y) for name in in_order]
    ys = spread([y for _, y in on_page], LINE, BOTTOM, BOTTOM + height)
    texts = fitted_apart([name.text for name in in_order], page.width - left - PAD)
    for name, text, point, y in zip(in_order, texts, on_page, ys, strict=True):
        page.line([point, (left - PAD / 2, y)], color=LIGHT_GREY, linewidth=0.5, zorder=0)
        page.text(left, y, text, color=name.color, va="center_baseline")


def _write_above(page: Page, axes: Axes, text: str, x: float) -> None:
    """A text over the top of the axes at `x`, moved where the page ends."""
    page_x, top = page.place_of(axes, x, axes.get_ylim()[1])
    left = max(PAD, min(page_x - text_width(text) / 2, page.width - PAD - text_width(text)))
    page.text(left, top + PAD / 2, text, color=GREY, va="bottom")


def _in_percent(estimate: Estimate) -> Estimate:
    if estimate.low is None or estimate.high is None:
        return Estimate(100 * estimate.value)
    return Estimate(100 * estimate.value, 100 * estimate.low, 100 * estimate.high)


def _ends(estimate: Estimate) -> tuple[float, float]:
    """Of the interval; where there is none, of the number."""
    return (
        estimate.value if estimate.low is None else estimate.low,
        estimate.value if estimate.high is None else estimate.high,
    )


def _linear_limits(values: Sequence[float]) -> tuple[float, float]:
    """Around the values, with room at both ends."""
    low, high = min(values), max(values)
    room = max(0.05 * (high - low), (LEAST_SPAN - (high - low)) / 2)
    return low - room, high + room


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high], decades alone if there are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5) if low <= factor * 10.0**decade <= high]
    if len(ticks) <= MOST_TICKS:
        return ticks
    tens = [10.0**decade for decade in decades if low <= 10.0**decade <= high]
    return tens[:: math.ceil(len(tens) / MOST_TICKS)]
