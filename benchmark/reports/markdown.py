"""The leaderboard as a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.printed import METRICS, percent
from bdbench.analysis.summaries import Summary
from bdbench.analysis.tables import FAILED, SKIPPED, Entry, Table
from bdbench.reports.ranking_page import ranking_tables
from bdbench.reports.sections import other_tables
from bdbench.reports.text_tables import TextTable
from bdbench.reports.tuning_page import terms_of
from bdbench.reports.words import (
    HEADINGS,
    caption,
    cautions,
    counts,
    definitions,
    left_out_files,
    notes,
    one_line,
    rates,
    typed_names,
    unfinished,
)


def markdown(board: Leaderboard) -> str:
    """The whole leaderboard as a Markdown page. Raises ValueError if a cell occurs twice."""
    lines = ["# Leaderboard", "", "Defenses against backdoors in fine-tuned language models, by `bdbench`.", ""]
    lines += [counts(board.records), ""]
    for caution in (*left_out_files(board.left_out, len(board.records)), *cautions(board.records)):
        lines += [escaped(caution), ""]
    if board.overall:
        lines += _sections(ranking_tables(board))
        lines += [*_bullets([*definitions(board.overall), *typed_names(board.overall)]), ""]
        lines += _section(board.overall, [*terms_of(board.overall, board.tunings), *notes(board.overall)])
        lines += _sections(other_tables(board))
        for table in board.by_task:
            lines += _section(table, [rates(table), *terms_of(table, board.tunings), *notes(table)])
    lines += _unfinished(board.summaries, FAILED, "Failed cells") + _unfinished(board.summaries, SKIPPED, "Skipped cells")
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """`text` in one line, with a backslash before whatever Markdown would read as more than itself, in a table or out of it."""
    text = re.sub(r"([\\`*<>|~#&$])", r"\\\1", one_line(text).strip(" "))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # within a word an underscore is one
    text = re.sub(r"\](?=[(\[])", r"\\]", text)  # the end of a link's text
    text = re.sub(r"^(?=[-+=\[])", r"\\", text)  # the start of a list's item, of a line under a heading, of a check box
    return re.sub(r"^(\d+)(?=[.)](?: |$))", r"\1\\", text)


def code(text: str) -> str:
    """`text` in one line as a span of code, whatever backticks it holds; not for tables, whose pipes it leaves alone."""
    text = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padding = " " if text[:1] in ("`", " ") or text[-1:] in ("`", " ") else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def github_table(rows: Sequence[Sequence[object]], headers: Sequence[str], left: Iterable[int] = (0,)) -> str:
    """A table in GitHub's Markdown; the columns in `left` are aligned left, the others right."""
    alignment = ["left" if column in set(left) else "right" for column in range(len(headers))]
    # tabulate refuses an alignment of no rows; and it would print "+50.0" as 50 if it took it for a number
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=alignment if rows else None)


def _section(table: Table, remarks: Iterable[str]) -> list[str]:
    return [
        f"## {escaped(table.title)}",
        "",
        escaped(caption(table)),
        "",
        _table(table),
        "",
        *_bullets(remarks),
        "",
    ]


def _sections(tables: Sequence[TextTable]) -> list[str]:
    """The tables, each section under one heading and below its terms."""
    lines: list[str] = []
    for section in dict.fromkeys(table.section for table in tables):
        of_section = [table for table in tables if table.section == section]
        lines += [f"## {section}", ""]
        if of_section[0].terms:
            lines += [*_bullets(of_section[0].terms), ""]
        for table in of_section:
            rows = [[*map(escaped, row[: table.words]), *row[table.words :]] for row in table.rows]
            lines += [f"### {escaped(table.title)}", "", github_table(rows, table.headers, left=range(table.words)), ""]
            lines += [*_bullets([table.note]), ""]
    return lines


def _bullets(texts: Iterable[str]) -> list[str]:
    return [f"- {escaped(text)}" for text in texts]


def _table(table: Table) -> str:
    headers = [table.of.capitalize(), "Floor"]
    headers += [escaped(f"{defense} {heading}") for defense in table.defenses for heading in HEADINGS]
    rows = []
    for row in table.all_rows:
        entries = [pair[metric] for pair in row.entries for metric in METRICS]
        rows.append([escaped(row.label) + row.mark, _entry(row.floor), *map(_entry, entries)])
    return github_table(rows, headers)


def _entry(entry: Entry) -> str:
    if entry.mean is None:
        return entry.word
    number = entry.number + ("" if entry.std is None else f" ± {percent(entry.std)}")
    mark = f" ({entry.mark})" if "/" in entry.mark else escaped(entry.mark)
    return (f"**{number}**" if entry.best else number) + mark


def _unfinished(summaries: Iterable[Summary], status: str, title: str) -> list[str]:
    lines = [f"- {escaped(cells)}: {code(reason)}" for cells, reason in unfinished(summaries, status)]
    return [f"## {title}", "", *lines, ""] if lines else []
