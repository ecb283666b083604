"""Reading the tables of a LaTeX text, for the tests."""

from __future__ import annotations

import re


def tabulars(text: str) -> list[tuple[str, str]]:
    """The columns and the body of each tabular that stands on lines of its own."""
    found = re.findall(r"^\\begin\{tabular\}\{@\{\}([^\n]*)@\{\}\}$\n(.*?)^\\end\{tabular\}$", text, re.DOTALL | re.MULTILINE)
    assert found
    return found


def columns_of(specification: str) -> int:
    return len(re.sub(r"\[table-format=[+\d.]+(\{\$[^$]*\$\})?\]", "", specification))


def rows_of(body: str) -> list[list[str]]:
    """The cells of each row, a spanning one as often as it spans; stacked heads count for one."""
    rows = []
    for line in body.splitlines():
        if not line.endswith(r"\\"):
            continue
        line = re.sub(r"\\begin\{tabular\}\[b\].*?\\end\{tabular\}", "stacked", line.removesuffix(r"\\"))
        cells = [part.strip() for part in re.split(r"(?<!\\)&", line)]
        rows.append([c for c in cells for _ in range(int((re.match(r"\\multicolumn\{(\d+)\}", c) or [0, 1])[1]))])
    return rows
