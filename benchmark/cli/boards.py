"""A run's folder as a leaderboard."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from bdbench.errors import UsageError

if TYPE_CHECKING:
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.analysis.ranking import Rules
    from bdbench.matrix.storage import Place
    from bdbench.specs.records import Predictions, Record


def board_of(place: Place, records: Iterable[Record] | None = None, rules: Rules | None = None) -> Leaderboard:
    """The leaderboard of a folder; of its records, unless they are given.

    Predictions that cannot be read are named on standard error: the ranking then has no intervals. Raises UsageError if the
    folder or a record cannot be read.
    """
    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.matrix.results import read_predictions, read_records
    from bdbench.matrix.tuned_files import read_kept

    def predictions_of(record: Record) -> Predictions | None:
        try:
            return read_predictions(place, record)
        except UsageError as error:
            typer.echo(f"warning: {error}", err=True)
            return None

    return Leaderboard(read_records(place) if records is None else records, read_kept(place), predictions_of, rules)
