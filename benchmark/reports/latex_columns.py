"""A table of texts as LaTeX rows, of the same widths and heights as the grids of numbers (see `latex_grid`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bdbench.reports.latex_grid import (
    EM,
    LINES_PER_PART,
    NARROW_NAMES,
    NARROW_SEPARATION,
    ONE_COLUMN,
    SEPARATION,
    TEXT_WIDTH,
    Part,
    row_of,
    stacked,
)
from bdbench.reports.latex_text import broken, tex, width
from bdbench.reports.text_tables import TextTable

STEP = 0.25  # em, by which the widest column is narrowed until the table fits


def text_parts(table: TextTable, short: Callable[[str], str]) -> list[Part]:
    """The table in parts: the words in each, and the baseline's rows. `short` gives what is shown of a label."""
    rows = [[*map(short, row[: table.words]), *row[table.words :]] for row in table.rows]
    columns = list(zip(table.headers, *rows, strict=True))
    natural = [max(map(width, (*_words(texts[0]), *texts[1:]))) for texts in columns]
    if _total(natural, SEPARATION) <= ONE_COLUMN:
        environment, separation, widths = "table", SEPARATION, natural
    else:
        environment, separation = "table*", NARROW_SEPARATION
        least = [
            min(wide, max(NARROW_NAMES, *map(width, _words(texts[0]))))
            if place < table.words
            else max(width(word) for text in texts for word in _words(text))
            for place, (texts, wide) in enumerate(zip(columns, natural, strict=True))
        ]
        widths = _narrowed(natural, least, separation)
    return [
        _part(table, shown, cut, widths, environment, separation)
        for cut in _cut_rows(table, rows, widths)
        for shown in _cut_columns(table.words, widths, separation)
    ]


def _words(text: str) -> list[str]:
    return text.split() or [""]


def _total(widths: Sequence[float], separation: float) -> float:
    return sum(widths) + (len(widths) - 1) * 2 * separation / EM


def _narrowed(natural: Sequence[float], least: Sequence[float], separation: float) -> list[float]:
    """The widths at which the table fits the text, or the least ones."""
    widths = list(natural)
    while _total(widths, separation) > TEXT_WIDTH:
        wide = [place for place in range(len(widths)) if widths[place] > least[place]]
        if not wide:
            break
        widest = max(wide, key=lambda place: widths[place])
        widths[widest] = max(least[widest], widths[widest] - STEP)
    return widths


def _cut_columns(words: int, widths: Sequence[float], separation: float) -> list[list[int]]:
    """The columns of each part, the words in all of them: as many as fit the text, but one number at least."""
    parts = [list(range(words))]
    for place in range(words, len(widths)):
        longer = [*parts[-1], place]
        if len(parts[-1]) > words and _total([widths[each] for each in longer], separation) > TEXT_WIDTH:
            parts.append([*range(words), place])
        else:
            parts[-1] = longer
    return parts


def _cut_rows(table: TextTable, rows: Sequence[Sequence[str]], widths: Sequence[float]) -> list[list[Sequence[str]]]:
    """The rows of each part, no more than a page holds."""

    def height(of: Sequence[Sequence[str]]) -> int:
        return sum(max(len(broken(text, wide)) for text, wide in zip(row, widths, strict=True)) for row in of)

    baseline, parts = list(rows[: table.baseline]), [list(rows[: table.baseline])]
    for row in rows[table.baseline :]:
        if len(parts[-1]) > len(baseline) and height([*parts[-1], row]) > LINES_PER_PART:
            parts.append([*baseline])
        parts[-1].append(row)
    return parts


def _part(
    table: TextTable,
    columns: Sequence[int],
    rows: Sequence[Sequence[str]],
    widths: Sequence[float],
    environment: str,
    separation: float,
) -> Part:
    head = row_of(stacked(broken(table.headers[place], widths[place])) for place in columns)
    lines_of_rows = [[broken(row[place], widths[place]) for place in columns] for row in rows]
    is_spaced = any(len(lines) > 1 for cells in lines_of_rows for lines in cells)
    body: list[str] = []
    for cells in lines_of_rows:
        body += [r"\addlinespace[2pt]"] if is_spaced and body else []
        for line in range(max(map(len, cells))):
            body.append(row_of(tex(lines[line]) if line < len(lines) else "" for lines in cells))
    specification = "".join("l" if place < table.words else "r" for place in columns)
    return Part(environment, separation, specification, (head,), tuple(body))
