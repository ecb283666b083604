"""A user's own rows and texts from one file: CSV, TSV, JSON lines or Parquet, by the strict readers of the matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from bdbench.data import TextSet
from bdbench.errors import UsageError
from bdbench.protocol.readers import Columns, read_columns
from bdbench.protocol.row_checks import MissingColumns, check_texts, naming
from bdbench.protocol.sources import read_rows
from bdbench.protocol.split_files import FORMATS
from bdbench.tasks.base import Task

T = TypeVar("T")

TEXT, PAIR = ("text",), ("text_a", "text_b")
LINES = ".txt"


def read_labelled(file: Path, label_names: tuple[str, ...], flag: str) -> TextSet:
    """The rows of a file with the columns text and label, or text_a, text_b and label, checked.

    Labels are the names of the classes or their numbers. Raises UsageError, naming `flag` and the file, for a file that cannot
    be read, a bad row, or rows of one class alone.
    """
    with naming(flag):
        return _as_text_or_pair(lambda columns: read_rows(_task(columns, label_names), [_checked_kind(file)]), "label")


def read_texts(file: Path) -> list[str] | list[tuple[str, str]]:
    """The texts of a .txt, one a line, blank lines left out; or those in the columns text, or text_a and text_b, of a table.

    Raises UsageError, naming --texts and the file.
    """
    with naming("--texts"):
        if file.suffix.lower() == LINES:
            with naming(file):
                return _lines(file)
        columns = _as_text_or_pair(lambda names: _columns(_checked_kind(file), names))
        return list(columns[0]) if len(columns) == 1 else list(zip(*columns, strict=True))


def unlabelled_rows(texts: Sequence[str] | Sequence[tuple[str, str]]) -> TextSet:
    """Texts, or pairs of them, as rows, every label 0. Raises UsageError if there is none, or if one is no text, or blank."""
    pairs = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    widths = {len(pair) for pair in pairs}
    if widths not in ({1}, {2}) or not all(isinstance(text, str) and text.strip() for pair in pairs for text in pair):
        raise UsageError("the texts are one or more texts, or pairs of texts, none of them empty")
    columns = [tuple(column) for column in zip(*pairs, strict=True)]
    return TextSet(columns[0], columns[1] if len(columns) == 2 else None, np.zeros(len(pairs), dtype=np.int64))


def _as_text_or_pair(read: Callable[[tuple[str, ...]], T], *others: str) -> T:
    """What `read` makes of the file with the columns of a text, or else of a pair."""
    try:
        return read(TEXT)
    except MissingColumns:
        try:
            return read(PAIR)
        except MissingColumns as error:
            wanted = " or ".join(", ".join((*columns, *others)) for columns in (TEXT, PAIR))
            raise UsageError(f"{error}; it needs the columns {wanted}") from error


def _columns(file: Path, names: tuple[str, ...]) -> Columns:
    with naming(file):
        columns = read_columns(file, names, {})
        for name, column in zip(names, columns, strict=True):
            check_texts(name, column, range(1, len(column) + 1))
        if not columns[0]:
            raise UsageError("no rows; give at least one text")
    return columns


def _lines(file: Path) -> list[str]:
    try:
        texts = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UsageError("not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})") from error
    if not texts:
        raise UsageError("no line with a text; give at least one")
    return texts


def _checked_kind(file: Path) -> Path:
    kind = (file.with_suffix("") if file.suffix.lower() == ".gz" else file).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UsageError(f"{file}: its name ends in none of {', '.join(f'.{name}' for name in FORMATS)}; rename or convert it")
    return file


def _task(columns: tuple[str, ...], label_names: tuple[str, ...]) -> Task:
    """A task that nobody registered: what the readers ask of one."""
    return type("OfModel", (Task,), {"name": "this model", "columns": columns, "label_names": label_names})()
