"""`bdbench claims DIRECTORY`: the seed paper's claims, tested on a run's records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def claims(directory: Annotated[Path, typer.Argument(help="folder of a run, such as results/paper-mini")]) -> None:
    """Test the seed paper's claims on a run's records: differences, 95 % intervals, verdicts."""
    from bdbench.matrix.results import read_records
    from bdbench.matrix.tuned_files import read_kept
    from bdbench.reports.claims_page import text

    typer.echo(text(read_records(directory), read_kept(directory)), nl=False)
