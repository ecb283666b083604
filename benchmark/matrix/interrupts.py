"""Ctrl-C and the request to end (SIGTERM), which wait while a result is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

EXIT_STATUS = 128  # and the number of the signal, as shells have it


class Interrupts:
    """While it is entered, either signal raises KeyboardInterrupt, but not inside a block `held`.

    `number` is the signal that came, None as long as none has. Outside the main thread nothing changes.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._is_held = False
        self._earlier: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # A process in the background of a shell without job control ignores SIGINT, and goes on ignoring it.
            numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) != signal.SIG_IGN]
            self._earlier = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    @property
    def exit_status(self) -> int:
        """The exit status of a run that ended so; 130 for Ctrl-C."""
        return EXIT_STATUS + (self.number or signal.SIGINT)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that ends before a signal is heeded."""
        self._is_held, came_before = True, self.number
        try:
            yield
        finally:
            self._is_held = False
        if self.number != came_before:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if not self._is_held:
            raise KeyboardInterrupt
