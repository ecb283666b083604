"""Files: the records and predictions of a run, and the content-addressed victims that runs share.

    results/<run>/records/<key>.json       one finished cell
    results/<run>/predictions/<key>.npz    its predicted and gold classes
    results/victims/<key>/                 model.safetensors, triggered.parquet, predictions.npz, meta.json (with SHA-256)

Everything is written to a temporary name and renamed, so a reader never sees half a file and a killed run loses only the
cells that had not ended.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.data import TextSet
from bdbench.errors import UsageError
from bdbench.files import sha256, write_whole
from bdbench.protocol.victims import Victim
from bdbench.specs.metrics import Metric
from bdbench.specs.records import Predictions, Record, VictimDigests
from bdbench.specs.work import VictimSpec

log = logging.getLogger(__name__)

WEIGHTS, PREDICTIONS, TRIGGERED = "model.safetensors", "predictions.npz", "triggered.parquet"  # the files of a victim


class Results:
    """One run's folder of records and predictions.

    Raises UsageError if it cannot be written to or holds a record that this version does not read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        for sub in (".", "records", "predictions"):
            _make_writable(self.folder / sub, "--out")
        self.records = {record.key: record for record in read_records(self.folder)}

    def done(self, key: str) -> bool:
        """Whether this cell ended before, well or skipped; a failed one is tried again."""
        return key in self.records and self.records[key].status != "failed"

    def write(self, record: Record, predictions: Predictions | None = None) -> None:
        """Write a record, and first its predictions, in place of what an earlier try at the cell left.

        An "ok" record is not replaced by one of a failure: what was computed stays.
        """
        file = self.folder / "records" / f"{record.key}.json"
        # read anew: another process may have finished the cell since this one began
        earlier = _read_record(file) if file.is_file() else None
        if earlier is not None and earlier.status == "ok" and record.status != "ok":
            log.warning("cell %s: it %s this time; its earlier record is kept", record.key, record.status)
            self.records[record.key] = earlier
            return
        if predictions is not None:
            record.predictions = f"predictions/{record.key}.npz"
            write_whole(self.folder / record.predictions, lambda stream: np.savez_compressed(stream, **predictions))
        text = json.dumps(record.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"
        write_whole(file, lambda stream: stream.write(text.encode()))
        self.records[record.key] = record


def read_records(folder: str | Path) -> list[Record]:
    """Every record of a run, sorted by key.

    Raises UsageError if there is no such folder or a file is not a record that this version reads.
    """
    files = sorted((Path(folder) / "records").glob("*.json"))
    if not (Path(folder) / "records").is_dir():
        raise UsageError(f"{folder}: no folder 'records'; give the folder of a run, such as results/quick")
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
        return Record.from_json(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file}: not a record that this version of bdbench reads ({error}); use another --out, or move it away"
        ) from error


def read_predictions(folder: str | Path, record: Record) -> Predictions:
    """The saved classes of an "ok" record: "clean", "clean_gold" and, with a trigger, "triggered", "triggered_gold"."""
    return _read_arrays(Path(folder) / str(record.predictions))


class VictimStore:
    """Victims by key, shared by every run whose folder lies beside this one."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        _make_writable(self.folder, "--victims")

    def load(self, spec: VictimSpec) -> Victim | None:
        """The victim of this spec, or None if it is not here or not whole (see `_meta`)."""
        from safetensors.torch import load_file

        home = self.folder / spec.key()
        meta = self._meta(spec.key())
        if meta is None:
            return None
        return Victim(
            spec=spec,
            weights={name: weight.clone() for name, weight in load_file(home / WEIGHTS).items()},  # load_file maps the file
            triggered=_read_texts(home / TRIGGERED) if TRIGGERED in meta["sha256"] else None,
            predictions=_read_arrays(home / PREDICTIONS),
            **{name: meta[name] for name in ("metrics", "digests", "seconds", "env")},
        )

    def _meta(self, key: str) -> dict[str, Any] | None:
        """What meta.json says of the victim, or None with a warning unless it is whole.

        It is whole if it is the victim of this key, and if every file is there and has its recorded SHA-256.
        """
        home = self.folder / key
        if not home.is_dir():
            return None
        try:
            meta = json.loads((home / "meta.json").read_text())
            problems = [f"no {name}" for name in sorted({WEIGHTS, PREDICTIONS} - meta["sha256"].keys())]
            problems += [name for name, digest in meta["sha256"].items() if sha256(home / name) != digest]
            if VictimSpec.from_json(meta["spec"]).key() != key:
                problems.append("meta.json is of another victim")
            meta["metrics"] = {name: Metric(**metric) for name, metric in meta["metrics"].items()}
            meta["digests"] = VictimDigests(**meta["digests"])
            meta["seconds"], meta["env"] = dict(meta["seconds"]), dict(meta["env"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems = [f"{type(error).__name__}: {error}"]
        if problems:
            log.warning("victim %s is damaged (%s) and is not used", key, ", ".join(problems))
            return None
        return meta

    def save(self, victim: Victim) -> None:
        """Write a victim. A whole copy that another process wrote meanwhile stays; a damaged one gives way."""
        from safetensors.torch import save_file

        work = Path(tempfile.mkdtemp(dir=self.folder, prefix=".writing-"))
        try:
            save_file(victim.weights, work / WEIGHTS)
            np.savez_compressed(work / PREDICTIONS, **victim.predictions)
            if victim.triggered is not None:
                _write_texts(work / TRIGGERED, victim.triggered)
            meta = {
                "spec": asdict(victim.spec),
                "metrics": {name: asdict(metric) for name, metric in victim.metrics.items()},
                "digests": asdict(victim.digests),
                "seconds": victim.seconds,
                "env": victim.env,
                "sha256": {file.name: sha256(file) for file in sorted(work.iterdir())},
            }
            (work / "meta.json").write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")
            home = self.folder / victim.spec.key()
            if home.exists() and self._meta(victim.spec.key()) is None:
                os.replace(home, work / "damaged")
                shutil.rmtree(work / "damaged")
            os.replace(work, home)
        except OSError:
            if self._meta(victim.spec.key()) is None:
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _read_arrays(file: Path) -> Predictions:
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _make_writable(folder: Path, flag: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{flag} {folder}: cannot be written to ({error.strerror}); give a folder you can write to") from error


def _write_texts(file: Path, rows: TextSet) -> None:
    import pandas as pd

    columns = {"first": rows.first, "second": rows.second, "label": rows.labels}
    pd.DataFrame({name: column for name, column in columns.items() if column is not None}).to_parquet(file, index=False)


def _read_texts(file: Path) -> TextSet:
    import pandas as pd

    frame = pd.read_parquet(file)
    second = tuple(frame["second"]) if "second" in frame else None
    return TextSet(tuple(frame["first"]), second, frame["label"].to_numpy())
