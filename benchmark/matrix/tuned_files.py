"""The files that `bdbench tune` writes: read, and kept beside the records of a run that uses them.

    results/<run>/tuned/<objective>-<digits of its digest>.json

Keys know nothing of a tuning. The copy tells tables which cells were tuned, so that they hang on the run's folder alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bdbench.errors import UsageError, in_one_line
from bdbench.matrix.storage import Place, place_of
from bdbench.specs.keys import PROTOCOL
from bdbench.specs.tuned import Tuned

FOLDER = "tuned"  # in that of the run
DIGITS = 8  # of 64, of a file's digest
AGAIN = "tune again with this version (bdbench tune), or leave it out"


@dataclass(frozen=True)
class TunedFile:
    """A tuning, and the file that the user named."""

    file: Path
    tuned: Tuned


def read_tuned(file: Path) -> TunedFile:
    """A file that `bdbench tune` wrote. Raises UsageError if it is none, or of another protocol than the one here."""
    tuned = _read(place_of(file.parent), file.name, "give one that bdbench tune wrote")
    if tuned.protocol != PROTOCOL:
        raise UsageError(f"{file}: it was tuned under protocol {tuned.protocol}, this is protocol {PROTOCOL}; {AGAIN}")
    return TunedFile(file, tuned)


def write_tuned(place: Place, name: str, tuned: Tuned) -> None:
    """Write a tuning into a file, whole. Raises StorageError if that is not possible."""
    text = json.dumps(tuned.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"
    place.write(name, text.encode())


def keep_tuned(folder: Path | Place, tunings: Iterable[Tuned]) -> None:
    """Write tunings into the folder of a run; one that is there stays as it is.

    Raises StorageError if one cannot be written, and UsageError if one that is there cannot be read.
    """
    place = place_of(folder).sub(FOLDER)
    for tuned in tunings:
        name = f"{tuned.objective}-{tuned.digest()[:DIGITS]}.json"
        if not place.exists(name):
            place.prepare("--out")
            write_tuned(place, name, tuned)
    read_kept(folder)


def read_kept(folder: Path | Place) -> list[Tuned]:
    """The tunings in the folder of a run, by the names of their files; none if it has none.

    Raises UsageError if one cannot be read.
    """
    place = place_of(folder).sub(FOLDER)
    try:
        names = [name for name in place.names() if name.endswith(".json")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{place}: cannot be read ({error.strerror}); make it readable, or move it away") from error
    return [_read(place, name, "move it away") for name in names]


def _read(place: Place, name: str, cure: str) -> Tuned:
    try:
        return Tuned.from_json(json.loads(place.read(name).decode("utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"{place.at(name)}: not a tuning that this version of bdbench reads ({in_one_line(reason)}); {cure}"
        ) from error
