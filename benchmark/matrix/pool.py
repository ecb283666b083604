"""Steps on every core or GPU, of this machine or of a cluster: long-lived processes, which are actors of Ray's."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from typing import Any, Self

import torch

from bdbench.engine.folders import count_weights
from bdbench.errors import StorageError, UsageError, WorkersLost, first_line
from bdbench.matrix.ahead import RayAhead
from bdbench.matrix.capacity import worker_bytes
from bdbench.matrix.crew import Crew
from bdbench.matrix.deadline import out_of_time
from bdbench.matrix.freight import Cargo, Freight
from bdbench.matrix.graph import Step
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.ray_start import ray_started
from bdbench.matrix.remote_victims import AnyStore
from bdbench.matrix.slots import Slot, Task, gathering_slot, local_slots, room_for
from bdbench.matrix.station import Greeting, Report
from bdbench.matrix.worker import LostVictim, Mishap, Outcome, VictimOutcome, Worker, mishap_of
from bdbench.protocol.environment import portable_traceback
from bdbench.protocol.victims import threads_for
from bdbench.specs.work import VictimSpec

log = logging.getLogger(__name__)

# A worker ends a step itself at its time limit. One that cannot, say in a call into C, is killed so many seconds later.
GRACE = 60.0
# How long the driver waits for a step before it looks after other things.
PATIENCE = 1.0
# A process is replaced after so many steps, and when it keeps so many times the memory that a worker should take: whatever
# leaks, in a library or a plugin, does not add up. A new process takes about five seconds.
MOST_STEPS = 5000
MOST_MEMORY = 1.25


class RayPool:
    """Processes on this machine or on a cluster, for the length of a `with` block.

    There are `workers` at a time (None: as many as cores, memory and GPUs allow). On a GPU each takes `gpus_per_cell` of one,
    which may be a fraction. With an `address` they are on the nodes of that cluster (see `ray_started`). With `cargo` they
    share no folder with this process, and what it names travels; victims are kept in `store` (None: in the worker's folder).
    With `ahead` Ray is starting already; then the pool ends it.

    A process that dies is replaced, and its step ends by a mishap. One that does not end in time is killed and replaced.
    Raises UsageError, when the block is entered, if Ray does not start on this machine or sees other GPUs than PyTorch.
    """

    def __init__(
        self,
        worker: Worker,
        progress: MatrixProgress | None = None,
        *,
        workers: int | None = None,
        gpus_per_cell: float = 1.0,
        address: str | None = None,
        cargo: Cargo | None = None,
        store: AnyStore | None = None,
        ahead: RayAhead | None = None,
    ) -> None:
        self._worker, self._address, self._most, self._cargo = worker, address, workers, cargo
        self._store, self._ahead = store, ahead
        self._progress = progress or MatrixProgress(0, 0)
        self._freight: Freight | None = None
        self._settled_at_once: list[tuple[Step, Outcome]] = []
        self._looked = 0.0
        self._threads, self._weights = worker.site.threads, count_weights(worker.site.model)
        self._worker_bytes = worker_bytes(worker.site.model)
        self._gpu_share = gpus_per_cell if worker.site.torch_device().type == "cuda" else 0.0
        self._stack = ExitStack()

    @property
    def slots(self) -> int:
        return len(self._crew.slots)

    @property
    def running(self) -> int:
        return len(self._settled_at_once) + sum(len(slot.tasks) for slot in self._crew.slots)

    def __enter__(self) -> Self:
        site = self._worker.site
        if self._address is None:
            ahead = None if self._gpu_share else self._ahead  # that one is for cores
            slots = local_slots(site, self._most, self._gpu_share, ahead and ahead.held)
            self._ray = self._stack.enter_context(ray_started(slots * self._threads, head=ahead and ahead.head))
        else:
            self._ray = self._stack.enter_context(ray_started(0, address=self._address))
        try:
            self._check_gpus()
            if self._cargo is not None:
                self._freight = Freight(self._ray, self._worker, self._cargo, self._store)
            self._crew = Crew(
                self._ray,
                self._worker,
                self._gpu_share,
                self._most,
                None if self._freight is None else self._freight.luggage,
                is_cluster=self._address is not None,
            )
            self._stack.callback(self._crew.leave)
            if not self._crew.slots:
                raise UsageError(
                    f"--address {self._address}: no node of the cluster has room for a worker of {self._threads} cores and "
                    f"{self._worker_bytes / 2**30:.1f} GiB; see --threads"
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def has_room(self, step: Step, mishaps: Sequence[str]) -> bool:
        task = Task(step, (), tuple(mishaps))
        return self._room_for(step) is not None or gathering_slot(self._crew.slots, task) is not None

    def start(self, step: Step, waited_for: Sequence[VictimOutcome], mishaps: Sequence[str]) -> None:
        victims: dict[str, Any] = {}
        if self._freight is not None:
            if isinstance(step.spec, VictimSpec) and self._freight.has(step.key):
                self._settled_at_once.append((step, VictimOutcome(None)))
                return
            try:
                victims = self._freight.victims(step.waits_for)
            except LostVictim as error:
                failure = self._worker.failure(step.spec, str(error), mishaps, mishap_of(error))
                self._settled_at_once.append((step, failure))
                return
        task = Task(step, tuple(waited_for), tuple(mishaps))
        room = self._room_for(step)
        if room is None:
            slot = gathering_slot(self._crew.slots, task)
        else:
            slot, *lenders = room
            for lender in lenders:
                lender.lends_to = slot.name
        slot.tasks += (task,)
        if self._freight is not None or len(slot.tasks) >= slot.most_together or not task.may_travel:
            self._send(slot, victims)

    def _send(self, slot: Slot, victims: Mapping[str, Any]) -> None:
        """Have the slot's process begin with what the slot has gathered."""
        limits = [self._worker.time_limit.seconds(task.step.spec) for task in slot.tasks]
        # Cells that travel together should take a tenth of a second: one limit is plenty for all of them.
        slot.ends = None if None in limits else time.monotonic() + max(limits) + GRACE
        work = [(task.step.spec, task.waited_for, task.mishaps) for task in slot.tasks]
        if self._freight is not None:
            slot.pending, slot.files = slot.actor.run_with_files.options(num_returns=2).remote(*work[0], victims)
        else:
            slot.pending = slot.actor.run_all.remote(work)
        self._progress.started(slot.name, slot.tasks[0].step.key, len(slot.tasks))

    def ended(self, wait: bool = True) -> list[tuple[Step, Outcome]]:
        if self._settled_at_once:
            settled, self._settled_at_once = self._settled_at_once, []
            return settled
        if wait:
            for slot in self._crew.slots:
                if slot.gathers:
                    self._send(slot, {})
        self._crew.follow_nodes()
        slot_by_pending = {slot.pending: slot for slot in self._crew.slots if slot.pending is not None}
        if not self._crew.slots:
            raise WorkersLost(
                f"no worker is left ({self._crew.last_reason}); what ended before is kept: run the same command again"
            )
        if not slot_by_pending:
            return []
        ends = [slot.ends - time.monotonic() for slot in self._crew.slots if slot.ends is not None]
        patience = max(0.0, min([PATIENCE, *ends])) if wait else 0.0
        pending = list(slot_by_pending)
        if self._ray.wait(pending, num_returns=1, timeout=patience)[0]:
            answered, _ = self._ray.wait(pending, num_returns=len(pending), timeout=0)
        else:
            answered = []
        settled = [ended for ref in answered for ended in self._settled(slot_by_pending[ref])]
        for slot in [slot for slot in self._crew.slots if slot.ends is not None and time.monotonic() >= slot.ends]:
            settled += self._out_of_time(slot)
        self._look()
        return settled

    def _look(self) -> None:
        """Have the display show how far every slot is, about once a second."""
        if time.monotonic() > self._looked + PATIENCE:
            self._looked = time.monotonic()
            for slot, how_far in self._crew.looks().items():
                self._progress.at(slot, how_far)

    def _room_for(self, step: Step) -> list[Slot] | None:
        width = threads_for(step.spec, self._threads, self._weights) / self._threads
        return room_for(self._crew.slots, ceil(width))

    def _settled(self, slot: Slot) -> list[tuple[Step, Outcome]]:
        """What a slot's answer means. A process that died or is of no more use is replaced."""
        try:
            answer = self._ray.get(slot.pending)
        except self._ray.exceptions.RayTaskError as error:  # an exception that the worker did not make a result of
            return self._leave(slot, portable_traceback(error, self._worker.folders))
        except self._ray.exceptions.RayError as error:
            return self._bury(slot, error)
        if isinstance(answer, Greeting):
            self._crew.welcome(slot, answer)
            return []
        return self._take(slot, answer)

    def _take(self, slot: Slot, reports: Sequence[Report]) -> list[tuple[Step, Outcome]]:
        files = None
        if self._freight is not None and isinstance(reports[0].outcome, VictimOutcome) and not reports[0].outcome.error:
            try:
                files = self._ray.get(slot.files)
            except self._ray.exceptions.RayError as error:  # the machine died after the report
                return self._bury(slot, error)
        tasks = self._vacate(slot)
        if files is not None:
            try:
                self._freight.arrived(tasks[0].step.key, files, slot.files)
            except StorageError as error:  # an outcome: raised, it would take what other slots have ended along
                reports = [replace(reports[0], outcome=VictimOutcome(str(error), unstored=True))]
        slot.steps_done += len(tasks)
        slot.note_pace([report.seconds for report in reports])
        mishaps = [report.outcome.mishap for report in reports if report.outcome.mishap]
        if mishaps:
            self._forget_victims(tasks)
        outgrown = reports[-1].resident > MOST_MEMORY * self._worker_bytes
        if any(mishap.spoils_machine for mishap in mishaps):
            self._crew.drop_machine(slot, mishaps[0].reason)
        elif outgrown or slot.steps_done >= MOST_STEPS or any(mishap.ends_process for mishap in mishaps):
            self._crew.replace(slot)
        return [(task.step, report.outcome) for task, report in zip(tasks, reports, strict=True)]

    def _failures(self, tasks: Sequence[Task], reason: str, mishap: Mishap | None) -> list[tuple[Step, Outcome]]:
        """The outcomes of tasks that ended so.

        Of several that travelled together nobody knows whose fault it was: it is a mishap of each, which is tried alone.
        """
        if len(tasks) > 1:
            mishap = mishap or Mishap(reason.strip().rpartition("\n")[2])
        return [(task.step, self._worker.failure(task.step.spec, reason, task.mishaps, mishap)) for task in tasks]

    def _leave(self, slot: Slot, traceback: str) -> list[tuple[Step, Outcome]]:
        if not slot.tasks:
            self._crew.false_start(slot, traceback.strip().rpartition("\n")[2])
            return []
        return self._failures(self._vacate(slot), traceback, None)

    def _bury(self, slot: Slot, error: Exception) -> list[tuple[Step, Outcome]]:
        """The process of a slot has died, or its whole node."""
        is_of_memory = isinstance(error, self._ray.exceptions.OutOfMemoryError)
        reason = "its process was killed: memory is short" if is_of_memory else f"its process died ({type(error).__name__})"
        if not slot.tasks:
            self._crew.false_start(slot, first_line(error))
            return []
        tasks = self._vacate(slot)
        self._forget_victims(tasks)
        self._crew.follow_nodes(at_once=True)
        if slot in self._crew.slots:
            if is_of_memory and sum(other.node == slot.node for other in self._crew.slots) > 1:
                self._crew.drop(slot, "memory is short on its machine")
            else:
                self._crew.replace(slot)
        return self._failures(tasks, reason, Mishap(reason))

    def _forget_victims(self, tasks: Sequence[Task]) -> None:
        """Have the tasks' victims sent anew when they are tried again: the machine that had them may be gone."""
        if self._freight is not None:
            for task in tasks:
                self._freight.forget(task.step.waits_for)

    def _out_of_time(self, slot: Slot) -> list[tuple[Step, Outcome]]:
        tasks = self._vacate(slot)
        self._crew.replace(slot)
        limit = self._worker.time_limit.seconds(tasks[0].step.spec)
        return self._failures(tasks, f"{out_of_time(limit)}; its process was killed", None)

    def _vacate(self, slot: Slot) -> tuple[Task, ...]:
        """The slot is idle from now on; the tasks that it had."""
        tasks, slot.tasks, slot.pending, slot.ends = slot.tasks, (), None, None
        self._progress.ended(slot.name)
        for other in self._crew.slots:
            if other.lends_to == slot.name:
                other.lends_to = None
        return tasks

    def _check_gpus(self) -> None:
        """Raises UsageError where Ray finds no GPU though PyTorch does, or the reverse: a run would wait, or waste it."""
        of_ray = self._ray.cluster_resources().get("GPU", 0)
        site = self._worker.site
        if self._gpu_share and not of_ray:
            raise UsageError(
                f"PyTorch finds {torch.cuda.device_count()} GPU(s), but Ray none: check CUDA_VISIBLE_DEVICES, or run with "
                "--inline or --device cpu"
            )
        if not self._gpu_share and of_ray and site.device == "auto":
            raise UsageError(
                f"Ray finds {of_ray:g} GPU(s), but PyTorch none: install a PyTorch for this GPU, or run with --device cpu"
            )
