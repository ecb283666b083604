"""How far the loop that runs now is, for whoever watches from another thread of the process.

The loops say it with `advance`, which neither locks nor waits, and nothing that is computed depends on it. A loop may run
inside another, as where a loss predicts. Then the inner one is shown while it lasts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

TRAINING, EVALUATION = "training", "evaluation"
UNITS = {TRAINING: "steps", EVALUATION: "batches"}


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a loop, the `number`-th of its kind, counted from 1, since `clear`.

    It has run for so many `seconds`: no time of day, since the clocks of two machines differ.
    """

    what: str
    done: int
    total: int
    number: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """What the loop still takes at its pace so far; None before its first unit."""
        return self.seconds / self.done * (self.total - self.done) if self.done else None

    def __str__(self) -> str:
        """Such as "training 1,200 of 2,800 steps", of a later training "training 3: 40 of 200 steps"."""
        name = f"{self.what} {self.number}:" if self.what == TRAINING and self.number > 1 else self.what
        return f"{name} {self.done:,} of {self.total:,} {UNITS.get(self.what, 'steps')}"


# What, done, total, number, began. Only ever replaced as a whole, which no other thread can see half done.
_current: tuple[str, int, int, int, float] | None = None
_began: dict[str, tuple[int, float]] = {}  # of each kind the last loop: its number and when it began


def advance(what: str, done: int, total: int) -> None:
    """Say that `done` of `total` units of a loop are done. With 0 a new loop begins."""
    global _current
    if done == 0 or what not in _began:
        number, _ = _began.get(what, (0, 0.0))
        _began[what] = (number + 1, time.monotonic())
    _current = (what, done, total, *_began[what])


def counted(what: str, items: Iterable[T], total: int) -> Iterator[T]:
    """The `items` of a loop that makes `total` of them, each counted as done when it is there."""
    advance(what, 0, total)
    for done, item in enumerate(items, start=1):
        advance(what, done, total)
        yield item


def current() -> Progress | None:
    """How far the loop is that runs now, or ran last; None before the first. For any thread."""
    latest = _current
    if latest is None:
        return None
    what, done, total, number, began = latest
    return Progress(what, done, total, number, time.monotonic() - began)


def clear() -> None:
    """Forget all loops: another piece of work begins."""
    global _current
    _began.clear()
    _current = None
