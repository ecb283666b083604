"""Steps on every core or GPU of this machine: one Ray task each. The only module that knows Ray."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import torch

from bdbench.matrix.graph import Step
from bdbench.matrix.worker import CellOutcome, VictimOutcome, Worker
from bdbench.protocol.environment import portable_traceback
from bdbench.protocol.site import Site, cores

# A cell returns a few kilobytes, so Ray's shared memory can be small.
OBJECT_STORE_BYTES = 128 * 2**20


class RayPool:
    """Ray's processes, `workers` at a time (None: as many as cores or GPUs allow), for the length of a `with` block.

    On a GPU each task takes `gpus_per_cell` of one, which may be a fraction. A process that dies fails its own step.
    """

    def __init__(self, worker: Worker, *, workers: int | None = None, gpus_per_cell: float = 1.0) -> None:
        self.slots = slots(worker.site, workers, gpus_per_cell)
        self._worker = worker
        self._cpus = self.slots * worker.site.threads
        self._gpus_per_cell = gpus_per_cell if worker.site.torch_device().type == "cuda" else 0
        self._running: dict[Any, Step] = {}

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        ray.init(
            address="local",  # this machine, not a cluster that happens to run
            num_cpus=self._cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=OBJECT_STORE_BYTES,
        )
        self._ray = ray
        options = {"num_cpus": self._worker.site.threads, "num_gpus": self._gpus_per_cell, "max_retries": 0}
        self._run = ray.remote(**options)(Worker.run)
        self._shipped_worker = ray.put(self._worker)
        return self

    def __exit__(self, *exception: object) -> None:
        self._ray.shutdown()

    def start(self, step: Step, waited_for: Sequence[VictimOutcome]) -> None:
        self._running[self._run.remote(self._shipped_worker, step.spec, list(waited_for))] = step

    def next_ended(self) -> tuple[Step, VictimOutcome | CellOutcome]:
        (task,), _ = self._ray.wait(list(self._running), num_returns=1)
        step = self._running.pop(task)
        try:
            return step, self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return step, self._worker.failure(step.spec, portable_traceback(error, self._worker.folders))


def slots(site: Site, workers: int | None, gpus_per_cell: float) -> int:
    """How many victims or cells are worked on at a time."""
    on_cores = workers or max(cores(), site.threads) // site.threads
    if site.torch_device().type == "cpu":
        return on_cores
    return min(on_cores, max(1, int(torch.cuda.device_count() / gpus_per_cell)))
