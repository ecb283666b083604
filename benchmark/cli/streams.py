"""Standard output and standard error that do not mind when their reader goes away: `bdbench run 2>&1 | head`."""

from __future__ import annotations

import io
import os
import sys

from bdbench.errors import StorageError


class Unread(io.TextIOWrapper):
    """A text stream. From the moment its reader is gone, what is written to it goes nowhere, without an error.

    The work goes on: records are worth more than the display of how they come.
    """

    forgiven: type[OSError] = BrokenPipeError

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        """Point the file descriptor at the null device, for child processes and for what is buffered, too.

        Raises StorageError unless `error` is forgiven.
        """
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not isinstance(error, self.forgiven):
            raise StorageError(f"standard output cannot be written to ({error.strerror})") from error


class UnreadDisplay(Unread):
    """The same of a display. A terminal that was closed or a full disk under its log ends no work either."""

    forgiven = OSError


def survive_readers() -> None:
    """Replace the process's own standard output and standard error by streams that survive their readers."""
    for name, kind in (("stdout", Unread), ("stderr", UnreadDisplay)):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper and stream is getattr(sys, f"__{name}__"):
            survivor = kind(stream.detach(), encoding=stream.encoding, errors=stream.errors, line_buffering=True)
            setattr(sys, name, survivor)
            setattr(sys, f"__{name}__", survivor)
