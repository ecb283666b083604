"""Run steps in a pool of processes, or in this one, and write each result as it ends."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Protocol

from bdbench.errors import StorageError
from bdbench.matrix.graph import Schedule, Step
from bdbench.matrix.interrupts import Interrupts
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.remote_victims import Errands
from bdbench.matrix.results import Results
from bdbench.matrix.worker import CellOutcome, Outcome, VictimOutcome, Worker
from bdbench.specs.records import Record
from bdbench.specs.work import VictimSpec

MOST_MISHAPS = 2  # of a step; what ends so a third time has failed
WRITERS, MOST_UNWRITTEN = 4, 64


class Pool(Protocol):
    """Where steps run. `slots` is how many run at a time, `running` how many do."""

    @property
    def slots(self) -> int: ...

    @property
    def running(self) -> int: ...

    def has_room(self, step: Step, mishaps: Sequence[str]) -> bool:
        """Whether this step can be started now; see `Worker.run` for `mishaps`."""

    def start(self, step: Step, waited_for: Sequence[VictimOutcome], mishaps: Sequence[str]) -> None:
        """Start a step; see `Worker.run` for the rest."""

    def ended(self, wait: bool = True) -> list[tuple[Step, Outcome]]:
        """The steps that have ended, if any. With `wait` it waits for one, but for a second or so at most."""


class InlinePool:
    """The calling process: one step at a time. Imports no Ray. With `errands` the victims are kept elsewhere."""

    slots = 1

    def __init__(self, worker: Worker, progress: MatrixProgress | None = None, errands: Errands | None = None) -> None:
        self._worker, self._progress, self._errands = worker, progress, errands
        self._ended: list[tuple[Step, Outcome]] = []

    @property
    def running(self) -> int:
        return len(self._ended)

    def has_room(self, step: Step, mishaps: Sequence[str]) -> bool:
        return not self._ended

    def start(self, step: Step, waited_for: Sequence[VictimOutcome], mishaps: Sequence[str]) -> None:
        with self._progress.inline(step.key) if self._progress else nullcontext():
            self._ended.append((step, self._outcome(step, waited_for, mishaps)))

    def _outcome(self, step: Step, waited_for: Sequence[VictimOutcome], mishaps: Sequence[str]) -> Outcome:
        if self._errands is None:
            return self._worker.run(step.spec, waited_for, mishaps)
        if isinstance(step.spec, VictimSpec) and self._errands.has(step.key):
            return VictimOutcome(None)
        self._errands.fetch(step.waits_for)
        outcome = self._worker.run(step.spec, waited_for, mishaps)
        if isinstance(step.spec, VictimSpec) and not outcome.error:
            self._errands.send(step.key)
        return outcome

    def ended(self, wait: bool = True) -> list[tuple[Step, Outcome]]:
        ended, self._ended = self._ended, []
        return ended


def execute(
    steps: Sequence[Step], pool: Pool, results: Results, progress: MatrixProgress, interrupts: Interrupts | None = None
) -> None:
    """Run the steps, each as soon as the pool has room and the victims it waits for are there.

    A cell waits only for its own victims. Its record is written as it ends, by this process alone. A step that ends by a mishap
    is tried again, MOST_MISHAPS times; its record says so. Raises StorageError as soon as a victim or a record cannot be
    written, and WorkersLost if nothing is left to work with. Whatever breaks the steps off, every cell that has ended is
    written first, unless a record cannot be: then those that wait for the disk are dropped.
    """
    _Execution(steps, pool, results, progress, interrupts or Interrupts()).run()


class _Execution:
    def __init__(
        self, steps: Sequence[Step], pool: Pool, results: Results, progress: MatrixProgress, interrupts: Interrupts
    ) -> None:
        self._schedule, self._pool, self._results, self._progress = Schedule(steps), pool, results, progress
        self._interrupts = interrupts
        # A disk makes each file wait until it is safe. Other steps are started and settled meanwhile.
        self._writers, self._writing = ThreadPoolExecutor(WRITERS), deque[tuple[Future[None], Record]]()
        self._ended = deque[tuple[Step, Outcome]]()  # not yet settled
        self._outcomes: dict[str, VictimOutcome] = {}
        self._mishaps: dict[str, list[str]] = defaultdict(list)

    def run(self) -> None:
        try:
            while self._start_what_can_be():
                with self._interrupts.held():
                    self._ended += self._pool.ended()
                    self._settle_ended()
                    self._show_written(MOST_UNWRITTEN)
            self._show_written()
        except BaseException:
            self._keep_what_ended()
            raise
        finally:
            self._writers.shutdown(cancel_futures=True)

    def _keep_what_ended(self) -> None:
        """Write what has ended before the steps were broken off. Raises StorageError if it cannot be written."""
        self._show_written(len(self._writing))  # a write that has failed says so at once
        with suppress(Exception):  # the pool may be what broke
            self._ended += self._pool.ended(wait=False)
        while self._ended:
            with suppress(StorageError):  # of a victim: the cells behind it are written all the same
                self._settle_ended()
        self._show_written()

    def _start_what_can_be(self) -> bool:
        """Start steps while the pool has room; whether anything is left to wait for."""
        while (step := self._schedule.first()) and self._pool.has_room(step, self._mishaps[step.key]):
            self._schedule.ready()
            self._pool.start(step, [self._outcomes[key] for key in step.waits_for], self._mishaps[step.key])
        if self._pool.running or step:
            return True
        if self._schedule.blocked:
            blocked = self._schedule.blocked
            raise RuntimeError(f"{len(blocked)} steps wait for each other: {blocked[0].key}, ...")
        return False

    def _settle_ended(self) -> None:
        while self._ended:
            self._settle(*self._ended.popleft())

    def _settle(self, step: Step, outcome: Outcome) -> None:
        """Write what has ended, or have it tried again."""
        self._progress.warn(outcome.warnings)
        mishaps = self._mishaps[step.key]
        if outcome.mishap and len(mishaps) < MOST_MISHAPS:
            mishaps.append(outcome.mishap.reason)
            self._progress.retried(step.key, outcome.mishap.reason)
            self._schedule.again(step.key, outcome.mishap.lost)
            return
        self._schedule.done(step.key)
        if isinstance(outcome, CellOutcome):
            writing = self._writers.submit(self._results.write, outcome.record, outcome.predictions)
            self._writing.append((writing, outcome.record))
        else:
            if outcome.unstored:
                raise StorageError(outcome.error)
            self._outcomes[step.key] = outcome
            self._progress.victim(step.spec, outcome.error, outcome.seconds)

    def _show_written(self, most: int = 0) -> None:
        """Show the cells whose results are on disk, in the order in which they ended; wait until `most` are not.

        Raises StorageError if one could not be written.
        """
        while self._writing and (len(self._writing) > most or self._writing[0][0].done()):
            writing, record = self._writing[0]
            writing.result()  # one that fails stays, so nobody waits for those behind it
            self._writing.popleft()
            self._progress.cell(record)
