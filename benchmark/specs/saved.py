"""What a run left in its folder, as far as it can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bdbench.specs.records import Predictions, Record


@dataclass(frozen=True, eq=False)
class SavedRun:
    """The records of a run and their predictions, by the file of the record: "records/004e633768457753.json".

    - `records` are those that can be read, sorted by file; no cell is there twice.
    - `predictions` are those that can be read, of the records that name some.
    - `damaged_records` and `damaged_predictions` say, in one line, why the others cannot be read.
    """

    records: Mapping[str, Record]
    predictions: Mapping[str, Predictions]
    damaged_records: Mapping[str, str]
    damaged_predictions: Mapping[str, str]


@dataclass(frozen=True)
class LeftOut:
    """A file that reports go on without, and in one line why: a record, or else the predictions of one."""

    file: str
    reason: str
    is_record: bool
