"""Tables of plain texts: what a report shows beside its tables of CACC and ASR."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """A table of plain texts. The first `words` columns hold names and the like, the others numbers.

    Tables of one `section` stand under one heading, below its `terms`. The first `baseline` rows, of undefended victims, stand
    in every part of a table that is cut.
    """

    section: str
    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int
    note: str
    terms: tuple[str, ...] = ()
    baseline: int = 0
