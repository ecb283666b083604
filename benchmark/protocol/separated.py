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

_WITHIN_QUOTES = r'([^"]*+(?:""[^"]*+)*+)'
_FIELD = re.compile(rf'(?:"{_WITHIN_QUOTES}"|"{_WITHIN_QUOTES}\Z|([^",\r\n]*+))(,|(?:\r\n|\r|\n)?\Z)')
_QUOTED_FIELD = re.compile(f'"{_WITHIN_QUOTES}"')
_LINE_END = re.compile(r"\r\n|\r|\n")


def read_separated(
    lines: Iterable[str], separator: str, columns: Sequence[str], classes: Mapping[str, int]
) -> list[list[object]]:
    """The values of `columns`, of which the last holds the labels: numbers, by the words in `classes`.

    `lines` end as they do in the file. Raises UsageError for what is no strict table.
    """
    records = _csv_records(lines) if separator == "," else _tsv_records(lines, separator)
    _, line, header, is_long = next(records, (0, 0, [], False))
    if is_long:
        raise UsageError(f"{_place(0, line)}: a line end in a quoted name; a stray quote may have swallowed rows")
    names = [name.strip() for name in header]
    if not names:
        raise UsageError(f"no rows, and no header either; the first line should be {separator.join(columns)}")
    _check_separator(separator.join(header), separator)
    check_columns([name for name in names if name], columns)
    unnamed = [position for position, name in enumerate(names) if not name]
    positions = [names.index(name) for name in columns]
    values: list[list[object]] = [[] for _ in columns]
    for row, line, fields, is_long in records:
        if is_long and _holds_a_row(fields, separator, len(names), positions[-1], classes):
            raise UsageError(
                f"row {row} (line {line}): lines in a quoted field look like rows, so a stray quote may have swallowed them; "
                "correct the quote, or use .jsonl or .parquet for such texts"
            )
        if len(fields) != len(names):
            raise UsageError(f"row {row} (line {line}) {_wrong_count(fields, len(names), separator)}")
        for position in unnamed:
            # the numbers that pandas puts in front of its rows, or the nothing after a last comma; else part of a text
            if (value := fields[position].strip()) and (position or not value.isdecimal()):
                raise UsageError(
                    f"row {row} (line {line}): {shown(value)} is in a column without a name; "
                    "name it, or put a text that has commas in it in quotes"
                )
        for column, position in zip(values, positions, strict=True):
            column.append(fields[position])
    values[-1] = [classes.get(label.strip(), label.strip()) for label in values[-1]]
    return values


def _csv_records(lines: Iterable[str]) -> Iterator[Record]:
    row, first, is_open = 0, 0, False
    parts_of_fields: list[list[str]] = []  # a quoted field has a part on each of its lines
    for number, line in enumerate(lines, start=1):
        if not is_open and '"' not in line:  # nearly all of them
            fields = line.rstrip("\r\n").split(",")
            if len(fields) > 1 or fields[0].strip():
                yield row, number, fields, False
                row += 1
            continue
        if not is_open:
            first, parts_of_fields = number, [[]]
        # the part of an open field is read as a field that opens at the start of the line
        pieces = _unquoted(f'"{line}' if is_open else line)
        if pieces is None:
            if not row:
                _check_separator(line, ",")
            if number > first:
                raise UsageError(f"{_place(row, first)}: quotes do not match up to line {number}; correct the quote it opens")
            raise UsageError(
                f"{_place(row, first)}: a quote where none may be; put a field with quotes in quotes, and double those inside"
            )
        parts_of_fields[-1].append(pieces[0][0])
        parts_of_fields += [[piece] for piece, _ in pieces[1:]]
        _, is_open = pieces[-1]
        if not is_open:
            yield row, first, ["".join(parts) for parts in parts_of_fields], number > first
            row += 1
    if is_open:
        raise UsageError(f"{_place(row, first)}: a quote opens a field and no later one closes it; correct the quote")


def _unquoted(line: str) -> list[tuple[str, bool]] | None:
    """The fields of a line, and whether each goes on in the next one. None if a quote is where none may be."""
    fields, at = [], 0
    while match := _FIELD.match(line, at):
        closed, opened, plain, end = match.groups()
        quoted = closed if opened is None else opened
        fields.append((plain if quoted is None else quoted.replace('""', '"'), opened is not None))
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


def _check_separator(header: str, separator: str) -> None:
    other = next((other for other in SEPARATORS if other in header), separator)
    if separator not in header and other != separator:
        cure = f"name it {SUFFIX_OF[other]}" if other in SUFFIX_OF else f"write it with {SEPARATORS[separator]}"
        raise UsageError(f"separated by {SEPARATORS[other]}, not by {SEPARATORS[separator]}; {cure}")


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


def _holds_a_row(fields: list[str], separator: str, width: int, label_at: int, labels: Mapping[str, int]) -> bool:
    """Whether a line inside a field would be a row with a label of its own if the field's quotes were not there.

    Such a line is whole, or begins with the fields before the quote, or ends with those after it. Its label must be within
    the field: the record's own label says nothing.
    """

    def is_row(line: list[str]) -> bool:
        # an unquoted comma in it moves the label, counted from one end
        ends = (label_at, label_at - width)
        return len(line) >= width and any(line[at].strip() in labels for at in ends)

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
