"""Reading and writing whole files, and what to say when they cannot be written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from bdbench.errors import StorageError, UsageError
from bdbench.processes import place, start_of

# A file or folder under this name is not whole yet. After it come the place and the number of the process that writes it.
UNFINISHED = ".writing-"
LEFTOVER_SECONDS = 3600  # of a process that cannot be asked for: a save takes seconds, on a slow disk minutes

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CURES = {
    **dict.fromkeys(_FULL, "free space"),
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EIO: "check the disk",
}


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> Path:
    """Let `fill` write the file under a temporary name, then rename it: a reader sees the old file or the new one, whole.

    Its mode is what the umask allows. Raises StorageError if it cannot be written; then nothing is left of it.
    """
    temporary = unfinished(path.parent)
    try:
        with temporary.open("xb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())  # a full network disk may say so only here
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def unfinished(folder: Path) -> Path:
    """A new name in `folder` for what this process writes until it is whole; `sweep` removes what a killed process left."""
    return folder / f"{UNFINISHED}{place()}-{os.getpid()}-{secrets.token_hex(4)}"


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished in `folder`.

    On this machine the process must be gone; what another machine writes must be an hour old.
    """
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):  # another process sweeps, too
            if _is_abandoned(path):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_abandoned(path: Path) -> bool:
    written_by = re.fullmatch(rf"{re.escape(UNFINISHED)}{place()}-(\d+)-\w+", path.name)
    if written_by:
        return start_of(int(written_by[1])) is None
    return time.time() - path.lstat().st_mtime > LEFTOVER_SECONDS


def make_writable(folder: Path, flag: str) -> None:
    """Make a folder, unless it is there. Raises UsageError, naming `flag`, if it cannot be listed or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.listdir(folder)
        probe = unfinished(folder)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        cure = "free space there" if error.errno in _FULL else "give a folder you can write to"
        raise UsageError(f"{flag} {folder}: cannot be written to ({error.strerror}); {cure}") from error


def check_room(folder: Path, needed: int) -> None:
    """Raises StorageError unless `needed` bytes are free in `folder`, which is made if it is not there (any more)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = _free_bytes(folder)
    except OSError as error:
        raise storage_error(folder, error) from error
    if free < needed:
        raise storage_error(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), needed)


def storage_error(path: Path, error: OSError, needed: int | None = None) -> StorageError:
    """What to raise when `path` could not be written: what happened, how many bytes are free and `needed`, what to do."""
    facts = error.strerror or str(error)
    with suppress(OSError):
        facts += f"; {_free_bytes(path if path.is_dir() else path.parent) / 1e6:,.1f} MB are free there"
    if needed:
        facts += f", {needed / 1e6:,.1f} MB are needed"
    cure = _CURES.get(error.errno, "make sure that the folder can be written to")
    return StorageError(
        f"{path}: cannot be written ({facts}); what ended before is kept: {cure} and run the same command again"
    )


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
