"""How long one victim or cell may take, so that one that hangs does not hang the run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from bdbench.errors import OutOfTime
from bdbench.matrix.expected import ExpectedWork
from bdbench.specs.work import CellSpec, VictimSpec

# Operations per second and thread: a tenth of what a core without bf16 does.
SLOW = 5e9
# For all that the estimate does not know: a search of five fine-tunings, an attack's own texts, a cold file system.
AT_LEAST = 3600.0
# The alarm is repeated, since code may swallow the exception.
REPEATED_AFTER = 5.0


@dataclass(frozen=True)
class TimeLimit:
    """The seconds that a step may take.

    `fixed` is what the user said, 0 for no limit. Without it (None) the limit is an hour and the time that a slow core takes
    for the victim's training and evaluation, with a model of so many `parameters` on so many `threads`. A defense may take as
    long as its victim.
    """

    fixed: float | None = None
    parameters: int = 0
    threads: int = 1

    def seconds(self, spec: VictimSpec | CellSpec) -> float | None:
        """The limit for this step, in seconds; None for no limit."""
        if self.fixed is not None:
            return self.fixed or None
        victim = spec.victim if isinstance(spec, CellSpec) else spec
        return AT_LEAST + ExpectedWork(self.parameters).of_victim(victim) / (SLOW * self.threads)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """A block that is ended by OutOfTime after `seconds`; None for no limit.

    The exception comes between two statements of Python, so a call into C that never returns is not ended. Nor is a block
    outside the main thread, or on a system without interval timers (Windows).
    """
    if seconds is None or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    ends = time.monotonic() + seconds

    def ring(signal_number: int, frame: FrameType | None) -> None:
        left = ends - time.monotonic()
        if left <= 0:
            raise OutOfTime(out_of_time(seconds))
        signal.setitimer(signal.ITIMER_REAL, left, REPEATED_AFTER)  # somebody had used the alarm, and it was set anew

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, REPEATED_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    if time.monotonic() > ends:  # the code swallowed the exception, or had taken the alarm away
        raise OutOfTime(out_of_time(seconds))


def out_of_time(seconds: float) -> str:
    """What a record says of a step that took longer than `seconds`."""
    return f"not done after {seconds:,.0f} seconds, the limit; if it only needs longer, raise it with --cell-timeout"
