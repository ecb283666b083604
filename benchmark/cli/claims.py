"""`bdbench claims DIRECTORY`: the seed paper's claims, tested on a run's records."""

from __future__ import annotations

from typing import Annotated

import typer

from bdbench.api.boards import read_reported, tell_left_out
from bdbench.cli.arguments import warn
from bdbench.cli.strict import Strict, fail_if_strict


def claims(
    directory: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/paper-mini")],
    strict: Strict = False,
) -> None:
    """Test the seed paper's claims on a run's records: differences, 95 % intervals, verdicts.

    A record that cannot be read is left out, with a warning.
    """
    from bdbench.analysis.verification import left_out_records
    from bdbench.matrix.storage import place_of
    from bdbench.matrix.tuned_files import read_kept
    from bdbench.reports.claims_page import text

    place = place_of(directory)
    tunings, run = read_kept(place), read_reported(place, with_predictions=False)
    left_out = left_out_records(run)
    tell_left_out(place, left_out, warn)
    typer.echo(text(run.records.values(), tunings, left_out), nl=False)
    fail_if_strict(strict, left_out)
