"""The files of a report, written beside the records they are made from."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bdbench.analysis.frame import long_table
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.files import write_whole
from bdbench.reports.html_page import html
from bdbench.reports.latex import latex
from bdbench.reports.markdown import markdown

T = TypeVar("T")


def write_report(directory: Path, board: Leaderboard) -> list[Path]:
    """As `write_tables`, into a folder, which is made if it is not there; returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    return write_tables(lambda name, text: write_whole(directory / name, lambda file: file.write(text)), board)


def write_tables(write: Callable[[str, bytes], T], board: Leaderboard) -> list[T]:
    """Write leaderboard.md, .csv, .tex, leaderboard-tables.tex and index.html by `write`, a name and content at a time.

    Returns what `write` returns. The bytes depend on the records, their predictions and the tunings alone, not on their
    order. Raises ValueError if a cell occurs twice.
    """
    document, fragment = latex(board)
    texts = {
        "leaderboard.md": markdown(board),
        # quoted, since Python before 3.13 leaves a lone carriage return without quotes, which readers take for a line's end
        "leaderboard.csv": long_table(board.summaries).to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC),
        "leaderboard.tex": document,
        "leaderboard-tables.tex": fragment,
        "index.html": html(board),
    }
    return [write(name, text.encode("utf-8")) for name, text in texts.items()]
