"""The records and predictions of a run.

    results/<run>/records/<key>.json       one finished cell
    results/<run>/predictions/<key>.npz    its predicted and gold classes

The folder may lie in an object store (see `storage`). Every file appears whole, so a reader never sees half of one. A killed
run loses only the cells that had not ended.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from bdbench.errors import StorageError, UsageError, in_one_line
from bdbench.matrix.storage import LocalPlace, Place, place_of
from bdbench.portable import encodable
from bdbench.specs.records import Predictions, Record

log = logging.getLogger(__name__)

WORTH = {"failed": 0, "skipped": 1, "ok": 2}  # a record is never replaced by one of less worth
T = TypeVar("T")
Known = dict[str, tuple[Hashable, Record]]  # records and the stamps of their files, by the file's name
CURE = "move it away and run the cell again, or use another --out"


class UnreadableFile(UsageError):
    """A file of a run that cannot be read. `reason` says why in one line, without the file's name."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Results:
    """One run's folder of records and predictions; whoever opens it holds its lock (see `lock`).

    Raises UsageError if it cannot be written to or holds a record that this version does not read.
    """

    def __init__(self, folder: str | Path | Place) -> None:
        self.place = place_of(folder)
        self._records, self._predictions = self.place.sub("records"), self.place.sub("predictions")
        for place in (self.place, self._records, self._predictions):
            place.prepare("--out")
        self._known: Known = {}
        self.records = {record.key: record for record in self.read()}

    def read(self) -> list[Record]:
        """As `read_records`: what is there now. A file that has not changed since it was read or written is not read again."""
        return read_records(self.place, self._known)

    def read_what_can_be(self) -> dict[str, Record | UnreadableFile]:
        """As `read`, but a file that cannot be read becomes the error that says why, by the file's name."""
        return records_or_reasons(self.place, self._known)

    def done(self, key: str) -> bool:
        """Whether this cell ended before, well or skipped; a failed one is tried again."""
        return key in self.records and self.records[key].status != "failed"

    def write(self, record: Record, predictions: Predictions | None = None) -> None:
        """Write a record, and first its predictions, in place of what an earlier try at the cell left.

        A record of a better end is not replaced: neither "ok" by "skipped" or "failed", nor "skipped" by "failed". A damaged
        one is moved aside. Raises StorageError if the files cannot be written.
        """
        name = f"{record.key}.json"
        earlier = self._earlier(name)  # read anew: another process may have finished the cell since this one began
        if earlier is not None and WORTH[earlier.status] > WORTH[record.status]:
            log.warning("cell %s: it %s this time; its earlier record is kept", record.key, record.status)
            self.records[record.key] = earlier
            return
        if record.status == "ok" and predictions is not None:
            record.predictions = f"predictions/{record.key}.npz"
        record, raw = _readable(record)
        if record.status == "ok" and predictions is not None:
            self._predictions.write(f"{record.key}.npz", _npz(predictions))
        text = json.dumps(raw, indent=1, sort_keys=True, allow_nan=False) + "\n"
        self._records.write(name, text.encode())
        self._known[name] = self._records.stamp(name), record
        self.records[record.key] = record

    def _earlier(self, name: str) -> Record | None:
        """The record that lies there now; None if there is none, or if it is damaged, after moving it aside."""
        if not self._records.exists(name):
            return None
        try:
            return read_record(self._records, name)
        except UnreadableFile as error:
            aside = self._unused_name(name)
            self._records.rename(name, aside)
            log.warning("%s; it is now %s", str(error).removesuffix(f"; {CURE}"), aside)
            return None

    def _unused_name(self, name: str) -> str:
        """`<name>.damaged`, or with a number where that is taken."""
        names = (f"{name}.damaged{number or ''}" for number in range(1000))
        return next(name for name in names if not self._records.exists(name))


def _npz(arrays: Predictions) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def _readable(record: Record) -> tuple[Record, dict[str, Any]]:
    """The record as a reader gets it, names in the same order, with its JSON.

    Or one of a failure that says why no reader could have read it.
    """
    try:
        raw = record.to_json()
        return Record.from_json(json.loads(json.dumps(raw, sort_keys=True, allow_nan=False))), raw
    except (ValueError, TypeError, RecursionError) as error:
        reason = encodable(f"what the cell left is no record that can be read: {error}")
        failure = Record(record.spec, "failed", reason, needs=record.needs, env=record.env)
        return failure, failure.to_json()


