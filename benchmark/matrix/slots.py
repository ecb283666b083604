"""Room for processes: how many there are, and which are free for a step. No Ray."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bdbench.matrix.capacity import Capacity, local_capacity
from bdbench.matrix.graph import Step
from bdbench.matrix.worker import VictimOutcome
from bdbench.protocol.site import Site
from bdbench.specs.work import CellSpec

log = logging.getLogger(__name__)


# Short cells travel together: what it costs to send one and to hear of it is then shared. So many, and of so many seconds.
MOST_TOGETHER = 16
SECONDS_TOGETHER = 0.1


@dataclass(frozen=True)
class Task:
    """A step for a process, with what became of the victims it waited for, and the reasons of earlier tries' ends."""

    step: Step
    waited_for: tuple[VictimOutcome, ...]
    mishaps: tuple[str, ...]

    @property
    def may_travel(self) -> bool:
        """Whether others may go with it: a step that has met with a mishap is tried alone."""
        return isinstance(self.step.spec, CellSpec) and not self.mishaps


@dataclass(eq=False)
class Slot:
    """Room for one process, on one node. `pending` is what Ray will say next: a greeting, or the reports on `tasks`."""

    name: str
    node: str
    actor: Any = None
    pending: Any = None
    files: Any = None  # beside a report, where victims travel: the files of the one that the step makes
    tasks: tuple[Task, ...] = ()
    most_together: int = 1
    ends: float | None = None  # by the monotonic clock, when the tasks must have ended
    is_ready: bool = False
    steps_done: int = 0
    false_starts: int = 0
    lends_to: str | None = None  # the slot whose step computes on this one's cores, too

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.tasks and self.lends_to is None

    @property
    def gathers(self) -> bool:
        """Whether it has tasks that were not sent yet."""
        return bool(self.tasks) and self.pending is None

    def note_pace(self, seconds: Sequence[float]) -> None:
        """How many steps may travel together next, if each takes as long as the longest of the last ones, in seconds."""
        self.most_together = next(n for n in range(MOST_TOGETHER, 0, -1) if n == 1 or n * max(seconds) <= SECONDS_TOGETHER)


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


def gathering_slot(slots: Sequence[Slot], task: Task) -> Slot | None:
    """The slot with fewest tasks among those that gather some and may take this one with them; None if there is none."""
    gathering = [slot for slot in slots if slot.gathers and len(slot.tasks) < slot.most_together and slot.tasks[0].may_travel]
    return min(gathering, key=lambda slot: len(slot.tasks), default=None) if task.may_travel else None


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


def local_slots(site: Site, workers: int | None, gpu_share: float, held: Capacity | None = None) -> int:
    """How many processes this machine holds at a time, on its cores and in memory as many as `held` says, if that is known.

    Logs a line where memory has a say in it.
    """
    held = held or local_capacity(site.model, site.threads, workers)
    if held.message:
        log.warning(held.message)
    if not gpu_share:
        return held.workers
    return min(held.workers, max(1, int(torch.cuda.device_count() / gpu_share)))
