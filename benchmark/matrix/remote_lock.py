"""One driver at a time in a place without exclusive creation, such as an object store; in a folder the lock of `lock`.

Every driver writes a claim of its own, `.lock-<token>`, and then looks for others'. Of two that come at the same moment at
least one sees the other, so both may be refused, but never do both work. A claim is written again every minute. Its age is by
the clock of the store, which a probe asks for.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bdbench.errors import StorageError, UsageError
from bdbench.files import unfinished
from bdbench.matrix.lock import BEAT_SECONDS, NAME, Lock, Owner, lock_of, locked, owner_in, refusal
from bdbench.matrix.storage import LocalPlace, Place

if TYPE_CHECKING:
    from bdbench.matrix.remote_place import RemotePlace

log = logging.getLogger(__name__)


@contextmanager
def locked_place(place: Place) -> Iterator[None]:
    """Hold the lock of a place while the block runs.

    Raises UsageError if another driver holds it, or if the place cannot be written to.
    """
    if isinstance(place, LocalPlace):
        with locked(place.folder):
            yield
        return
    place.prepare("--out")
    owner, ended = Owner.this_process(), threading.Event()
    claim, content = f"{NAME}-{owner.token}", json.dumps(asdict(owner)).encode()
    place.write(claim, content)
    try:
        _refuse_or_clear(place, claim)
        threading.Thread(target=_beat, args=(place, claim, content, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        with suppress(OSError):
            place.remove(claim)


def lock_of_place(place: Place) -> Lock | None:
    """The lock of a place, or None if nobody holds it. Raises UsageError if a folder's cannot be read."""
    if isinstance(place, LocalPlace):
        return lock_of(place.folder)
    try:
        claims = _claims(place)
    except (OSError, StorageError):
        return None
    return min(claims.values(), key=lambda lock: (lock.is_stale, lock.age), default=None)


def _refuse_or_clear(place: RemotePlace, own: str) -> None:
    """Raises UsageError if another live claim is there; those of drivers that are gone are removed."""
    for name, lock in _claims(place).items():
        if name == own:
            continue
        if not lock.is_stale:
            raise UsageError(refusal(str(place), lock))
        log.warning("the lock of %s in %s is taken over: it is gone", lock, place)
        with suppress(OSError):
            place.remove(name)


def _claims(place: RemotePlace) -> dict[str, Lock]:
    """The claims in a place by name. Raises OSError and StorageError."""
    names = [name for name in place.names() if name.startswith(f"{NAME}-")]
    now = _now(place) if names else None
    claims = {}
    for name in names:
        with suppress(FileNotFoundError):  # released meanwhile
            owner, written = owner_in(place.read(name)), place.modified(name)
            age = 0.0 if now is None or written is None else now - written
            claims[name] = Lock(owner, age, name.removeprefix(f"{NAME}-"))
    return claims


def _now(place: RemotePlace) -> float | None:
    """The time by the store's clock."""
    probe = unfinished(Path()).name
    place.write(probe, b"")
    try:
        return place.modified(probe)
    finally:
        place.remove(probe)


def _beat(place: RemotePlace, claim: str, content: bytes, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(StorageError):  # what cannot be written now may be a minute later
            place.write(claim, content)