def read_records(folder: str | Path | Place, known: Known | None = None) -> list[Record]:
    """Every record of a run, sorted by key; `known` as of `records_or_reasons`.

    Raises UsageError if there is no such folder or a file is not a record that this version reads.
    """
    records = records_or_reasons(folder, known).values()
    for record in records:
        if isinstance(record, UnreadableFile):
            raise record
    return list(records)


def records_or_reasons(folder: str | Path | Place, known: Known | None = None) -> dict[str, Record | UnreadableFile]:
    """Every record of a run, or the error that says why it cannot be read, by the file's name, sorted by that.

    `known` has those read before, with their stamps, by the file's name, and learns those that are read now. Raises UsageError
    if there is no such folder.
    """
    place = place_of(folder).sub("records")
    names = record_names(folder)
    read = or_why_not(partial(_read_unless_known, place, {} if known is None else known))
    outcomes = dict(zip(names, place.map(read, names), strict=True))
    name_by_key: dict[str, str] = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, UnreadableFile):
            continue
        if other := name_by_key.get(outcome.key):
            reason = f"the same cell as {other}"
            outcomes[name] = UnreadableFile(f"{place.at(name)}: {reason}; move one of the two away", reason)
        else:
            name_by_key[outcome.key] = name
    return outcomes


def or_why_not(read: Callable[[str], T]) -> Callable[[str], T | UnreadableFile]:
    """The same, but what cannot be read becomes the error that says why."""

    def attempt(name: str) -> T | UnreadableFile:
        try:
            return read(name)
        except UnreadableFile as error:
            return error

    return attempt


def record_names(folder: str | Path | Place) -> list[str]:
    """The names of the files in a run's folder of records, sorted. Raises UsageError if there is no such folder."""
    try:
        return [name for name in place_of(folder).sub("records").names() if name.endswith(".json")]
    except OSError as error:
        raise UsageError(
            f"{folder}: no folder 'records' that can be read ({error.strerror}); "
            "give the folder of a run, such as results/quick"
        ) from error


def _read_unless_known(place: Place, known: Known, name: str) -> Record:
    stamp = place.stamp(name)
    if stamp is None or known.get(name, (None, None))[0] != stamp:
        known[name] = stamp, read_record(place, name)
    return known[name][1]


def read_record(place: Place, name: str) -> Record:
    """The record in a file of this place, a run's folder of records. Raises UnreadableFile if it is none of this version's."""
    try:
        text = place.read(name).decode("utf-8")
        raw = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
        record = Record.from_json(raw)
        if raw["key"] != name.removesuffix(".json"):
            raise ValueError(f"it is the record of the cell {raw['key']}, which is {raw['key']}.json")
    except (OSError, ValueError, RecursionError) as error:
        reason = in_one_line(error.strerror if isinstance(error, OSError) else str(error) or "nested too deeply")
        raise UnreadableFile(
            f"{place.at(name)}: not a record that this version of bdbench reads ({reason}); {CURE}", reason
        ) from error
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has two values of {next(name for name in names if names.count(name) > 1)!r}")
    return fields


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def read_predictions(folder: str | Path | Place, record: Record) -> Predictions:
    """The saved classes of an "ok" record: "clean", "clean_gold" and, with a trigger, "triggered", "triggered_gold".

    Raises UnreadableFile, naming the record, if they do not lie in the run's folder or are damaged.
    """
    place = place_of(folder)
    sub, _, name = str(record.predictions).rpartition("/")
    if sub != "predictions" or not _is_own(place, record.predictions):
        raise UnreadableFile(
            f"record {record.key} in {folder}: its predictions, {record.predictions}, are not in that folder's own",
            reason="not in the run's own folder of predictions",
        )
    home = place.sub(sub)
    try:
        return read_arrays(io.BytesIO(home.read(name)))
    except StorageError:
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds on a damaged file
        reason = in_one_line(str(getattr(error, "strerror", None) or error))
        raise UnreadableFile(
            f"{home.at(name)}: damaged predictions ({reason}); run the cell again with --force", reason
        ) from error


def _is_own(place: Place, predictions: str) -> bool:
    """Whether they lie in the run's own folder. On this machine a name may be a link to elsewhere."""
    if not isinstance(place, LocalPlace):
        return True
    return (place.folder / predictions).resolve().parent == place.folder.resolve() / "predictions"


def read_arrays(file: Path | IO[bytes]) -> Predictions:
    """The arrays of an .npz file by name. Raises whatever NumPy raises on a damaged one."""
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
