"""Room for processes: how many there are, and which are free for a step. No Ray."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bdbench.matrix.capacity import capacity, free_bytes, worker_bytes
from bdbench.matrix.graph import Step
from bdbench.protocol.quotas import memory_limits
from bdbench.protocol.site import Site, cores

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Slot:
    """Room for one process, on one node. `pending` is what Ray will say next: a greeting, or the report on `step`."""

    name: str
    node: str
    actor: Any = None
    pending: Any = None
    files: Any = None  # beside a report, where victims travel: the files of the one that the step makes
    step: Step | None = None
    ends: float | None = None  # by the monotonic clock, when the step must have ended
    mishaps: Sequence[str] = ()
    is_ready: bool = False
    steps_done: int = 0
    false_starts: int = 0
    lends_to: str | None = None  # the slot whose step computes on this one's cores, too

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.step is None and self.lends_to is None


def room_for(slots: Sequence[Slot], width: int) -> list[Slot] | None:
    """The idle slots of one node whose cores a step takes that computes on `width` slots: it runs in the first.

    A node with fewer slots than that gives all it has. None if no node has so many idle now. The node with most idle slots
    comes first.
    """
    idle_by_node: dict[str, list[Slot]] = {}
    for slot in slots:
        if slot.is_idle:
            idle_by_node.setdefault(slot.node, []).append(slot)
    for node, idle in sorted(idle_by_node.items(), key=lambda item: -len(item[1])):
        if len(idle) >= min(width, sum(slot.node == node for slot in slots)):
            return idle[:width]
    return None


def slots_of_node(resources: Mapping[str, float], threads: int, gpu_share: float, worker: int | None) -> int:
    """How many processes of so many `threads`, `gpu_share` of a GPU and `worker` bytes a node of Ray's holds.

    Without `worker` memory has no say.
    """
    held = resources.get("CPU", 0.0) / threads
    if worker is not None:
        held = min(held, resources.get("memory", 0.0) / worker)
    if gpu_share:
        held = min(held, resources.get("GPU", 0.0) / gpu_share)
    return int(held)


def local_slots(site: Site, workers: int | None, gpu_share: float) -> int:
    """How many processes this machine holds at a time. Logs a line where memory has a say in it."""
    held = capacity(
        on_cores=max(cores(), site.threads) // site.threads,
        free=free_bytes(memory_limits()),
        worker=worker_bytes(site.model),
        chosen=workers,
    )
    if held.message:
        log.warning(held.message)
    if not gpu_share:
        return held.workers
    return min(held.workers, max(1, int(torch.cuda.device_count() / gpu_share)))
