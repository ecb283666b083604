"""The records and predictions of a run.

    results/<run>/records/<key>.json       one finished cell
    results/<run>/predictions/<key>.npz    its predicted and gold classes

Everything is written to a temporary name and renamed, so a reader never sees half a file and a killed run loses only the
cells that had not ended.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.errors import UsageError, in_one_line
from bdbench.files import make_writable, storage_error, sweep, write_whole
from bdbench.portable import encodable
from bdbench.specs.records import Predictions, Record

log = logging.getLogger(__name__)

WORTH = {"failed": 0, "skipped": 1, "ok": 2}  # a record is never replaced by one of less worth
CURE = "move it away and run the cell again, or use another --out"


class Results:
    """One run's folder of records and predictions; whoever opens it holds its lock (see `lock`).

    Raises UsageError if it cannot be written to or holds a record that this version does not read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        for sub in (".", "records", "predictions"):
            make_writable(self.folder / sub, "--out")
            sweep(self.folder / sub)
        self.records = {record.key: record for record in read_records(self.folder)}

    def done(self, key: str) -> bool:
        """Whether this cell ended before, well or skipped; a failed one is tried again."""
        return key in self.records and self.records[key].status != "failed"

    def write(self, record: Record, predictions: Predictions | None = None) -> None:
        """Write a record, and first its predictions, in place of what an earlier try at the cell left.

        A record of a better end is not replaced: neither "ok" by "skipped" or "failed", nor "skipped" by "failed". A damaged
        one is moved aside. Raises StorageError if the files cannot be written.
        """
        file = self.folder / "records" / f"{record.key}.json"
        earlier = self._earlier(file)  # read anew: another process may have finished the cell since this one began
        if earlier is not None and WORTH[earlier.status] > WORTH[record.status]:
            log.warning("cell %s: it %s this time; its earlier record is kept", record.key, record.status)
            self.records[record.key] = earlier
            return
        record = _readable(record)
        if record.status == "ok" and predictions is not None:
            record.predictions = f"predictions/{record.key}.npz"
            write_whole(self.folder / record.predictions, lambda stream: np.savez_compressed(stream, **predictions))
        text = json.dumps(record.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"
        write_whole(file, lambda stream: stream.write(text.encode()))
        self.records[record.key] = record

    def _earlier(self, file: Path) -> Record | None:
        """The record that lies there now; None if there is none, or if it is damaged, after moving it aside."""
        if not os.path.lexists(file):
            return None
        try:
            return _read_record(file)
        except UsageError as error:
            aside = _unused_name(file)
            try:
                file.rename(aside)
            except OSError as why:
                raise storage_error(file, why) from why
            log.warning("%s; it is now %s", str(error).removesuffix(f"; {CURE}"), aside.name)
            return None


def _readable(record: Record) -> Record:
    """The record, or one of a failure that says why no reader could have read it."""
    try:
        Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    except (ValueError, TypeError, RecursionError) as error:
        reason = encodable(f"what the cell left is no record that can be read: {error}")
        return Record(record.spec, "failed", reason, needs=record.needs, env=record.env)
    return record


def _unused_name(file: Path) -> Path:
    """`<name>.damaged`, or with a number where that is taken."""
    names = (file.with_name(f"{file.name}.damaged{number or ''}") for number in range(1000))
    return next(name for name in names if not os.path.lexists(name))


def read_records(folder: str | Path) -> list[Record]:
    """Every record of a run, sorted by key.

    Raises UsageError if there is no such folder or a file is not a record that this version reads.
    """
    try:
        files = sorted(file for file in (Path(folder) / "records").iterdir() if file.match("*.json"))
    except OSError as error:
        raise UsageError(
            f"{folder}: no folder 'records' that can be read ({error.strerror}); "
            "give the folder of a run, such as results/quick"
        ) from error
    file_by_key: dict[str, Path] = {}
    records = []
    for file in files:
        record = _read_record(file)
        if other := file_by_key.get(record.key):
            raise UsageError(f"{file}: the same cell as {other.name}; move one of the two away")
        file_by_key[record.key] = file
        records.append(record)
    return records


def _read_record(file: Path) -> Record:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_refuse_constant)
        record = Record.from_json(raw)
        if raw["key"] != file.stem:
            raise ValueError(f"it is the record of the cell {raw['key']}, which is {raw['key']}.json")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error) or "nested too deeply"
        raise UsageError(f"{file}: not a record that this version of bdbench reads ({in_one_line(reason)}); {CURE}") from error
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has two values of {next(name for name in names if names.count(name) > 1)!r}")
    return fields


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def read_predictions(folder: str | Path, record: Record) -> Predictions:
    """The saved classes of an "ok" record: "clean", "clean_gold" and, with a trigger, "triggered", "triggered_gold".

    Raises UsageError, naming the record, if they do not lie in the run's folder or are damaged.
    """
    home = Path(folder).resolve() / "predictions"
    file = Path(folder) / str(record.predictions)
    if record.predictions is None or file.resolve().parent != home:
        raise UsageError(
            f"record {record.key} in {folder}: its predictions, {record.predictions}, are not in that folder's own"
        )
    try:
        return read_arrays(file)
    except Exception as error:  # NumPy and zipfile raise many kinds on a damaged file
        raise UsageError(f"{file}: damaged predictions ({in_one_line(str(error))}); run the cell again with --force") from error


def read_arrays(file: Path) -> Predictions:
    """The arrays of an .npz file by name. Raises whatever NumPy raises on a damaged one."""
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
