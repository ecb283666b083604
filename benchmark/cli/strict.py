"""`--strict`: a file that a report has to leave out is a failure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bdbench.specs.saved import LeftOut

Strict = Annotated[
    bool,
    typer.Option("--strict", help="exit with 1 if a file had to be left out; all that can be written is written before"),
]


def fail_if_strict(strict: bool, left_out: Iterable[LeftOut]) -> None:
    """With --strict, raise typer.Exit with status 1 if there is a file that is left out."""
    if strict and any(True for _ in left_out):
        raise typer.Exit(1)
