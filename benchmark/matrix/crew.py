"""The processes of a run: actors of Ray's, in slots on the nodes that there are."""

from __future__ import annotations

import logging
import pickle
import secrets
import time
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any

from bdbench.engine.meter import Progress
from bdbench.matrix.capacity import worker_bytes
from bdbench.matrix.shipping import Luggage
from bdbench.matrix.slots import Slot, slots_of_node
from bdbench.matrix.station import Greeting, Station
from bdbench.matrix.worker import Worker

log = logging.getLogger(__name__)

# So many processes in a row may fail to start in one slot.
MOST_FALSE_STARTS = 3
NODES_SECONDS = 5.0  # between two looks at which machines a cluster has
LEAVE_SECONDS = 3.0
WAITING_SECONDS = 60.0  # without a first worker, before the user is told


class Crew:
    """A process in each of the `slots`, `most` at most; each takes `gpu_share` of a GPU, and with `luggage` brings that.

    On a cluster (`is_cluster`) nodes may leave and come, and a node has slots by its memory, too. On one machine memory had its
    say before Ray started. `last_reason` is why a process was last lost.
    """

    def __init__(
        self,
        ray: ModuleType,
        worker: Worker,
        gpu_share: float,
        most: int | None = None,
        luggage: Luggage | None = None,
        is_cluster: bool = False,
    ) -> None:
        self.slots: list[Slot] = []
        self.last_reason = "no node has room for one"
        self._ray, self._worker, self._gpu_share, self._most, self._is_cluster = ray, worker, gpu_share, most, is_cluster
        self._threads, self._luggage, self._token = worker.site.threads, luggage, secrets.token_hex(8)
        self._actor_class, self._shipped_worker = ray.remote(Station), ray.put(worker)
        self._slots_made = 0
        self._nodes_tried: set[str] = set()
        self._nodes_seen = -NODES_SECONDS
        self._began = time.monotonic()
        self._is_working = self._has_warned = False
        self.follow_nodes()

    def follow_nodes(self, at_once: bool = False) -> None:
        """Have slots on the nodes that there are: some may have left, others have come.

        A slot with a step stays until Ray says that its process died.
        """
        if not at_once and time.monotonic() < self._nodes_seen + NODES_SECONDS:
            return
        self._nodes_seen = time.monotonic()
        nodes = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        for slot in [slot for slot in self.slots if slot.node not in nodes and not slot.tasks]:
            self.drop(slot, "its machine left the cluster")
        for node_id in sorted(nodes.keys() - self._nodes_tried):
            self._open(nodes[node_id])
        if not self._is_working and time.monotonic() > self._began + WAITING_SECONDS and not self._has_warned:
            log.warning("no worker has started for %.0f s: the cluster may have none free", WAITING_SECONDS)
            self._has_warned = True

    def welcome(self, slot: Slot, greeting: Greeting) -> None:
        slot.pending = None
        site = self._worker.site
        if site.source is not None and greeting.source != site.source:
            self.drop(slot, f"the bdbench on {slot.name}'s machine is another one: install the same there")
        elif site.torch_device().type == "cuda" and not greeting.gpus:
            self.drop(slot, f"PyTorch sees no GPU on {slot.name}'s machine")
        else:
            slot.is_ready = self._is_working = True
            slot.false_starts = 0

    def false_start(self, slot: Slot, reason: str) -> None:
        slot.false_starts += 1
        self.last_reason = reason
        self.follow_nodes(at_once=True)
        if slot not in self.slots:
            return
        if slot.false_starts < MOST_FALSE_STARTS:
            self.replace(slot)
        else:
            self.drop(slot, reason)

    def replace(self, slot: Slot) -> None:
        """Have a new process in the slot; the old one, if it still lives, ends."""
        self._ray.kill(slot.actor)
        self._begin(slot)

    def looks(self) -> dict[str, Progress | None]:
        """How far the step of each working slot is, by the slot's name, as its process said last."""
        return {slot.name: _heard(self._board_key(slot)) for slot in self.slots if slot.tasks}

    def _board_key(self, slot: Slot) -> bytes:
        return f"bdbench/{self._token}/{slot.name}".encode()

    def leave(self) -> None:
        """Have every process remove what it brought to its machine."""
        if self._luggage is not None:
            left = [slot.actor.leave.remote() for slot in self.slots if slot.is_ready]
            self._ray.wait(left, num_returns=len(left), timeout=LEAVE_SECONDS)

    def drop(self, slot: Slot, reason: str) -> None:
        self.last_reason = reason
        log.warning("%s is left out: %s", slot.name, reason)
        self._ray.kill(slot.actor)
        self.slots.remove(slot)
        self._nodes_tried.add(slot.node)

    def drop_machine(self, slot: Slot, reason: str) -> None:
        """Drop a slot and all others of its machine that have nothing to do."""
        for other in [other for other in self.slots if other.node == slot.node and not other.tasks]:
            self.drop(other, reason)

    def _begin(self, slot: Slot) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        slot.is_ready, slot.steps_done, slot.most_together = False, 0, 1
        slot.actor = self._actor_class.options(
            num_cpus=self._threads,
            num_gpus=self._gpu_share,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
        ).remote(self._shipped_worker, self._luggage, self._ray.get, partial(_tell, self._board_key(slot)))
        slot.pending = slot.actor.greet.remote()

    def _open(self, node: dict[str, Any]) -> None:
        """As many slots as a node has room for, but `workers` in all."""
        worker = worker_bytes(self._worker.site.model) if self._is_cluster else None
        room = slots_of_node(node["Resources"], self._threads, self._gpu_share, worker)
        if self._most is not None:
            room = min(room, self._most - len(self.slots))
        if room > 0:
            self._nodes_tried.add(node["NodeID"])
        where = f"node {len(self._nodes_tried)}, " if self._is_cluster else ""  # records and status files name no host
        for _ in range(room):
            self._slots_made += 1
            slot = Slot(f"{where}worker {self._slots_made}", node["NodeID"])
            self.slots.append(slot)
            self._begin(slot)


def _tell(key: bytes, progress: Progress | None) -> None:
    """Put a note on Ray's board, which every process of a cluster reads. That it may fail ends no work."""
    from ray.experimental.internal_kv import _internal_kv_put

    with suppress(Exception):
        _internal_kv_put(key, pickle.dumps(progress), overwrite=True)


def _heard(key: bytes) -> Progress | None:
    from ray.experimental.internal_kv import _internal_kv_get

    try:
        note = _internal_kv_get(key)
    except Exception:  # as above
        return None
    return pickle.loads(note) if note else None
