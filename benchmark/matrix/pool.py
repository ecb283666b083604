"""Steps on every core or GPU of this machine: one Ray task each. The only module that knows Ray."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, Self

import torch

from bdbench.errors import UsageError, first_line
from bdbench.matrix.capacity import capacity, free_bytes, worker_bytes
from bdbench.matrix.deadline import out_of_time
from bdbench.matrix.graph import Step
from bdbench.matrix.worker import CellOutcome, VictimOutcome, Worker
from bdbench.protocol.environment import portable_traceback
from bdbench.protocol.quotas import memory_limits
from bdbench.protocol.site import Site, cores

log = logging.getLogger(__name__)

# A cell returns a few kilobytes, so Ray's shared memory can be small.
OBJECT_STORE_BYTES = 128 * 2**20
# A worker ends a step itself at its time limit. One that cannot, say in a call into C, is killed so many seconds later; they
# also pay for the start of its process.
GRACE = 60.0
# Ray's sockets lie in its temporary folder, and the system allows their paths so many bytes (103 on a Mac).
SOCKET_PATH_BYTES = 103
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


class RayPool:
    """Ray's processes, `workers` at a time (None: as many as cores or GPUs allow), for the length of a `with` block.

    On a GPU each task takes `gpus_per_cell` of one, which may be a fraction. A process that dies fails its own step; one that
    does not end in time is killed. Raises UsageError, when the block is entered, if Ray does not start on this machine.
    """

    def __init__(self, worker: Worker, *, workers: int | None = None, gpus_per_cell: float = 1.0) -> None:
        self.slots = slots(worker.site, workers, gpus_per_cell)
        self._worker = worker
        self._cpus = self.slots * worker.site.threads
        self._gpus_per_cell = gpus_per_cell if worker.site.torch_device().type == "cuda" else 0
        self._running: dict[Any, tuple[Step, float | None]] = {}  # by the task: the step, and when it must have ended
        self._own_folder: Path | None = None

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Without a token of ours Ray writes one into the home folder, which may be read-only.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        self._own_folder = _short_folder()
        try:
            # Ray puts the working directory before the libraries in its workers' import path. So it is an empty one.
            with chdir(self._own_folder):
                self._start(socket_folder() or self._own_folder)
        except Exception as error:  # Ray raises a dozen types for what can be amiss with a machine
            self.__exit__()
            raise UsageError(f"Ray does not start here ({first_line(error)}); --inline runs without it") from error
        return self

    def _start(self, folder: Path) -> None:
        import ray

        self._ray = ray
        ray.init(
            address="local",  # this machine, not a cluster that happens to run
            num_cpus=self._cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
        )
        options = {"num_cpus": self._worker.site.threads, "num_gpus": self._gpus_per_cell, "max_retries": 0}
        self._run = ray.remote(**options)(Worker.run)
        self._shipped_worker = ray.put(self._worker)

    def __exit__(self, *exception: object) -> None:
        if hasattr(self, "_ray"):
            self._ray.shutdown()
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)

    def start(self, step: Step, waited_for: Sequence[VictimOutcome]) -> None:
        limit = self._worker.time_limit.seconds(step.spec)
        ends = None if limit is None else time.monotonic() + limit + GRACE
        self._running[self._run.remote(self._shipped_worker, step.spec, list(waited_for))] = step, ends

    def next_ended(self) -> tuple[Step, VictimOutcome | CellOutcome]:
        while True:
            ends = [ends for _, ends in self._running.values() if ends is not None]
            patience = max(0.0, min(ends) - time.monotonic()) if ends else None
            ended_tasks, _ = self._ray.wait(list(self._running), num_returns=1, timeout=patience)
            if ended_tasks:
                step, _ = self._running.pop(ended_tasks[0])
                try:
                    return step, self._ray.get(ended_tasks[0])
                except self._ray.exceptions.RayError as error:
                    return step, self._worker.failure(step.spec, portable_traceback(error, self._worker.folders))
            for task, (step, ends_at) in self._running.items():
                if ends_at is not None and time.monotonic() >= ends_at:
                    self._ray.cancel(task, force=True)
                    del self._running[task]
                    limit = self._worker.time_limit.seconds(step.spec)
                    return step, self._worker.failure(step.spec, f"{out_of_time(limit)}; its process was killed")


def socket_folder() -> Path | None:
    """The folder "ray" in the temporary folder, or None if Ray cannot make its sockets there: it may be somebody else's."""
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    folder = base / "ray"
    is_writable = os.access(folder if folder.exists() else base, os.W_OK | os.X_OK)
    return folder if is_writable and _fits(folder) else None


def _short_folder() -> Path:
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


def slots(site: Site, workers: int | None, gpus_per_cell: float) -> int:
    """How many victims or cells are worked on at a time. Logs a line where memory has a say in it."""
    held = capacity(
        on_cores=max(cores(), site.threads) // site.threads,
        free=free_bytes(memory_limits()),
        worker=worker_bytes(site.model),
        chosen=workers,
    )
    if held.message:
        log.warning(held.message)
    if site.torch_device().type == "cpu":
        return held.workers
    return min(held.workers, max(1, int(torch.cuda.device_count() / gpus_per_cell)))
