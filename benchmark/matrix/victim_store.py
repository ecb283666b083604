"""The content-addressed victims that runs share, each written to a temporary name and renamed: whole or not there at all.

results/victims/<key>/    model.safetensors, triggered.parquet, predictions.npz, meta.json (with their SHA-256)
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from bdbench.data import TextSet
from bdbench.engine.folders import FileStamp, count_weights, stamps
from bdbench.files import check_room, make_writable, sha256, storage_error, sweep, unfinished
from bdbench.matrix.results import read_arrays
from bdbench.protocol.victims import Victim
from bdbench.specs.checked import checked
from bdbench.specs.metrics import Metric
from bdbench.specs.records import AttackFacts, Predictions, VictimDigests
from bdbench.specs.work import VictimSpec

log = logging.getLogger(__name__)

# the files of a victim; the last, written last, says that it is whole
WEIGHTS, PREDICTIONS, TRIGGERED, META = "model.safetensors", "predictions.npz", "triggered.parquet", "meta.json"
BYTES_PER_WEIGHT = 4  # float32


class VictimStore:
    """Victims by key, shared by every run whose folder lies beside this one. It needs no lock: see `save`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def prepare(self) -> Self:
        """Make the folder and remove what killed processes left. Raises UsageError if it cannot be listed or written to."""
        make_writable(self.folder, "--victims")
        self.sweep()
        return self

    def sweep(self) -> None:
        """Remove what killed processes left unfinished."""
        sweep(self.folder)

    def check_room(self, model: Path) -> None:
        """Raises StorageError unless there is room for a victim of the pre-trained model in this folder."""
        check_room(self.folder, BYTES_PER_WEIGHT * count_weights(model))

    def load(self, spec: VictimSpec, without_weights: bool = False) -> Victim | None:
        """The victim of this spec, or None, with a warning, if it is not whole: see `_meta`.

        With `without_weights` it comes without them: they take the time, and a cell that changes nothing does not need them.
        """
        home = self.folder / spec.key()
        meta = self._meta(spec.key())
        if meta is None:
            return None
        try:
            return Victim(
                spec=spec,
                weights={} if without_weights else _read_weights(home / WEIGHTS),
                triggered=None if TRIGGERED not in meta["sha256"] else _read_texts(home / TRIGGERED),
                predictions=_read_classes(home / PREDICTIONS, meta["sha256"][PREDICTIONS]),
                **{name: meta[name] for name in ("metrics", "digests", "seconds", "env", "facts")},
            )
        except MemoryError:
            raise
        except Exception as error:  # each of the three readers raises kinds of its own on a damaged file
            warn_of_damage(spec.key(), [f"{type(error).__name__}: {error}"])
            return None

    def _meta(self, key: str) -> dict[str, Any] | None:
        """What meta.json says of the victim, or None with a warning unless it is whole.

        It is whole if it is the victim of this key, and if every file is there and has its recorded SHA-256.
        """
        home = self.folder / key
        if not home.is_dir():
            return None
        try:
            meta, problems = _read_meta(key, stamps(home.iterdir()))
        except OSError as error:
            problems = [f"{type(error).__name__}: {error}"]
        if problems:
            warn_of_damage(key, problems)
            return None
        return dict(meta)

    def is_whole(self, key: str) -> bool:
        """Whether the victim of this key is there and whole; if it is damaged, there is a warning."""
        return self._meta(key) is not None

    def _can_be_loaded(self, key: str) -> bool:
        """Whether the victim is whole and its files can be read, too: digests may be those of damaged files."""
        meta = self._meta(key)
        return meta is not None and self.load(checked(VictimSpec, meta["spec"])) is not None

    def pack(self, key: str) -> dict[str, bytes] | None:
        """The files of a victim by name, as they travel to another machine; None, as for `load`, if it is not whole."""
        meta, home = self._meta(key), self.folder / key
        return None if meta is None else {name: (home / name).read_bytes() for name in (*meta["sha256"], META)}

    def unpack(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write a victim that was packed; see `save`, also for what is raised."""
        work = unfinished(self.folder)
        try:
            work.mkdir(parents=True)
            for name, content in files.items():
                (work / name).write_bytes(content)
                _flush(work / name)
            self._put(work, key)
        except OSError as error:
            if not self.is_whole(key):
                raise storage_error(self.folder / key, error, sum(map(len, files.values()))) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def save(self, victim: Victim) -> None:
        """Write a victim. A whole copy that another process wrote meanwhile stays; a damaged one gives way.

        Files and folders get the modes that the umask allows. Raises StorageError if it cannot be written; then nothing is
        left of it.
        """
        work, home = unfinished(self.folder), self.folder / victim.spec.key()
        try:
            work.mkdir(parents=True)  # somebody may have removed the store
            with (work / PREDICTIONS).open("xb") as stream:
                np.savez_compressed(stream, **victim.predictions)
            if victim.triggered is not None:
                _write_texts(work / TRIGGERED, victim.triggered)
            _write_weights(work / WEIGHTS, victim.weights)
            shutil.copymode(work / PREDICTIONS, work / WEIGHTS)  # safetensors makes its file the owner's alone
            meta = {
                "spec": asdict(victim.spec),
                "metrics": {name: asdict(metric) for name, metric in victim.metrics.items()},
                "digests": asdict(victim.digests),
                "seconds": victim.seconds,
                "env": victim.env,
                "facts": asdict(victim.facts),
                "sha256": {file.name: sha256(file) for file in sorted(work.iterdir())},
            }
            (work / META).write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            for file in work.iterdir():
                _flush(file)
            self._put(work, victim.spec.key())
        except OSError as error:
            if not self._can_be_loaded(victim.spec.key()):
                raise storage_error(home, error, BYTES_PER_WEIGHT * sum(map(Tensor.numel, victim.weights.values()))) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _put(self, work: Path, key: str) -> None:
        """Put the folder of a whole victim in its place, unless one is there; a damaged one gives way. Raises OSError."""
        home = self.folder / key
        if home.exists() and not self._can_be_loaded(key):
            os.replace(home, work / "damaged")
            shutil.rmtree(work / "damaged")
        os.replace(work, home)


@lru_cache(maxsize=64)
def _read_meta(key: str, files: tuple[FileStamp, ...]) -> tuple[dict[str, Any], list[str]]:
    """What meta.json among a victim's files says, and what is wrong with them. They are read anew when one of them changes."""
    file_by_name = {file.path.name: file.path for file in files}
    try:
        meta, problems = checked_meta(key, file_by_name[META].read_bytes(), file_by_name)
        problems = problems or [name for name, digest in meta["sha256"].items() if sha256(file_by_name[name]) != digest]
    except (OSError, KeyError) as error:
        return {}, [f"{type(error).__name__}: {error}"]
    return meta, problems


def checked_meta(key: str, content: bytes, names: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """What the content of a meta.json says, and what is wrong with it for a victim of this key.

    `names` are those of the victim's files. What they hold is not looked at.
    """
    meta: dict[str, Any] = {}
    try:
        meta = json.loads(content.decode("utf-8"))
        digests = checked(dict[str, str], meta["sha256"])
        problems = [f"no {name}" for name in sorted({WEIGHTS, PREDICTIONS, *digests} - set(names))]
        problems += [f"no digest of {name}" for name in sorted({WEIGHTS, PREDICTIONS} - digests.keys())]
        problems += [f"{name!r} is none of its files" for name in sorted(digests.keys() - {WEIGHTS, PREDICTIONS, TRIGGERED})]
        if checked(VictimSpec, meta["spec"]).key() != key:
            problems.append("meta.json is of another victim")
        meta["metrics"] = checked(dict[str, Metric], meta["metrics"])
        meta["digests"] = checked(VictimDigests, meta["digests"])
        meta["seconds"] = checked(dict[str, float], meta["seconds"])
        meta["env"] = checked(dict[str, Any], meta["env"])
        meta["facts"] = checked(AttackFacts, meta.get("facts", {}))  # older victims have none
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problems = [f"{type(error).__name__}: {error}"]
    return meta, problems


def _read_weights(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: weight.clone() for name, weight in load_file(file).items()}  # load_file maps the file


def warn_of_damage(key: str, problems: Iterable[str]) -> None:
    log.warning("victim %s is damaged (%s) and is not used", key, " ".join(", ".join(problems).split()))


def _write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Raises OSError, as any other writer does."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(weights), file)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _flush(file: Path) -> None:
    """Wait until the file is on the disk: a full network disk may say so only then. Raises OSError."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


@lru_cache(maxsize=8)  # every cell of a victim reads them
def _read_classes(file: Path, digest: str) -> Predictions:
    """The predictions in a file that has this digest; nobody may change them.

    Raises ValueError unless they are whole numbers, (n,), with those of the clean rows, and what NumPy raises of a damaged file
    otherwise.
    """
    predictions = read_arrays(file)
    if "clean" not in predictions or any(
        classes.ndim != 1 or classes.dtype.kind not in "iu" for classes in predictions.values()
    ):
        raise ValueError(f"{PREDICTIONS} does not hold classes")
    for classes in predictions.values():
        classes.setflags(write=False)
    return predictions


def _write_texts(file: Path, rows: TextSet) -> None:
    import pandas as pd

    columns = {"first": rows.first, "second": rows.second, "label": rows.labels}
    frame = pd.DataFrame({name: column for name, column in columns.items() if column is not None})
    with file.open("xb") as stream:
        frame.to_parquet(stream, index=False)


def _read_texts(file: Path) -> TextSet:
    import pandas as pd

    frame = pd.read_parquet(file)
    second = tuple(frame["second"]) if "second" in frame else None
    return TextSet(tuple(frame["first"]), second, frame["label"].to_numpy())
