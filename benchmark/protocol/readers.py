"""The columns of one data file, whatever its format, by strict readers: what is not exactly a table is refused."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from bdbench.errors import UsageError, first_line
from bdbench.protocol.row_checks import check_columns, shown
from bdbench.protocol.separated import read_separated

Columns = list[list[Any]]
SMALL_BATCH = 8192  # rows of a parquet file at a time: a quarter less memory than the library's 65536, in the same time


def read_columns(file: Path, columns: Sequence[str], classes: Mapping[str, int]) -> Columns:
    """The values of `columns`, of which the last holds the labels; what is missing is None.

    Labels are what the file has: in CSV and TSV, numbers by the words in `classes`, else text.
    Raises UsageError, which does not name the file, if it cannot be read or is not a table with these columns.
    """
    try:
        try:
            return _read(file, columns, classes)
        except UnicodeDecodeError as error:
            raise UsageError(_not_utf8(file)) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"not a whole gzip file ({first_line(error)})") from error
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror or first_line(error)})") from error


def _read(file: Path, columns: Sequence[str], classes: Mapping[str, int]) -> Columns:
    kind = (file.with_suffix("") if _is_packed(file) else file).suffix.lower()
    if kind == ".parquet":
        return _read_parquet(file, columns)
    with _open_text(file) as stream:
        if kind in (".json", ".jsonl"):
            return _read_json(stream, columns)
        return read_separated(_without_nul(stream), "," if kind == ".csv" else "\t", columns, classes)


def _is_packed(file: Path) -> bool:
    return file.suffix.lower() == ".gz"


def _open_bytes(file: Path) -> BinaryIO:
    return gzip.open(file, "rb") if _is_packed(file) else file.open("rb")


@contextmanager
def _open_text(file: Path) -> Iterator[TextIO]:
    """The file as UTF-8, without a byte order mark, with its line ends as they are."""
    with _open_bytes(file) as stream:
        start = stream.read(4)
        if start.startswith(b"\x1f\x8b"):
            raise UsageError("compressed; let its name end in .gz")
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"\0" in start and start.strip(b"\0")):
            raise UsageError("looks like UTF-16 or UTF-32; save the file as UTF-8")
        stream.seek(0)
        with io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
            yield text


def _without_nul(lines: TextIO) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise UsageError(f"line {number}: a NUL byte, which no text has; the file is damaged, or no text file")
        yield line


def _not_utf8(file: Path) -> str:
    with _open_bytes(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: the byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8"
    return "not UTF-8; save the file as UTF-8"


def _read_parquet(file: Path, columns: Sequence[str]) -> Columns:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as table:
            check_columns(table.schema_arrow.names, columns)
            values: Columns = [[] for _ in columns]
            for batch in table.iter_batches(SMALL_BATCH, columns=list(columns)):
                for column, name in zip(values, columns, strict=True):
                    column.extend(batch.column(name).to_pylist())
    except (UsageError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a damaged file ends in errors of many types, some of many lines
        raise UsageError(f"not a readable parquet file ({first_line(error)})") from error
    return values


def _read_json(stream: TextIO, columns: Sequence[str]) -> Columns:
    """An array of objects, or an object per line. An object without one of the keys has None there."""
    values: Columns = [[] for _ in columns]
    keys: dict[str, None] = {}
    for row, item in enumerate(_json_rows(stream), start=1):
        if not isinstance(item, dict):
            raise UsageError(f"row {row} is {shown(item)}, not an object; a row is {{{', '.join(columns)}}}")
        keys.update(dict.fromkeys(item))
        for column, name in zip(values, columns, strict=True):
            column.append(item.get(name))
    if values[0]:
        check_columns(list(keys), columns)
    return values


def _json_rows(stream: TextIO) -> Iterator[Any]:
    row = 0
    for number, line in enumerate(stream, start=1):
        if line.isspace():
            continue
        if not row and line.lstrip().startswith("["):
            yield from _parsed(line + stream.read(), "not an array of objects, nor an object per line")
            return
        row += 1
        yield _parsed(line, f"row {row} (line {number}) is not an object of JSON on one line")


def _parsed(text: str, problem: str) -> Any:
    try:
        return _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{problem} ({first_line(error)})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    item = dict(pairs)
    if len(item) < len(pairs):
        raise ValueError(f"a key occurs twice in {shown([key for key, _ in pairs])}")
    return item


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)  # one for all lines: making it takes longer
