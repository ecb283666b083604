"""What the loops did that takes time or decides bits, for records."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class Trace:
    """Filled by the training and the prediction loop.

    `seconds` counts those in the two loops, under "training" and "prediction". `kernels` names the kernels that ran in place
    of PyTorch's own, `halved_batches` counts the batches that were cut in halves because they did not fit on the device. Both
    decide how sums are rounded, and so the bits of a result. `trained_rows` counts the rows trained on, as often as they were
    visited, `predicted_rows` those that were classified. `saved_seconds` are those of work that need not
    be done again (`TextMemo`).
    """

    seconds: Counter[str] = field(default_factory=Counter)
    kernels: set[str] = field(default_factory=set)
    halved_batches: int = 0
    trained_rows: int = 0
    predicted_rows: int = 0
    saved_seconds: float = 0.0

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the time that the block takes to `seconds[what]`, less what blocks inside it have added."""
        began, counted_before = time.perf_counter(), self.seconds.total()
        try:
            yield
        finally:
            counted_inside = self.seconds.total() - counted_before
            self.seconds[what] += time.perf_counter() - began - counted_inside
