"""Ray, started on this machine for one run, or an existing cluster, joined."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from types import ModuleType

from bdbench.errors import UsageError, first_line
from bdbench.processes import place, start_of

PRELOADED = "bdbench.matrix.preload"
END_SECONDS = 20.0  # for Ray to end: two are usual, and it may have to start first
# Ray's sockets lie in its temporary folder, and the system allows their paths so many bytes (103 on a Mac).
SOCKET_PATH_BYTES = 103
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"

PREFIX = "bdb-"  # then the place and the number of the process
ANSWER_SECONDS = 10.0  # for the head of a cluster to accept a connection


class RayHead:
    """Ray on this machine, with so many `cpus` and `gpus` (None: as many as Ray finds), in a process of its own.

    It starts at once, while the caller does other things; `join` waits for it. With `preload` the processes that Ray has ready
    for work, one for each of the `cpus`, import what a worker on the CPU needs, and compute with one thread.

    Raises UsageError if there is no place for Ray's files, or if this process has started Ray by itself.
    """

    def __init__(self, cpus: int, gpus: float | None = None, preload: bool = False) -> None:
        _check_unused()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Ray lowers its processes' priority by 15. Beside any other work on the machine they would hardly compute.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Without a token of ours Ray writes one into the home folder, which may be read-only.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's own choice for what it starts, but not for what it joins
        variables = dict(os.environ)
        if preload:
            variables["RAY_preload_python_modules"] = PRELOADED
            variables.setdefault("OMP_NUM_THREADS", "1")  # as Ray sets it later, but before PyTorch reads it
        self._folder = short_folder()
        words = [str(number) for number in (cpus, gpus) if number is not None]
        command = [sys.executable, "-P", "-m", "bdbench.matrix.ray_head", *words]
        try:
            with _without_interrupts():
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self._folder, env=variables
                )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def join(self) -> ModuleType:
        """The module `ray`, initialized, when Ray has started. Raises UsageError if it does not."""
        answer = self._process.stdout.read()
        try:
            said = json.loads(answer) if answer else {"error": f"its process ended with status {self._process.wait()}"}
            if "error" in said:
                raise OSError(said["error"])
            import ray
            from ray._raylet import Config

            _check_unused()
            Config.initialize("")  # Ray reads its variables when it is imported, which may have been before
            # Ray puts the working directory before the libraries in its workers' import path. So it is an empty one.
            with chdir(self._folder):
                ray.init(address=said["address"], log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises a dozen types for what can be amiss with a machine
            raise UsageError(f"Ray does not start here ({first_line(error)}); --inline runs without it") from error
        return ray

    def end(self) -> None:
        """End Ray, also one that is still starting. It may be called again."""
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # all processes of Ray's die with it
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def ray_started(
    cpus: int, gpus: float | None = None, address: str | None = None, head: RayHead | None = None
) -> Iterator[ModuleType]:
    """Ray for the length of the block: the module `ray`, initialized.

    Without an `address` it runs on this machine with so many `cpus`, and `gpus` (None: as many as Ray finds), or it is the one
    that `head` has started. With one it is that cluster, as Ray writes addresses ("auto", "HOST:PORT", "ray://HOST:PORT"), with
    what its nodes have.

    Raises UsageError if Ray does not start here, or if there is no such cluster.
    """
    if address is None:
        head = head or RayHead(cpus, gpus)
    try:
        ray = _join(address) if head is None else head.join()
        try:
            yield ray
        finally:
            ray.shutdown()
    finally:
        if head is not None:
            head.end()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started in the block does not hear Ctrl-C, which a terminal sends to all: it ends when this process says so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _join(address: str) -> ModuleType:
    import ray

    _check_unused()
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


def _check_unused() -> None:
    """Raises UsageError if the caller's process has started Ray by itself, which a run would end for it."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
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
