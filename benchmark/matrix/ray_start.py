"""Ray, started on this machine for one run, or an existing cluster, joined."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from types import ModuleType

from bdbench.errors import UsageError, first_line
from bdbench.processes import place, start_of

# What travels through Ray's shared memory on one machine is small: specs and outcomes.
OBJECT_STORE_BYTES = 128 * 2**20
# Ray's sockets lie in its temporary folder, and the system allows their paths so many bytes (103 on a Mac).
SOCKET_PATH_BYTES = 103
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"

PREFIX = "bdb-"  # then the place and the number of the process
ANSWER_SECONDS = 10.0  # for the head of a cluster to accept a connection


@contextmanager
def ray_started(cpus: int, gpus: float | None = None, address: str | None = None) -> Iterator[ModuleType]:
    """Ray for the length of the block: the module `ray`, initialized.

    Without an `address` it runs on this machine with so many `cpus`, and `gpus` (None: as many as Ray finds). With one it is
    that cluster, as Ray writes addresses ("auto", "HOST:PORT", "ray://HOST:PORT"), with what its nodes have.

    Raises UsageError if Ray does not start here, or if there is no such cluster.
    """
    own_folder = short_folder() if address is None else None
    try:
        ray = _join(address) if own_folder is None else _start(own_folder, cpus, gpus)
        try:
            yield ray
        finally:
            ray.shutdown()
    finally:
        if own_folder is not None:
            shutil.rmtree(own_folder, ignore_errors=True)


def _start(own_folder: Path, cpus: int, gpus: float | None) -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray lowers its processes' priority by 15. Beside any other work on the machine they would hardly compute.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Without a token of ours Ray writes one into the home folder, which may be read-only.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    _check_unused(ray)
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
                _temp_dir=str(own_folder),
            )
    except Exception as error:  # Ray raises a dozen types for what can be amiss with a machine
        ray.shutdown()
        raise UsageError(f"Ray does not start here ({first_line(error)}); --inline runs without it") from error
    return ray


def _join(address: str) -> ModuleType:
    import ray

    _check_unused(ray)
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # as above, and what a network can do
        ray.shutdown()
        raise UsageError(
            f"--address {address}: no Ray cluster that can be joined ({first_line(error)}); give 'auto', HOST:PORT or "
            "ray://HOST:PORT, and the cluster's token if it has one (RAY_AUTH_TOKEN)"
        ) from error
    return ray


def _check_unused(ray: ModuleType) -> None:
    """Raises UsageError if the caller's process has started Ray by itself, which a run would end for it."""
    if ray.is_initialized():
        raise UsageError("this process has started Ray already; call ray.shutdown() first, or run with --inline")


def _check_answers(address: str) -> None:
    """Raises OSError or ValueError if nobody listens at HOST:PORT: Ray itself would try for a minute, and end the process."""
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()


def short_folder() -> Path:
    """A new folder for all that Ray writes, logs included, whose path is short enough for its sockets.

    It is in the temporary folder, if that is short. Raises UsageError if there is no place for one.
    """
    bases = [os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    for base in bases:
        _sweep(Path(base))
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{place()}-{os.getpid()}-", dir=base))
        except OSError:
            continue
        if _fits(folder):
            return folder
        folder.rmdir()
    raise UsageError(
        f"the temporary folder {bases[0]} is too long for Ray (a socket may have {SOCKET_PATH_BYTES} bytes), and "
        "no shorter one can be written to; set TMPDIR to a short folder, or run with --inline"
    )


def _sweep(base: Path) -> None:
    """Remove the folders of runs that were killed."""
    prefix = f"{PREFIX}{place()}-"
    for folder in base.glob(f"{prefix}*"):
        pid = folder.name.removeprefix(prefix).partition("-")[0]
        if pid.isdecimal() and start_of(int(pid)) is None:
            shutil.rmtree(folder, ignore_errors=True)


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / SOCKET)) <= SOCKET_PATH_BYTES
