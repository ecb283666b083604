"""The state of a run: what it says of itself while it goes, in words and in a file, and who reads that from another shell.

    results/<run>/.status.json    the last state; rewritten every two seconds, and once more at the end

The file is for people who ask how far a run is. No result hangs on it, and it names no machine and no path.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from bdbench.engine.meter import Progress
from bdbench.errors import UsageError
from bdbench.matrix.lock import Lock
from bdbench.matrix.remote_lock import lock_of_place
from bdbench.matrix.storage import Place, place_of
from bdbench.specs.checked import checked

NAME = ".status.json"
WRITE_SECONDS = 2.0
SILENT_SECONDS = 60.0  # after which a state is said to be old
LEAST_LOOP_SECONDS = 5.0  # of a loop, before its pace says how long it takes


@dataclass(frozen=True)
class SlotState:
    """What one slot works on, for how long it has, and how far the loop is that runs there, if that is known."""

    slot: str
    step: str
    seconds: float
    progress: Progress | None

    def __str__(self) -> str:
        words = [str(self.progress)] if self.progress else []
        words.append(f"{clock(self.seconds)} so far")
        if self.progress and self.progress.seconds_left is not None and self.progress.seconds > LEAST_LOOP_SECONDS:
            words.append(f"about {clock(self.progress.seconds_left)} of this {self.progress.what} left")
        return f"{self.slot}: {self.step}: {', '.join(words)}"


@dataclass(frozen=True)
class RunState:
    """What one command has done of its cells and victims, those before it not counted.

    `done` and `victims_done` have ended well, `failed` and `victims_failed` have not. `retried` counts further tries.
    `started` and `updated` are UTC. `process` is the number of the process, which is in the folder's lock, too. `end` is None
    while the run goes on.
    """

    process: int
    started: str
    updated: str
    cells: int
    done: int
    failed: int
    victims: int
    victims_done: int
    victims_failed: int
    retried: int
    cells_per_minute: float | None
    seconds_left: float | None
    slots: tuple[SlotState, ...] = ()
    end: Literal["finished", "interrupted", "broken off"] | None = None

    @property
    def remaining(self) -> int:
        """The cells that have not ended, with those that run."""
        return self.cells - self.done - self.failed

    def __str__(self) -> str:
        """The counts in one line."""
        words = [f"{self.done:,} of {self.cells:,} cells done", f"{self.failed:,} failed", f"{self.remaining:,} remaining"]
        if self.slots:
            words.insert(1, f"{len(self.slots):,} running")
        if self.victims_done + self.victims_failed < self.victims:
            words.append(f"{self.victims_done:,} of {self.victims:,} victims ready")
        if self.victims_failed:
            words.append(f"{self.victims_failed:,} victims failed")
        if self.retried:
            words.append(f"{self.retried:,} tried again")
        if self.cells_per_minute is not None:
            words.append(f"{self.cells_per_minute:,.{0 if self.cells_per_minute >= 10 else 1}f} cells/min")
        if self.seconds_left is not None and self.remaining:
            words.append(f"about {clock(self.seconds_left)} left")
        return ", ".join(words)


def clock(seconds: float) -> str:
    """3661 -> "1:01:01"."""
    return f"{int(seconds // 3600)}:{int(seconds // 60) % 60:02d}:{int(seconds % 60):02d}"


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class StatusFile:
    """Keeps the last state of a run in its folder.

    `write` takes a name and what the file shall hold. When it raises, the file stays as it was, and the run goes on.
    """

    def __init__(self, write: Callable[[str, bytes], object]) -> None:
        self._write = write
        self._written = -WRITE_SECONDS

    @classmethod
    def in_folder(cls, folder: Path | Place) -> StatusFile:
        return cls(place_of(folder).write)

    def put_if_due(self, state: RunState) -> None:
        """Write the state, unless one was written in the last WRITE_SECONDS."""
        if time.monotonic() >= self._written + WRITE_SECONDS:
            self.put(state)

    def put(self, state: RunState) -> None:
        self._written = time.monotonic()
        with suppress(Exception):  # a full disk, a folder that is gone: records say so where it matters
            self._write(NAME, json.dumps(asdict(state), indent=1).encode())


def describe(folder: Path | Place) -> list[str]:
    """The state of the run in `folder`, in lines: of the run that goes on, else of what is there.

    Raises UsageError if the folder is that of no run.
    """
    place = place_of(folder)
    lock, state, names = lock_of_place(place), _read(place), _names_of_records(place)
    is_running = lock is not None and not lock.is_stale
    if not is_running and state is None and names is None:
        raise UsageError(f"{folder}: not the folder of a run; give one that bdbench run wrote, such as results/quick")
    if is_running:
        return _of_running(lock, state)
    return [f"not running; {_last_end(lock, state)}{_counts_of_records(place, names or [])}"]


def _of_running(lock: Lock, state: RunState | None) -> list[str]:
    if state is None or (lock.owner is not None and state.process != lock.owner.pid):  # of an earlier run
        return [f"running ({lock}): it is starting"]
    if state.end is not None:
        return [f"running ({lock}): it is writing its tables"]
    age = (datetime.now(UTC) - datetime.fromisoformat(state.updated)).total_seconds()
    old = f" (as of {_when(state.updated)})" if age > SILENT_SECONDS else ""
    return [f"running ({lock}): {state}{old}", *(f"  {slot}" for slot in state.slots)]


def _last_end(lock: Lock | None, state: RunState | None) -> str:
    if state is None:
        return "a run was killed before its first cell: " if lock is not None else ""
    if state.end is not None:
        return f"the last run {'was ' * (state.end != 'finished')}{state.end} at {_when(state.updated)}: "
    return f"the last run was killed at about {_when(state.updated)}: "


def _when(utc: str) -> str:
    """ "2026-11-26T10:00:09Z" -> "2026-11-26 10:00 UTC"."""
    return f"{utc[:10]} {utc[11:16]} UTC"


def _names_of_records(place: Place) -> list[str] | None:
    """The names of the run's records; None without a folder of them."""
    try:
        return [name for name in place.sub("records").names() if name.endswith(".json")]
    except OSError:
        return None


def _counts_of_records(place: Place, names: list[str]) -> str:
    """ "12 records: 10 ok, 1 failed, 1 skipped". Reads the status alone: `bdbench report` is the one that checks records."""
    statuses = Counter(place.map(partial(_status_of, place.sub("records")), names))
    words = [f"{statuses[name]:,} {name}" for name in ("ok", "failed", "skipped")]
    if others := statuses.total() - sum(statuses[name] for name in ("ok", "failed", "skipped")):
        words.append(f"{others:,} unreadable")
    return f"{statuses.total():,} records: {', '.join(words)}"


def _status_of(records: Place, name: str) -> str | None:
    try:
        return str(json.loads(records.read(name))["status"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _read(place: Place) -> RunState | None:
    """The last state, or None if there is none that can be read."""
    try:
        state = checked(RunState, json.loads(place.read(NAME)))
        datetime.fromisoformat(state.updated)
    except (OSError, ValueError, RecursionError):
        return None
    return state
