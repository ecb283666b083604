"""The rankings of a board as a piece of HTML, for a notebook."""

from __future__ import annotations

import jinja2

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.reports.ranking_page import ranking_tables
from bdbench.reports.words import one_line

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("bdbench.reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def html(heading: str, board: Leaderboard) -> str:
    """A heading and a table for each ranking. Every text is escaped, and stands in one line."""
    tables = ranking_tables(board) if board.records else []
    terms = tuple(dict.fromkeys(term for table in tables for term in table.terms))
    return TEMPLATES.get_template("notebook.html.jinja").render(
        heading=one_line(heading), tables=tables, terms=terms, one_line=one_line
    )
