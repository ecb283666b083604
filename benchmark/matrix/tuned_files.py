"""The files that `bdbench tune` writes: read, and kept beside the records of a run that uses them.

    results/<run>/tuned/<objective>-<digits of its digest>.json

Keys know nothing of a tuning. The copy tells tables which cells were tuned, so that they hang on the run's folder alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bdbench.errors import UsageError, in_one_line
from bdbench.files import make_writable, write_whole
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
    tuned = _read(file, "give one that bdbench tune wrote")
    if tuned.protocol != PROTOCOL:
        raise UsageError(f"{file}: it was tuned under protocol {tuned.protocol}, this is protocol {PROTOCOL}; {AGAIN}")
    return TunedFile(file, tuned)


def keep_tuned(folder: Path, tunings: Iterable[Tuned]) -> None:
    """Write tunings into the folder of a run; one that is there stays as it is.

    Raises StorageError if one cannot be written, and UsageError if one that is there cannot be read.
    """
    for tuned in tunings:
        file = folder / FOLDER / f"{tuned.objective}-{tuned.digest()[:DIGITS]}.json"
        if not os.path.lexists(file):
            make_writable(file.parent, "--out")
            text = json.dumps(tuned.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"
            write_whole(file, lambda stream, text=text: stream.write(text.encode()))
    read_kept(folder)


def read_kept(folder: Path) -> list[Tuned]:
    """The tunings in the folder of a run, by the names of their files; none if it has none.

    Raises UsageError if one cannot be read.
    """
    try:
        files = sorted(file for file in (folder / FOLDER).iterdir() if file.match("*.json"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{folder / FOLDER}: cannot be read ({error.strerror}); make it readable, or move it away") from error
    return [_read(file, "move it away") for file in files]


def _read(file: Path, cure: str) -> Tuned:
    try:
        return Tuned.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{file}: not a tuning that this version of bdbench reads ({in_one_line(reason)}); {cure}") from error
