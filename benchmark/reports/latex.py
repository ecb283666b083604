"""The leaderboard in LaTeX with booktabs: a document that compiles as it is, or a fragment for a paper."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from bdbench.analysis.labels import Label
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.printed import METRICS, percent
from bdbench.analysis.tables import Entry, Row, Table
from bdbench.reports.kinds_page import kinds_tables
from bdbench.reports.latex_text import template_of, tex
from bdbench.reports.ranking_page import ranking_tables
from bdbench.reports.text_tables import TextTable
from bdbench.reports.tuning_page import terms_of, tuning_tables
from bdbench.reports.words import HEADINGS, caption, counts, definitions, left_out_files, notes

# More column pairs than this, without and with deviations, would shrink to an unreadable size on a page.
PAIRS_PER_PART = 6
PAIRS_PER_PART_WITH_STD = 4


def latex(board: Leaderboard) -> tuple[str, str]:
    """The tables in LaTeX, ASCII only: a document that compiles as it is, and a fragment of the same tables to `\\input`.

    Raises ValueError if a cell occurs twice.
    """
    tables = [board.overall, *board.by_task] if board.overall else []
    parts = [part for number, table in enumerate(tables) for part in _parts(table, number, terms_of(table, board.tunings))]
    texts = [*map(_text_table, [*ranking_tables(board), *tuning_tables(board), *kinds_tables(board)])]
    template = template_of("leaderboard.tex.jinja")
    summary = " ".join(map(tex, (counts(board.records), *left_out_files(board.left_out, len(board.records)))))
    document, fragment = (
        template.render(document=is_document, summary=summary, parts=parts, headings=HEADINGS, text_tables=texts)
        for is_document in (True, False)
    )
    return document, fragment


def _parts(table: Table, number: int, terms: Sequence[str]) -> list[dict[str, Any]]:
    """A wide table cut into several that fit a page, the notes under the last one; what the template reads of each."""
    has_std = any(entry.std is not None for row in table.rows for pair in row.entries for entry in pair.values())
    widest = PAIRS_PER_PART_WITH_STD if has_std else PAIRS_PER_PART
    count = math.ceil(len(table.defenses) / widest)
    width = math.ceil(len(table.defenses) / count)  # so that the parts are about as wide as each other
    starts = range(0, len(table.defenses), width)
    parts = []
    for place, start in enumerate(starts, start=1):
        columns = slice(start, start + width)
        text = caption(table) if place == 1 else f"{table.title}, continued."
        parts.append(
            {
                "caption": tex(text + (f" Part {place} of {len(starts)}." if len(starts) > 1 else "")),
                "label": f"tab:bdbench-{number}" + (f"-{place}" if len(starts) > 1 else ""),
                "of": tex(table.of.capitalize()),
                "heads": [_head(defense) for defense in table.defenses[columns]],
                "rows": [_row(row, columns) for row in table.rows],
                "averages": [_row(row, columns) for row in (*table.averages, *table.deviations)],
                "notes": [tex(note) for note in (*definitions(table), *terms, *notes(table))] if place == len(starts) else [],
            }
        )
    return parts


def _head(defense: Label) -> str:
    """The defense's name; a composition, a variant or a tuned one on several lines, so that a pair of columns stays narrow."""
    *first, last = re.split(r"(?<=\+) ?", defense.heading)
    lines = [*map(tex, first), tex(last)] + ([tex(defense.suffix)] if defense.suffix else [])
    if defense.terms:
        lines += [tex(line) for line in f"tuned ({defense.terms})".replace(", ", ",\n").splitlines()]
    stacked = r"\\".join(lines)
    return rf"\shortstack{{{stacked}}}" if len(lines) > 1 else stacked


def _text_table(table: TextTable) -> dict[str, Any]:
    """What the template reads of a table of texts."""
    words = re.sub(r"[^a-z]+", "-", f"{table.section} {table.title}".lower()).strip("-")
    return {
        "caption": tex(f"{table.section}: {table.title[0].lower()}{table.title[1:]}."),
        "label": f"tab:bdbench-{words}",
        "columns": "l" * table.words + "r" * (len(table.headers) - table.words),
        "rows": [[tex(text) for text in row] for row in (table.headers, *table.rows)],
        "notes": [tex(note) for note in (*table.terms, table.note)],
    }


def _row(row: Row, columns: slice) -> list[str]:
    entries = [pair[metric] for pair in row.entries[columns] for metric in METRICS]
    return [tex(row.label + row.mark), _entry(row.floor), *map(_entry, entries)]


def _entry(entry: Entry) -> str:
    if entry.mean is None:
        return tex(entry.word)
    printed = f"${entry.number}$" if entry.signed else entry.number  # in maths, so that minus is no hyphen
    number = printed + ("" if entry.std is None else rf" $\pm$ {percent(entry.std)}")
    mark = f"$^{{{entry.mark}}}$" if entry.mark else ""
    return (rf"\textbf{{{number}}}" if entry.best else number) + mark
