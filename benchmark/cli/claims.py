"""`bdbench claims DIRECTORY`: the seed paper's claims, tested on a run's records."""

from __future__ import annotations

from typing import Annotated

import typer


def claims(directory: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/paper-mini")]) -> None:
    """Test the seed paper's claims on a run's records: differences, 95 % intervals, verdicts."""
    from bdbench.matrix.results import read_records
    from bdbench.matrix.storage import place_of
    from bdbench.matrix.tuned_files import read_kept
    from bdbench.reports.claims_page import text

    place = place_of(directory)
    typer.echo(text(read_records(place), read_kept(place)), nl=False)
