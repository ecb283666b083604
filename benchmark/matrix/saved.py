"""Reading a whole run, damaged files included: who checks a run wants to know of all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bdbench.errors import UsageError
from bdbench.matrix.results import UnreadableFile, read_predictions, read_record, record_names
from bdbench.matrix.storage import Place, place_of
from bdbench.specs.records import Predictions, Record
from bdbench.specs.saved import SavedRun

T = TypeVar("T")


def read_run(folder: str | Path | Place, with_predictions: bool = True) -> SavedRun:
    """All that a run's folder holds, or the records alone; nothing is written.

    Raises UsageError if there is no such folder or no record in it, and StorageError if an object store does not answer.
    """
    place = place_of(folder)
    names = record_names(place)
    if not names:
        raise UsageError(f"{place}: no records in it; give the folder of a run, such as results/quick")
    home = place.sub("records")
    outcomes = home.map(_or_why_not(lambda name: read_record(home, name)), names)
    records: dict[str, Record] = {}
    damaged_records: dict[str, str] = {}
    file_by_key: dict[str, str] = {}
    for name, outcome in zip(names, outcomes, strict=True):
        file = f"records/{name}"
        if isinstance(outcome, UnreadableFile):
            damaged_records[file] = outcome.reason
        elif other := file_by_key.get(outcome.key):
            damaged_records[file] = f"the same cell as {other}"
        else:
            records[file] = outcome
            file_by_key[outcome.key] = file
    predictions: dict[str, Predictions] = {}
    damaged_predictions: dict[str, str] = {}
    files = [file for file, record in records.items() if record.predictions is not None and with_predictions]
    saved = place.map(_or_why_not(lambda file: read_predictions(place, records[file])), files)
    for file, arrays in zip(files, saved, strict=True):
        if isinstance(arrays, UnreadableFile):
            damaged_predictions[file] = arrays.reason
        else:
            predictions[file] = arrays
    return SavedRun(records, predictions, damaged_records, damaged_predictions)


def _or_why_not(read: Callable[[str], T]) -> Callable[[str], T | UnreadableFile]:
    """The same, but what cannot be read becomes the error that says why."""

    def attempt(name: str) -> T | UnreadableFile:
        try:
            return read(name)
        except UnreadableFile as error:
            return error

    return attempt
