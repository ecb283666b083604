"""What has ended in a run, what runs, and how long the rest takes."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from bdbench.engine.meter import Progress
from bdbench.matrix.pace import MOST_ENDS, ends_per_minute, seconds_left
from bdbench.matrix.status import RunState, SlotState, utc_now

VICTIM, CELL = "victim", "cell"


@dataclass
class _Running:
    """A step under way."""

    kind: str
    key: str
    label: str
    since: float
    together: int
    progress: Progress | None = None


class Tally:
    """Counts the steps of a run by their kind, VICTIM or CELL. Any method may be called from any thread.

    `clock` gives seconds that never go back.
    """

    def __init__(self, cells: int, victims: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.totals = {VICTIM: victims, CELL: cells}
        self.well = {VICTIM: 0, CELL: 0}
        self.failed = {VICTIM: 0, CELL: 0}
        self.retried = 0
        self._clock, self._lock = clock, threading.RLock()
        self._settled: set[str] = set()
        self._running: dict[str, _Running] = {}  # by slot
        self._slots = 1  # that worked when a step was last started: an end lowers it only if nothing takes the place
        self._took: dict[str, float] = {}  # seconds by key, of steps whose slot is idle but whose result has not come
        self._durations = {kind: deque[float](maxlen=MOST_ENDS) for kind in self.totals}
        self._cell_ends = deque[float](maxlen=MOST_ENDS)
        self._began, self._started = clock(), utc_now()

    def start(self, slot: str, kind: str, key: str, label: str, together: int = 1) -> None:
        """A slot works on this step from now on, the first of so many that it works on one after another."""
        with self._lock:
            self._running[slot] = _Running(kind, key, label, self._clock(), together)
            self._slots = len(self._running)

    def at(self, slot: str, progress: Progress | None) -> None:
        """How far a slot is; of an idle one nothing is noted."""
        with self._lock:
            if slot in self._running:
                self._running[slot].progress = progress

    def vacate(self, slot: str) -> None:
        """A slot is idle."""
        with self._lock:
            if slot in self._running:
                self._note(self._running.pop(slot))

    def settle(self, kind: str, key: str, is_failed: bool) -> None:
        """A step has ended for good."""
        with self._lock:
            self._vacate_step(key)
            if key in self._settled:  # a victim that was lost and made again
                return
            self._settled.add(key)
            (self.failed if is_failed else self.well)[kind] += 1
            if key in self._took:
                self._durations[kind].append(self._took.pop(key))
            if kind == CELL:
                self._cell_ends.append(self._clock())

    def again(self, key: str) -> None:
        """A step that was started will be started once more."""
        with self._lock:
            self._vacate_step(key)
            self._took.pop(key, None)
            self.retried += 1

    def ended(self, kind: str) -> int:
        """How many steps of a kind have ended, well or not."""
        return self.well[kind] + self.failed[kind]

    def state(self, end: str | None = None) -> RunState:
        """How far the run is now. With an `end` nothing runs any more."""
        with self._lock:
            now = self._clock()
            running = [] if end else list(self._running.items())
            return RunState(
                process=os.getpid(),
                started=self._started,
                updated=utc_now(),
                cells=self.totals[CELL],
                done=self.well[CELL],
                failed=self.failed[CELL],
                victims=self.totals[VICTIM],
                victims_done=self.well[VICTIM],
                victims_failed=self.failed[VICTIM],
                retried=self.retried,
                cells_per_minute=ends_per_minute(self._cell_ends, self._began, now),
                seconds_left=seconds_left(
                    {kind: total - self.ended(kind) for kind, total in self.totals.items()},
                    {kind: fmean(durations) for kind, durations in self._durations.items() if durations},
                    [(step.kind, now - step.since) for _, step in running],
                    self._slots,
                ),
                slots=tuple(SlotState(slot, step.label, now - step.since, step.progress) for slot, step in running),
                end=end,
            )

    def _vacate_step(self, key: str) -> None:
        for slot in [slot for slot, step in self._running.items() if step.key == key]:
            self._note(self._running.pop(slot))

    def _note(self, step: _Running) -> None:
        self._took[step.key] = (self._clock() - step.since) / step.together
