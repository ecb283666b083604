"""Reading a whole run, damaged files included: who checks or reports a run wants to know of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bdbench.errors import UsageError
from bdbench.matrix.results import UnreadableFile, or_why_not, read_predictions, records_or_reasons
from bdbench.matrix.storage import Place, place_of
from bdbench.specs.records import Predictions, Record
from bdbench.specs.saved import SavedRun


def read_run(folder: str | Path | Place, with_predictions: bool = True) -> SavedRun:
    """All that a run's folder holds, or the records alone; nothing is written.

    Raises UsageError if there is no such folder or no record in it, and StorageError if an object store does not answer.
    """
    place = place_of(folder)
    outcomes = records_or_reasons(place)
    if not outcomes:
        raise UsageError(f"{place}: no records in it; give the folder of a run, such as results/quick")
    return run_of(place, outcomes, with_predictions)


def run_of(place: Place, outcomes: Mapping[str, Record | UnreadableFile], with_predictions: bool = True) -> SavedRun:
    """The run of which these records, or why they cannot be read, were read from `place`, by the file's name."""
    records: dict[str, Record] = {}
    damaged_records: dict[str, str] = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, UnreadableFile):
            damaged_records[f"records/{name}"] = outcome.reason
        else:
            records[f"records/{name}"] = outcome
    predictions: dict[str, Predictions] = {}
    damaged_predictions: dict[str, str] = {}
    files = [file for file, record in records.items() if record.predictions is not None and with_predictions]
    saved = place.map(or_why_not(lambda file: read_predictions(place, records[file])), files)
    for file, arrays in zip(files, saved, strict=True):
        if isinstance(arrays, UnreadableFile):
            damaged_predictions[file] = arrays.reason
        else:
            predictions[file] = arrays
    return SavedRun(records, predictions, damaged_records, damaged_predictions)
