"""Tables in LaTeX as one text: a document that compiles as it is, or a fragment for a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bdbench.analysis.short_names import ShortNames
from bdbench.reports.latex_grid import TEXT_WIDTH, Part
from bdbench.reports.latex_text import template_of, tex, width
from bdbench.reports.words import one_line

LINES_PER_PAGE = 50  # of article at 10 points, in lines of 8 points, without a caption
LINES_OF_HEAD = 5  # with the rules


@dataclass(frozen=True)
class PrintedTable:
    """What the template reads of a table: caption and label as LaTeX, and its parts. `names` are the short ones in it."""

    caption: str
    label: str
    parts: Sequence[Part]
    names: ShortNames


def with_notes(parts: Sequence[Part], notes: Sequence[str]) -> list[Part]:
    """The parts with these plain texts below the last one, those that do not fit on its page in further parts."""
    *earlier, last = parts
    pages: list[list[str]] = [[]]
    used = LINES_OF_HEAD + sum(line.endswith(r"\\") for line in last.body)
    for note in notes:
        lines = math.ceil(width(note) / TEXT_WIDTH)
        if used + lines > LINES_PER_PAGE:
            pages.append([])
            used = 0
        pages[-1].append(tex(note))
        used += lines
    alone = [Part("table*", last.separation, "", (), (), tuple(page)) for page in pages[1:]]
    return [*earlier, replace(last, notes=tuple(pages[0])), *alone]


def rendered(tables: Sequence[PrintedTable], is_document: bool, comments: Sequence[str], summary: str = "") -> str:
    """The tables, below `comments` and what their short names stand for; `summary`, as LaTeX, opens a document."""
    label_by_name = {short: label for table in tables for label, short in table.names.texts.items()}
    comments = [*comments, *(f"{short} is {label}" for short, label in label_by_name.items())]
    return template_of("tables.tex.jinja").render(
        document=is_document, comments=[_comment(line) for line in comments], summary=summary, tables=tables
    )


def _comment(text: str) -> str:
    """In one line, ASCII only; a comment needs no other escapes."""
    return one_line(text).encode("ascii", errors="backslashreplace").decode("ascii")
