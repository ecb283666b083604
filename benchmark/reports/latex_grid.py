"""A grid as LaTeX rows: decimals aligned by siunitx, cut into parts that fit a page at one size of type.

Widths are in em of the type, 8 points. A number is one of an S column. siunitx does not parse what is underlined, so that it
stands in braces, centered, with as much invisible type around it as the column's format has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bdbench.analysis.layouts import Figure, Grid, Line, Section
from bdbench.analysis.printed import percent, points
from bdbench.reports.latex_text import broken, tex, width

STYLES = ("interval", "pm", "plain")
EM = 8.5  # points, of Computer Modern at 8 points; of Times 8
ONE_COLUMN = 200 / EM  # of article's two at 10 points; ACL's, ICML's, IEEE's and ACM's are wider
TEXT_WIDTH = 345 / EM  # of article at 10 points; NeurIPS's, ACL's, ICML's, IEEE's and ACM's are wider
SEPARATION, NARROW_SEPARATION = 2.5, 1.8  # \tabcolsep, points
LINES_PER_PART = 46  # with the caption no higher than a page
NARROW_NAMES = 5.3  # in a table of one column: "embedding-", "fine-mixing"
DIGIT, POINT, SIGN = 0.5, 0.28, 0.78

HEADINGS = {
    "rank": "",
    "defense": "Defense",
    "attack": "Attack",
    "task": "Task",
    "floor": "Floor",
    "acc": "ACC",
    "cacc": "CACC",
    "asr": "ASR",
    "lost": "CACC lost",
    "added": "ASR - base",
    "worst": "Worst ASR",
    "anti-bad": "Anti-BAD",
    "frr": "FRR",
    "worst_attack": "attack",
    "adaptive": "Worst adaptive",
    "adaptive_attack": "attack",
}
NAMES_IN_COLUMNS = {"worst_attack": 8.5, "adaptive_attack": 8.5}  # the widest, in em


@dataclass(frozen=True)
class Part:
    """What the template reads of a part: an environment, "table" or "table*", \\tabcolsep in points, the tabular's rows.

    `notes` stand below; a part without `columns` has nothing else.
    """

    environment: str
    separation: float
    columns: str
    head: tuple[str, ...]
    body: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Numbers:
    """A column of numbers: how many digits stand before the point, whether a sign, and the marks that follow some."""

    digits: int
    is_signed: bool
    marks: tuple[str, ...]
    widest_word: float
    heading: str

    @property
    def specification(self) -> str:
        longest = _mark(max(self.marks, key=len)) if self.marks else ""
        after = f"{{{longest}}}" if longest else ""
        return f"S[table-format={'+' if self.is_signed else ''}{self.digits}.1{after}]"

    @cached_property
    def width(self) -> float:
        number = self.digits * DIGIT + POINT + DIGIT + self.is_signed * SIGN + max(map(width, self.marks), default=0.0)
        return max(number, self.widest_word, *map(width, _heading_lines(self.heading)))

    def cell(self, figure: Figure) -> str:
        """The number, or in its place a word."""
        entry = figure.entry
        if entry.mean is None:
            return f"{{{tex(entry.word)}}}" if entry.word else ""
        bold = r"\bdbenchbold " if figure.mark.bold else ""
        if not figure.mark.underlined:
            mark = f" {{{_mark(entry.mark)}}}" if entry.mark else ""
            return f"{bold}{entry.number}{mark}"
        integer = re.sub(r"\D", "", entry.number.partition(".")[0])
        padding = "0" * (self.digits - len(integer)) + ("$+$" if self.is_signed and entry.number[0] not in "+-" else "")
        padding = rf"\phantom{{{padding}}}" if padding else ""
        number = re.sub(r"^[+-]", lambda sign: f"${sign[0]}$", entry.number)
        longest = _mark(max(self.marks, key=len)) if self.marks else ""
        after = (rf"\rlap{{{_mark(entry.mark)}}}" if entry.mark else "") + (rf"\phantom{{{longest}}}" if longest else "")
        return rf"{{{padding}\smash{{\underline{{{bold}{number}}}}}{after}}}"


@dataclass(frozen=True)
class _Names:
    """A column of names, broken at its width."""

    width: float
    heading: str
    specification: str = "l"


def parts_of(grid: Grid, style: str, short: Callable[[str], str], widest_names: float) -> list[Part]:
    """The table in parts, each with the baseline. `short` gives what is shown of a label; `widest_names` is in em."""
    whole = _Layout(grid, style, short, widest_names, SEPARATION)
    narrow = _Layout(grid, style, short, NARROW_NAMES, NARROW_SEPARATION)
    for layout in (whole, narrow):
        if layout.width <= ONE_COLUMN:
            return layout.parts("table", [range(len(grid.groups))])
    folded = _Layout(grid, style, short, widest_names, SEPARATION, is_folded=True)
    smallest = _Layout(grid, style, short, NARROW_NAMES, NARROW_SEPARATION, is_folded=True)
    layout = next((layout for layout in (whole, narrow, folded) if layout.fits), smallest)
    return layout.parts("table*", layout.cut())


class _Layout:
    """A grid with its columns: names first, then those of each group. A folded one has intervals on two lines."""

    def __init__(
        self,
        grid: Grid,
        style: str,
        short: Callable[[str], str],
        widest_names: float,
        separation: float,
        is_folded: bool = False,
    ) -> None:
        self.grid, self.style, self._short, self._widest_names = grid, style, short, widest_names
        self._is_folded = is_folded
        self._separation, self._gap = separation, 2 * separation / EM
        self._names = [self._names_column(place, heading) for place, heading in enumerate(grid.names)]
        self._columns = [
            [self._column(place, inner, heading) for inner, heading in enumerate(group.headings)]
            for place, group in enumerate(grid.groups)
        ]

    @property
    def width(self) -> float:
        return self._names_width + sum(map(self._group_width, range(len(self.grid.groups))))

    @property
    def fits(self) -> bool:
        """Whether the text holds each part: the baseline and one other group at least."""
        widths = {True: [0.0], False: [0.0]}
        for place, group in enumerate(self.grid.groups):
            widths[group.baseline].append(self._group_width(place))
        return self._names_width + sum(widths[True]) + max(widths[False]) <= TEXT_WIDTH

    @property
    def _names_width(self) -> float:
        return sum(column.width + self._gap for column in self._names) - self._gap  # the table begins without a gap

    def _group_width(self, group: int) -> float:
        return sum(column.width + self._gap for column in self._columns[group])

    def cut(self) -> list[list[int]]:
        """The groups of each part: as few parts as hold them, about as wide as each other, each with the baseline."""
        baseline = [place for place, group in enumerate(self.grid.groups) if group.baseline]
        others = [place for place, group in enumerate(self.grid.groups) if not group.baseline]
        room = TEXT_WIDTH - self._names_width - sum(map(self._group_width, baseline))
        if not others:
            return [baseline]
        per_part = max(1, int(room / max(map(self._group_width, others))))
        per_part = math.ceil(len(others) / math.ceil(len(others) / per_part))
        return [[*baseline, *others[start : start + per_part]] for start in range(0, len(others), per_part)]

    def parts(self, environment: str, cuts: Iterable[Sequence[int]]) -> list[Part]:
        return [
            Part(
                environment,
                self._separation,
                "".join(column.specification for column in self._columns_of(groups)),
                tuple(self._head(groups)),
                tuple(self._body(sections, groups)),
            )
            for sections in self._cut_rows()
            for groups in cuts
        ]

    def _columns_of(self, groups: Sequence[int]) -> list[_Numbers | _Names]:
        return [*self._names, *(column for group in groups for column in self._columns[group])]

    def _names_column(self, place: int, heading: str) -> _Names:
        lines = [text for line in self.grid.lines for text in self._name_lines(line)[place]]
        return _Names(max(map(width, [HEADINGS[heading], *lines])), HEADINGS[heading])

    def _column(self, group: int, inner: int, heading: str) -> _Numbers | _Names:
        contents = [line.places[group][inner] for line in self.grid.lines]
        if heading in NAMES_IN_COLUMNS:
            lines = [text for content in contents for text in self._content_lines(content, heading)]
            return _Names(max(map(width, [HEADINGS[heading], *lines])), HEADINGS[heading])
        numbers = [content.entry.number for content in contents if content.entry.mean is not None]
        words = [content.entry.word for content in contents if content.entry.mean is None]
        marks = {content.entry.mark for content in contents if content.entry.mark and content.entry.mean is not None}
        # a minus is as wide as a plus
        spreads = [line.replace("-", "+") for content in contents for line in self._spread(content)]
        return _Numbers(
            digits=max((len(re.sub(r"\D", "", number.partition(".")[0])) for number in numbers), default=1),
            is_signed=any(number[0] in "+-" for number in numbers),
            marks=tuple(sorted(marks)),  # so that of two as long as each other it is always the same that counts as longest
            widest_word=max(map(width, [*words, *spreads]), default=0.0),
            heading=HEADINGS[heading],
        )

    def _name_lines(self, line: Line) -> list[list[str]]:
        """The lines of each name."""
        return [broken(self._short(name), self._widest_names) for name in line.names]

    def _content_lines(self, content: Figure | str, heading: str) -> list[str]:
        return broken(self._short(content), NAMES_IN_COLUMNS[heading]) if isinstance(content, str) else []

    def _spread(self, figure: Figure) -> list[str]:
        """The lines below a number."""
        if figure.entry.mean is None:
            return []
        shown = points if figure.entry.signed else percent
        if self.style == "pm" and figure.deviation is not None:
            return [f"±{percent(figure.deviation)}"]
        if self.style == "interval" and figure.estimate is not None and figure.estimate.low is not None:
            low, high = f"[{shown(figure.estimate.low)},", f"{shown(figure.estimate.high)}]"
            return [low, high] if self._is_folded else [f"{low} {high}"]
        return []

    def _rows(self, line: Line, groups: Sequence[int]) -> list[list[str]]:
        """The rows of a line, a cell for each column: what does not fit in one goes on below."""
        cells = [[tex(text) for text in lines] for lines in self._name_lines(line)]
        cells[-1][-1] += tex(line.mark)
        for group in groups:
            for content, column, heading in zip(
                line.places[group], self._columns[group], self.grid.groups[group].headings, strict=True
            ):
                if isinstance(content, str):
                    cells.append([tex(text) for text in self._content_lines(content, heading)])
                else:
                    cells.append([column.cell(content), *(f"{{{_with_minus(line)}}}" for line in self._spread(content))])
        height = max(map(len, cells))
        return [[of_column[row] if row < len(of_column) else "" for of_column in cells] for row in range(height)]

    def _height(self, line: Line) -> int:
        return len(self._rows(line, range(len(self.grid.groups))))

    def _head(self, groups: Sequence[int]) -> list[str]:
        rows = []
        if any(self.grid.groups[group].head for group in groups):
            cells, rules = [""] * len(self._names), []
            first = len(self._names) + 1
            for group in groups:
                span = len(self._columns[group])
                cells.append(_spanned(self._group_head(group), span))
                if self.grid.groups[group].head:
                    rules.append(rf"\cmidrule(lr){{{first}-{first + span - 1}}}")
                first += span
            rows += [row_of(cells), "".join(rules)]
        headings = [stacked(_heading_lines(column.heading)) for column in self._columns_of(groups)]
        braced = [
            f"{{{heading}}}" if isinstance(column, _Numbers) else heading
            for heading, column in zip(headings, self._columns_of(groups), strict=True)
        ]
        return [*rows, row_of(braced)]

    def _group_head(self, group: int) -> str:
        return stacked(broken(self._short(self.grid.groups[group].head), self._group_width(group) - self._gap))

    def _body(self, sections: Sequence[Section], groups: Sequence[int]) -> list[str]:
        count = len(self._columns_of(groups))
        total = sum(column.width + self._gap for column in self._columns_of(groups)) - self._gap
        body: list[str] = []
        for section in sections:
            body += [r"\midrule"] if body else []
            body += [
                rf"\multicolumn{{{count}}}{{@{{}}l@{{}}}}{{\itshape {tex(text)}}} \\"
                for text in (broken(self._short(section.title), total) if section.title else [])
            ]
            for place, line in enumerate((*section.baseline, *section.lines)):
                body += self._set(line, groups, is_first=not place)
            body += [rf"\cmidrule{{1-{count}}}"] if section.summary else []
            for place, line in enumerate(section.summary):
                body += self._set(line, groups, is_first=not place)
        return body

    def _set(self, line: Line, groups: Sequence[int], is_first: bool) -> list[str]:
        rows = self._rows(line, groups)
        gap = [r"\addlinespace[2pt]"] if self._is_spaced and not is_first else []
        return gap + [row_of(cells) for cells in rows]

    @cached_property
    def _is_spaced(self) -> bool:
        """Whether lines of several rows need room between them."""
        return any(self._height(line) > 1 for line in self.grid.lines)

    def _cut_rows(self) -> list[list[Section]]:
        """The sections of each part. One that is higher than a part is cut, too, its baseline in each piece."""
        parts: list[list[Section]] = [[]]
        used = 0
        for piece in (piece for section in self.grid.sections for piece in self._pieces(section)):
            height = self._section_height(piece)
            if parts[-1] and used + height > LINES_PER_PART:
                parts.append([])
                used = 0
            parts[-1].append(piece)
            used += height
        return parts

    def _pieces(self, section: Section) -> list[Section]:
        pieces = [replace(section, lines=(), summary=())]
        for line in section.lines:
            longer = replace(pieces[-1], lines=(*pieces[-1].lines, line))
            if pieces[-1].lines and self._section_height(longer) > LINES_PER_PART:
                pieces.append(replace(section, lines=(line,), summary=()))
            else:
                pieces[-1] = longer
        pieces[-1] = replace(pieces[-1], summary=section.summary)
        return pieces

    def _section_height(self, section: Section) -> int:
        return 2 * bool(section.title) + sum(map(self._height, (*section.baseline, *section.lines, *section.summary)))


def _with_minus(spread: str) -> str:
    return tex(spread).replace("-", "$-$")


def _mark(mark: str) -> str:
    return f"$^{{{mark}}}$"


def _heading_lines(heading: str) -> list[str]:
    """ "Worst ASR" -> two lines, so that the column is as narrow as its numbers; "ASR - base" -> "ASR", "- base"."""
    first, _, rest = heading.partition(" ")
    return [first, rest] if rest else [first]


def stacked(lines: Sequence[str]) -> str:
    """Lines above each other, the last on the line of the row."""
    texts = [re.sub(r"^- ", r"$-$ ", tex(line)) for line in lines]
    stacked = r" \\ ".join(texts)
    return texts[0] if len(texts) == 1 else rf"\begin{{tabular}}[b]{{@{{}}c@{{}}}}{stacked}\end{{tabular}}"


def _spanned(text: str, span: int) -> str:
    return text if not text else rf"\multicolumn{{{span}}}{{c}}{{{text}}}"


def row_of(cells: Iterable[str]) -> str:
    return " & ".join(cells).rstrip() + r" \\"
