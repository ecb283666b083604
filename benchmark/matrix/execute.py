"""Run steps in a pool of processes, or in this one, and write each result as it ends."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

from bdbench.errors import StorageError
from bdbench.matrix.graph import Schedule, Step
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.results import Results
from bdbench.matrix.worker import CellOutcome, VictimOutcome, Worker


class Pool(Protocol):
    """Where steps run. `slots` is how many run at a time."""

    slots: int

    def start(self, step: Step, waited_for: Sequence[VictimOutcome]) -> None:
        """Start a step; `waited_for` is what became of the victims that it waited for."""

    def next_ended(self) -> tuple[Step, VictimOutcome | CellOutcome]:
        """Wait until a started step ends."""


class InlinePool:
    """The calling process: one step at a time. Imports no Ray."""

    slots = 1

    def __init__(self, worker: Worker, progress: MatrixProgress | None = None) -> None:
        self._worker, self._progress = worker, progress

    def start(self, step: Step, waited_for: Sequence[VictimOutcome]) -> None:
        with self._progress.inline(step.key) if self._progress else nullcontext():
            self._ended = step, self._worker.run(step.spec, waited_for)

    def next_ended(self) -> tuple[Step, VictimOutcome | CellOutcome]:
        return self._ended


def execute(steps: Sequence[Step], pool: Pool, results: Results, progress: MatrixProgress) -> None:
    """Run the steps, each as soon as a slot is free and the victims it waits for are there.

    A cell waits only for its own victims. Its record is written as it ends, by this process alone. Raises StorageError as soon
    as a victim or a record cannot be written.
    """
    schedule, outcomes, running = Schedule(steps), {}, 0
    while True:
        while running < pool.slots and (step := schedule.ready()):
            pool.start(step, [outcomes[key] for key in step.waits_for])
            running += 1
        if not running:
            if schedule.blocked:
                raise RuntimeError(f"{len(schedule.blocked)} steps wait for each other: {schedule.blocked[0].key}, ...")
            return
        step, outcome = pool.next_ended()
        running -= 1
        schedule.done(step.key)
        progress.warn(outcome.warnings)
        if isinstance(outcome, CellOutcome):
            results.write(outcome.record, outcome.predictions)
            progress.cell(outcome.record)
        else:
            if outcome.unstored:
                raise StorageError(outcome.error)
            outcomes[step.key] = outcome
            progress.victim(step.spec, outcome.error, outcome.seconds)
