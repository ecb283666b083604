"""One driver at a time in a folder of results.

The lock is a file that only one process can create, so it holds on network file systems, too. It says who holds it and shows
a sign of life every minute. A lock whose owner is gone is taken over: on the same machine its process is asked for, elsewhere
the last sign of life decides.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bdbench.errors import UsageError
from bdbench.files import make_writable, storage_error, unfinished
from bdbench.processes import place, start_of

log = logging.getLogger(__name__)

NAME = ".lock"
BEAT_SECONDS = 60
STALE_SECONDS = 5 * BEAT_SECONDS
TRIES, PAUSE_SECONDS = 20, 0.05  # others that take over the same lock need a moment


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock. `place` and `started` tell it from another with the same number (see `processes`)."""

    user: str
    host: str
    pid: int
    since: str
    place: str
    started: str
    token: str

    @classmethod
    def this_process(cls) -> Owner:
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a container's user may have no name
            user = f"user {os.getuid()}"
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        pid = os.getpid()
        return cls(user, socket.gethostname(), pid, since, place(), start_of(pid) or "", secrets.token_hex(8))

    def __str__(self) -> str:
        return f"{self.user} on {self.host}, process {self.pid}, since {self.since}"


@dataclass(frozen=True)
class Lock:
    """A lock as it was found.

    `owner` is None where it does not say, `age` the seconds since its last sign of life; `token` tells it from any other.
    """

    owner: Owner | None
    age: float
    token: str

    @property
    def is_stale(self) -> bool:
        if self.owner is not None and self.owner.place == place():
            return start_of(self.owner.pid) != self.owner.started
        return self.age > STALE_SECONDS

    def __str__(self) -> str:
        return str(self.owner or "another process")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if it is not there, while the block runs.

    Raises UsageError if another process holds it, or if the folder cannot be written to.
    """
    make_writable(folder, "--out")
    file, owner, ended = folder / NAME, Owner.this_process(), threading.Event()
    _take(file, owner)
    threading.Thread(target=_beat, args=(file, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        # A lock that stays is taken over once this process is gone. It must not hide what ended the block.
        with suppress(OSError, UsageError):
            lock = lock_of(folder)
            if lock is not None and lock.owner == owner:
                file.unlink()


def lock_of(folder: Path) -> Lock | None:
    """The lock of `folder`, or None if nobody holds it. Writes nothing: its age is by this machine's clock.

    Raises UsageError if it cannot be read.
    """
    return _read(folder / NAME, now=lambda _: time.time())


def refusal(out: str, lock: Lock) -> str:
    """What to say to who wants a lock that another holds."""
    silent = ""
    if lock.owner is None or lock.owner.place != place():
        silent = f" (last sign of life {lock.age:.0f} s ago; it is taken over after {STALE_SECONDS} s)"
    return f"--out {out}: another run works in this folder: {lock}{silent}; give another --out, or wait until it ends"


def _take(file: Path, owner: Owner) -> None:
    for _ in range(TRIES):
        if _create(file, owner):
            return
        lock = _read(file)
        if lock is None:  # released meanwhile
            continue
        if not lock.is_stale:
            raise UsageError(refusal(str(file.parent), lock))
        try:
            evicted = _evict(file, lock)
        except OSError as error:
            raise UsageError(
                f"{file}: left by a run that is gone ({lock}), but cannot be removed ({error.strerror}); remove it"
            ) from error
        if evicted:
            log.warning("%s: the lock of a run that is gone (%s) is taken over", file.parent, lock)
        else:
            time.sleep(PAUSE_SECONDS)
    raise UsageError(f"--out {file.parent}: other runs are starting in this folder; give another --out, or try again")


def _create(file: Path, owner: Owner) -> bool:
    """Create the lock, unless there is one: no two processes can."""
    try:
        with file.open("x") as stream:
            try:
                json.dump(asdict(owner), stream)
                stream.flush()
            except OSError:
                file.unlink()
                raise
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_error(file, error) from error
    return True


def _read(file: Path, now: Callable[[Path], float] | None = None) -> Lock | None:
    """The lock as it is now, or None if there is none. `now` tells the time for a folder, by default its own."""
    try:
        content, modified = file.read_bytes(), file.stat().st_mtime
        age = (now or _now)(file.parent) - modified
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); remove it if no run works in this folder") from error
    return Lock(owner_in(content), age, hashlib.sha256(content or str(modified).encode()).hexdigest()[:16])


def owner_in(content: bytes) -> Owner | None:
    """The owner that a lock's content names; None if it is not yet written, or damaged."""
    try:
        fields = json.loads(content)
        owner = Owner(**fields)
    except (ValueError, TypeError, RecursionError):
        return None
    is_sound = all(isinstance(value, int if name == "pid" else str) for name, value in fields.items())
    return owner if is_sound else None


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which may be another machine's."""
    probe = unfinished(folder)
    probe.touch(exist_ok=False)
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _evict(file: Path, stale: Lock) -> bool:
    """Remove a stale lock. Whoever creates the claim on it may, so a newer lock in its place is never removed."""
    claim = file.with_name(f"{NAME}-{stale.token}")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        with suppress(OSError):
            if _now(file.parent) - claim.stat().st_mtime > STALE_SECONDS:  # of a process that was killed just here
                claim.unlink()
        return False
    try:
        now = _read(file)
        if now is None or now.token != stale.token or not now.is_stale:
            return False
        file.unlink()
        return True
    finally:
        claim.unlink(missing_ok=True)


def _beat(file: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):  # what cannot be touched now may be a minute later
            os.utime(file)
