"""The files of a report, written beside the records they are made from."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from bdbench.analysis.frame import long_table
from bdbench.files import write_whole
from bdbench.reports.latex import latex
from bdbench.reports.markdown import markdown
from bdbench.specs.records import Record
from bdbench.specs.tuned import Tuned


def write_report(directory: Path, records: Iterable[Record], tunings: Sequence[Tuned] = ()) -> list[Path]:
    """Write leaderboard.md, .csv, .tex and leaderboard-tables.tex into `directory`; returns their paths.

    The bytes depend on the records and tunings alone, not on their order. Each file appears whole or not at all. Raises
    ValueError if a cell occurs twice.
    """
    records = list(records)
    document, fragment = latex(records, tunings)
    texts = {
        "leaderboard.md": markdown(records, tunings),
        # quoted, since Python before 3.13 leaves a lone carriage return without quotes, which readers take for a line's end
        "leaderboard.csv": long_table(records, tunings).to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC),
        "leaderboard.tex": document,
        "leaderboard-tables.tex": fragment,
    }
    directory.mkdir(parents=True, exist_ok=True)
    return [_write_text(directory / name, text) for name, text in texts.items()]


def _write_text(path: Path, text: str) -> Path:
    return write_whole(path, lambda file: file.write(text.encode("utf-8")))
