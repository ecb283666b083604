"""Rows of text fields between separators: CSV exactly as RFC 4180 has it, and TSV without quoting, as GLUE publishes it.

Nothing is guessed. Every row has as many fields as the header, a quote is where the standard allows one, and a quoted field
that holds what looks like rows is refused: a stray quote swallowed them. In a TSV file a quote is a character like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bdbench.errors import UsageError
from bdbench.protocol.row_checks import check_columns, shown

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
SUFFIX_OF = {",": ".csv", "\t": ".tsv"}

# row (0 is the header), its first line, its fields, whether it has more than one line
Record = tuple[int, int, list[str], bool]

_QUOTED = r'"([^"]*+(?:""[^"]*+)*+)"'
_FIELD = re.compile(rf'(?:{_QUOTED}|([^",\r\n]*+))(,|(?:\r\n|\r|\n)?\Z)')
_QUOTED_FIELD = re.compile(_QUOTED)
_LINE_END = re.compile(r"\r\n|\r|\n")


def read_separated(lines: Iterable[str], separator: str, columns: Sequence[str], classes: int) -> list[list[object]]:
    """The values of `columns`, of which the last holds the labels: integers where they are the digits of a class.

    `lines` end as they do in the file. Raises UsageError for what is no strict table.
    """
    records = _csv_records(lines) if separator == "," else _tsv_records(lines, separator)
    _, _, header, _ = next(records, (0, 0, [], False))
    names = [name.strip() for name in header]
    if not names:
        raise UsageError(f"no rows, and no header either; the first line should be {separator.join(columns)}")
    _check_header(names, separator, columns)
    # the first column without a name is an index, as pandas writes it; another one must be the nothing after a last comma
    unnamed = [position for position, name in enumerate(names) if position and not name]
    positions = [names.index(name) for name in columns]
    labels = {str(label): label for label in range(classes)}
    values: list[list[object]] = [[] for _ in columns]
    for row, line, fields, is_long in records:
        if len(fields) != len(names):
            raise UsageError(f"row {row} (line {line}) {_wrong_count(fields, len(names), separator)}")
        if is_long and _holds_a_row(fields, separator, positions[-1], labels):
            raise UsageError(
                f"row {row} (line {line}): lines in a quoted field look like rows, so a stray quote may have swallowed them; "
                "correct the quote, or use .jsonl or .parquet for such texts"
            )
        for position in unnamed:
            if fields[position].strip():
                raise UsageError(
                    f"row {row} (line {line}): {shown(fields[position])} is in a column without a name; "
                    "quote a text that has a comma in it"
                )
        for column, position in zip(values, positions, strict=True):
            column.append(fields[position])
    values[-1] = [labels.get(label.strip(), label.strip()) for label in values[-1]]
    return values


def _csv_records(lines: Iterable[str]) -> Iterator[Record]:
    row, first, parts, is_open = 0, 0, [], False
    for number, line in enumerate(lines, start=1):
        if not parts and '"' not in line:
            fields = line.rstrip("\r\n").split(",")
            if len(fields) > 1 or fields[0].strip():
                yield row, number, fields, False
                row += 1
            continue
        first = first if parts else number
        parts.append(line)
        is_open ^= line.count('"') % 2 == 1
        if not is_open:
            fields = _unquoted("".join(parts))
            if fields is None:
                swallowed = f", and it may have swallowed the lines up to {number}" if number > first else ""
                raise UsageError(
                    f"{_place(row, first)}: a quote where none may be{swallowed}; "
                    "put a field that has quotes in quotes, and double those inside"
                )
            yield row, first, fields, len(parts) > 1
            row, parts = row + 1, []
    if parts:
        raise UsageError(f"{_place(row, first)}: a quote opens a field and no later one closes it; correct the quote")


def _unquoted(record: str) -> list[str] | None:
    """The fields of a record, or None if one has a quote where none may be."""
    fields, at = [], 0
    while match := _FIELD.match(record, at):
        quoted, plain, end = match.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"'))
        if end != ",":
            return fields
        at = match.end()
    return None


def _tsv_records(lines: Iterable[str], separator: str) -> Iterator[Record]:
    row, doubled, is_csv = 0, None, True
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r\n").split(separator)
        if len(fields) == 1 and not fields[0].strip():
            continue
        if '"' in line:
            for field in fields:
                if '"' in field:
                    is_csv = is_csv and _QUOTED_FIELD.fullmatch(field) is not None
                    doubled = doubled or ('""' in field[1:-1] and _place(row, number))
        yield row, number, fields, False
        row += 1
    if doubled and is_csv:
        raise UsageError(f"{doubled}: quoted as in CSV, but a .tsv has no quoting; write texts as they are, or a .csv")


def _check_header(names: list[str], separator: str, columns: Sequence[str]) -> None:
    if len(names) == 1 and (other := next((other for other in SEPARATORS if other in names[0]), None)):
        cure = f"name it {SUFFIX_OF[other]}" if other in SUFFIX_OF else f"write it with {SEPARATORS[separator]}"
        raise UsageError(f"separated by {SEPARATORS[other]}, not by {SEPARATORS[separator]}; {cure}")
    check_columns([name for name in names if name], columns)


def _wrong_count(fields: list[str], wanted: int, separator: str) -> str:
    """What is wrong with a row of too many fields, or too few, and what to do."""
    problem = f"has {len(fields)} field{'s' * (len(fields) != 1)}, the header {wanted}; "
    if len(fields) == 1:
        for other, name in SEPARATORS.items():
            if other != separator and fields[0].count(other) == wanted - 1:
                return f"{problem}it is separated by {name}, not by {SEPARATORS[separator]}"
    if separator != ",":
        return f"{problem}no text may have a tab or a line end in it"
    if len(fields) == wanted + 1 and not fields[-1]:
        return f"{problem}remove the comma at its end, or put one at the end of the header, too"
    return f"{problem}put a text that has commas or line ends in it in quotes"


def _holds_a_row(fields: list[str], separator: str, label_at: int, labels: Mapping[str, int]) -> bool:
    """Whether a line inside a field would be a row with a label of its own if the field's quotes were not there.

    Such a line is whole, or begins with the fields before the quote, or ends with those after it. Its label must be within
    the field: the record's own label says nothing.
    """

    def is_row(line: list[str]) -> bool:
        # an unquoted comma in it moves the label, counted from one end
        ends = (label_at, label_at - len(fields))
        return len(line) >= len(fields) and any(line[at].strip() in labels for at in ends)

    for position, field in enumerate(fields):
        first, *middle = _LINE_END.split(field)
        if not middle:
            continue
        last = middle.pop()
        if label_at > position and is_row([*fields[:position], *first.split(separator)]):
            return True
        if label_at < position and is_row([*last.split(separator), *fields[position + 1 :]]):
            return True
        if any(is_row(line.split(separator)) for line in middle):
            return True
    return False


def _place(row: int, line: int) -> str:
    return f"row {row} (line {line})" if row else f"the header (line {line})"
