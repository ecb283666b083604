"""The leaderboard as one HTML file that needs no network: tables to sort and filter, figures, and every cell's record.

Names, texts and messages of others reach the page in two ways, and become markup in neither: through Jinja2, which escapes
them, and as JSON, of which the script makes texts alone. A policy in the page lets the browser run this script and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.provenance import recorded
from bdbench.analysis.tables import FAILED, SKIPPED, Table
from bdbench.reports.page_data import page_data, page_details
from bdbench.reports.ranking_page import ranking_tables
from bdbench.reports.sections import other_tables
from bdbench.reports.tuning_page import terms_of
from bdbench.reports.words import (
    BUILTIN,
    WORKS,
    caption,
    cautions,
    counts,
    has_generated_text,
    left_out_files,
    notes,
    one_line,
    rates,
    typed_names,
    unfinished,
    what_was_run,
)

MOST_NAMED = 4  # tasks in the title, seeds and versions among the facts
COMMIT_DIGITS = 10
DAY = len("2026-11-27")  # of a time
ESCAPES = {char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}  # what could end a script or mean something in it


def html(board: Leaderboard) -> str:
    """The whole page. Raises ValueError if a cell occurs twice."""
    style, script = _file("page.css"), _file("page.js")
    sections = [*ranking_tables(board), *other_tables(board)]
    return _template().render(
        title=f"Leaderboard: {_listed(_tasks(board))}" if board.records else "Leaderboard",
        policy=f"default-src 'none'; img-src data:; style-src {_allowed(style)}; script-src {_allowed(script)}",
        style=Markup(style),
        script=Markup(script),
        facts=_facts(board),
        generated=BUILTIN if has_generated_text(board.records) else "",
        cautions=[*left_out_files(board.left_out, len(board.records)), *cautions(board.records)],
        definitions=[rates(board.overall), WORKS, *typed_names(board.overall)] if board.overall else [],
        sections={name: [table for table in sections if table.section == name] for name in _distinct(sections)},
        by_task=[_task(table, board) for table in board.by_task],
        unfinished=[
            (title, unfinished(board.summaries, status))
            for status, title in ((FAILED, "Failed cells"), (SKIPPED, "Skipped cells"))
        ],
        data=Markup(as_json(page_data(board))),
        details=Markup(as_json(page_details(board))),
    )


def as_json(value: Any) -> str:
    """JSON that may stand in a script of an HTML page: no text in it ends the script, or is markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char, escape in ESCAPES.items():  # which occur within strings alone
        text = text.replace(char, escape)
    return text


def _facts(board: Leaderboard) -> list[tuple[str, str]]:
    """What the run is, as terms and what holds of them; a term of which nothing is known is left out."""
    records = board.records
    if not records:
        return [("Cells", counts(records))]
    victims = [record.spec.victim for record in records]
    commits = [commit[:COMMIT_DIGITS] for commit in recorded(records, "commit")]
    versions = {name: recorded(records, name) for name in ("bdbench", "torch")}
    days = sorted({time[:DAY] for time in recorded(records, "ended")})
    facts = [
        ("Cells", counts(records)),
        ("Tasks", ", ".join(_tasks(board))),
        ("Run with", "; ".join(what_was_run(board.summaries))),
        ("Seeds", _listed([str(seed) for seed in sorted({victim.seed for victim in victims})])),
        ("Protocol", ", ".join(map(str, sorted({victim.protocol for victim in victims})))),
        ("Software", ", ".join(f"{name} {_listed(found)}" for name, found in versions.items() if found)),
        ("Commit", _listed(commits)),
        ("Device", _listed(recorded(records, "device"))),
        ("Ended", " to ".join(dict.fromkeys((*days[:1], *days[-1:])))),
    ]
    return [(term, text) for term, text in facts if text]


def _task(table: Table, board: Leaderboard) -> dict[str, Any]:
    """What stands around the matrix of a task, and the marks of its attacks: of those that are not averaged."""
    return {
        "title": table.title,
        "caption": caption(table),
        "notes": [*terms_of(table, board.tunings), *notes(table)],
        "marks": as_json({one_line(row.label): row.mark for row in table.rows if row.mark}),
    }


def _tasks(board: Leaderboard) -> list[str]:
    return list(dict.fromkeys(str(summary.task) for summary in board.summaries))


def _listed(texts: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(texts) - MOST_NAMED
    return ", ".join(texts[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _distinct(tables: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(table.section for table in tables))


def _allowed(source: str) -> str:
    """The hash by which a policy allows this script or style and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


@cache
def _file(name: str) -> str:
    return (files("bdbench.reports") / "templates" / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        finalize=lambda value: one_line(value) if type(value) is str else value,  # not of Markup, which is the page's own
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.from_string(_file("index.html.jinja"))
