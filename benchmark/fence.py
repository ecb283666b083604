"""A fence around plugin code: what it does harms its own cell or victim alone, in this process as in a Ray worker.

It is no sandbox. Code that ends the process (`os._exit`) or replaces functions of a library is beyond it.
Importing this imports torch.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial

from bdbench.errors import OutOfTime, UsageError
from bdbench.process_state import put_back, read_settings
from bdbench.random_state import RandomState, seed_random
from bdbench.seeds import derive

MOMENT = 1.0  # seconds in which a thread that was told to end does


class PluginFault(UsageError):
    """Plugin code did what would have harmed others. While a run is planned this is bad input, later it is a failed cell."""


@contextmanager
def fenced(owner: str, seed: int, *, importing: bool = False) -> Iterator[None]:
    """Run the code of the plugin called `owner` in the block.

    - What it raises as an Exception passes. What else it raises (SystemExit, its own KeyboardInterrupt, ...) becomes a
      PluginFault. A Ctrl-C of the user passes, even where the plugin swallows it.
    - The settings of the process are put back afterwards. Where numbers hang on them the change is a PluginFault, too.
    - Python's, NumPy's and PyTorch's global random states are seeded from `seed`, and put back afterwards. Seeding them anew is
      a PluginFault (but not while a file is imported), since the result would not follow from the seed of the run.
    - `sys.argv` is its name alone, and what it prints goes to standard error: standard output is data.
    """
    values, random_state, threads = read_settings(), RandomState.read(), set(threading.enumerate())
    interrupts: list[int] = []
    _notice_interrupts(interrupts)
    sys.argv = [owner]
    seeded_anew = seed_random(derive(seed, "global random state"))
    try:
        try:
            with _printing_to_stderr():
                yield
        finally:
            seeded = seeded_anew()
            random_state.restore()
            changed = put_back(values)
    except BaseException as error:
        if interrupts:
            raise KeyboardInterrupt from error
        if isinstance(error, (Exception, OutOfTime)):
            raise
        raise PluginFault(_described(owner, error)) from error
    if interrupts:
        raise KeyboardInterrupt
    left = [thread.name for thread in _started_since(threads) if _goes_on(thread)]
    if left:
        warnings.warn(f"{owner} left threads running, which keep the process from ending: {', '.join(left)}", stacklevel=3)
    if changed:
        raise PluginFault(
            f"{owner} changed {', '.join(changed)} for the whole process (this was put back); change it for your own code "
            "alone, in a with block, or put it back before you return"
        )
    if seeded and not importing:
        raise PluginFault(
            f"{owner} seeded the global random state of {', '.join(seeded)} anew; draw from ctx.generator, or leave the seed "
            "that bdbench set, which follows from the run's"
        )


@contextmanager
def refusing(owner: str) -> Iterator[None]:
    """Run plugin code in the block while a run is planned: whatever it raises is a UsageError of one line.

    What it prints is shown on standard error if it ends well.
    """
    printed = io.StringIO()
    try:
        with fenced(owner, seed=0, importing=True), redirect_stdout(printed), redirect_stderr(printed):
            yield
    except PluginFault as error:
        last_line = printed.getvalue().strip().rpartition("\n")[2]
        raise PluginFault(f"{error}; its last words: {last_line}" if last_line else str(error)) from error
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{owner}: fails to run: {type(error).__name__}: {' '.join(str(error).split())}") from error
    print(printed.getvalue(), end="", file=sys.stderr)


def _started_since(threads: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in threads and not thread.daemon]


def _goes_on(thread: threading.Thread) -> bool:
    """Whether the thread still runs after a moment: transformers loads weights in a pool whose end it does not wait for."""
    thread.join(MOMENT)
    return thread.is_alive()


def _described(owner: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"{owner} called sys.exit({error.code!r}), which would have ended the run; let it return, or raise an exception"
    if isinstance(error, KeyboardInterrupt):
        return f"{owner} raised KeyboardInterrupt, but nobody interrupted the run; let it raise another exception"
    return f"{owner} raised {type(error).__name__} ({error}), which is no Exception; let it raise one"


def _notice_interrupts(interrupts: list[int]) -> None:
    """Have every Ctrl-C, and every request to end, noted in `interrupts` if the handler in place takes it for one."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, partial(_note, interrupts, handler))


def _note(interrupts: list[int], handler: Callable[[int, object], object], number: int, frame: object) -> None:
    try:
        handler(number, frame)
    except KeyboardInterrupt:
        interrupts.append(number)
        raise


@contextmanager
def _printing_to_stderr() -> Iterator[None]:
    """Standard output goes to standard error, also that of C code and of programs that are started. sys.stdout stays so."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    with suppress(Exception):  # it may be closed
        stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        with suppress(Exception):  # what was printed to sys.__stdout__
            stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
