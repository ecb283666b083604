"""A figure's page: style, measures in inches, text that is drawn as it is, and the same bytes for the same drawing.

The fonts are those that come with matplotlib. Nothing here or in the other modules of drawings uses pyplot.
"""

from __future__ import annotations

import io
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from bdbench.analysis.labels import Label
from bdbench.analysis.short_names import short_names
from bdbench.reports.words import one_line

COLUMN, TEXT = 3.3, 6.9  # widths of a figure in a paper, in inches
FONT_SIZE = 8.0
LINE = 0.155  # from one line of text to the next
PAD = 0.06  # between a text and what stands beside it
ROUNDING = 1e-6  # of a sum of measures: a text may be just as wide as the room that was made for it
FONT = "DejaVu Sans"

STYLE = {
    "font.family": FONT,
    "font.size": FONT_SIZE,
    **dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), FONT_SIZE),
    "text.parse_math": False,  # names are no formulas
    "axes.unicode_minus": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{axis}tick.{part}": size for axis in "xy" for part, size in (("major.width", 0.6), ("major.size", 2.5))},
    **{f"{axis}tick.{part}": size for axis in "xy" for part, size in (("minor.width", 0.4), ("minor.size", 1.5))},
    "lines.linewidth": 0.8,
    "pdf.fonttype": 42,  # TrueType, as publishers ask
    "svg.fonttype": "none",
    "svg.hashsalt": "bdbench",
    "text.hinting": "no_hinting",  # it would make texts wider or narrower than they were measured
    "figure.dpi": 300,
}
# Without the dates and versions that matplotlib would write.
METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
# Okabe and Ito's colors, which color-blind readers tell apart; the shapes do so in grey.
BLACK, GREY, LIGHT_GREY = "#000000", "#777777", "#c8c8c8"
MARKERS = {
    "repair": ("o", "#0072B2"),
    "detector": ("^", "#D55E00"),
    "purifier": ("D", "#009E73"),
    "filter": ("s", "#CC79A7"),
    "training": ("v", "#E69F00"),
}


@contextmanager
def style() -> Iterator[None]:
    """Figures of STYLE, whatever the user's own matplotlibrc says; it is as before afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name may be in any script
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def text_width(text: str) -> float:
    """In inches, at FONT_SIZE."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(family=FONT, size=FONT_SIZE), ismath=False)
    return float(width) / 72


def figure_names(labels: Sequence[Label]) -> dict[Label, str]:
    """The short names of labels, each in one line."""
    names = short_names(labels)
    return {label: one_line(names.of(str(label))) for label in labels}


def fitted(line: str, width: float) -> str:
    """`line`, at most `width` inches wide: what is longer loses its middle."""
    width += ROUNDING
    if text_width(line) <= width:
        return line
    kept = bisect_right(range(len(line)), width, key=lambda count: text_width(_without_middle(line, count))) - 1
    return _without_middle(line, max(kept, 0))


def fitted_apart(lines: Sequence[str], width: float) -> list[str]:
    """Each of the lines as by `fitted`; those that would be alike get a number."""
    counts: Counter[str] = Counter()
    shown = []
    for line in lines:
        text = fitted(line, width)
        counts[text] += 1
        if counts[text] > 1:
            number = f" ({counts[text]})"
            text = fitted(line, width - text_width(number)) + number
        shown.append(text)
    return shown


def widest(texts: Sequence[str]) -> float:
    """The width of the widest of the texts, in inches; 0 of none."""
    return max(map(text_width, texts), default=0.0)


class Page:
    """A figure of a width and height in inches, whose parts are placed in inches from its lower left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes without a background, which would hide what is drawn on the page."""
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box, facecolor="none")

    def text(self, x: float, y: float, text: str, **properties: object) -> None:
        self.figure.text(x / self.width, y / self.height, text, **properties)

    def line(self, points: Sequence[tuple[float, float]], **properties: object) -> None:
        """A line through points of the page."""
        xs, ys = zip(*points, strict=True)
        self.figure.add_artist(Line2D([x / self.width for x in xs], [y / self.height for y in ys], **properties))

    def place_of(self, axes: Axes, x: float, y: float) -> tuple[float, float]:
        """Where a point of the axes is on the page, in inches."""
        right, up = self.figure.transFigure.inverted().transform(axes.transData.transform((x, y)))
        return float(right) * self.width, float(up) * self.height

    def save(self, file_format: str) -> bytes:
        """As "pdf", "png" or "svg"."""
        stream = io.BytesIO()
        self.figure.savefig(stream, format=file_format, metadata=METADATA[file_format])
        return stream.getvalue()


def _without_middle(line: str, kept: int) -> str:
    return f"{line[: (kept + 1) // 2]}…{line[len(line) - kept // 2 :]}"
