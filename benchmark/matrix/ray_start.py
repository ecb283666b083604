"""Ray started on this machine and stopped again, for the length of a `with` block."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from types import ModuleType

from bdbench.errors import UsageError, first_line

# What goes through Ray's shared memory is a few kilobytes a piece.
OBJECT_STORE_BYTES = 128 * 2**20
# Ray's sockets lie in its temporary folder, and the system allows their paths so many bytes (103 on a Mac).
SOCKET_PATH_BYTES = 103
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


@contextmanager
def ray_started(cpus: int, gpus: float | None = None) -> Iterator[ModuleType]:
    """Yields the module `ray`. `gpus` is how many there are; None leaves that to Ray.

    Raises UsageError if Ray does not start on this machine.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Without a token of ours Ray writes one into the home folder, which may be read-only.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    own_folder = short_folder()
    try:
        import ray

        try:
            # Ray puts the working directory before the libraries in its workers' import path. So it is an empty one.
            with chdir(own_folder):
                ray.init(
                    address="local",  # this machine, not a cluster that happens to run
                    num_cpus=cpus,
                    num_gpus=gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="ERROR",
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(socket_folder() or own_folder),
                )
        except Exception as error:  # Ray raises a dozen types for what can be amiss with a machine
            ray.shutdown()
            raise UsageError(f"Ray does not start here ({first_line(error)}); --inline runs without it") from error
        try:
            yield ray
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(own_folder, ignore_errors=True)


def socket_folder() -> Path | None:
    """The folder "ray" in the temporary folder, or None if Ray cannot make its sockets there: it may be somebody else's."""
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    folder = base / "ray"
    is_writable = os.access(folder if folder.exists() else base, os.W_OK | os.X_OK)
    return folder if is_writable and _fits(folder) else None


def short_folder() -> Path:
    """A new folder whose path is short enough for Ray's sockets. Raises UsageError if there is no place for one."""
    for base in ("/tmp", "/var/tmp", "/dev/shm"):
        try:
            folder = Path(tempfile.mkdtemp(prefix="bdbench-", dir=base))
        except OSError:
            continue
        if _fits(folder):
            return folder
        folder.rmdir()
    raise UsageError(
        f"the temporary folder {tempfile.gettempdir()} is too long for Ray (a socket may have {SOCKET_PATH_BYTES} bytes), and "
        "no shorter one can be written to; set TMPDIR to a short folder, or run with --inline"
    )


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / SOCKET)) <= SOCKET_PATH_BYTES
