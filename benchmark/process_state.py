"""What code can change for the whole process, and how to put it back. Importing this imports torch."""

from __future__ import annotations

import gc
import locale
import logging
import os
import signal
import sys
import threading
import warnings
from typing import Any

import numpy as np

from bdbench.torch_state import TORCH_SETTINGS, Setting, attributes


def read_settings() -> list[Any]:
    """The values of `SETTINGS`, for `put_back`."""
    return [setting.read() for setting in SETTINGS]


def put_back(values: list[Any]) -> list[str]:
    """Restore what differs from `values`; the names of what numbers hang on and differed."""
    changed = []
    for setting, value in zip(SETTINGS, values, strict=True):
        if setting.read() != value:
            setting.restore(value)
            changed += [setting.name] if setting.decides else []
    return changed


def _read_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _restore_folder(before: str | None) -> None:
    if before is not None:
        os.chdir(before)


def _restore_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


_SIGNALS = [
    getattr(signal, f"SIG{name}")
    for name in ("INT", "TERM", "HUP", "QUIT", "ALRM", "PIPE", "CHLD", "USR1", "USR2")
    if hasattr(signal, f"SIG{name}")
]


def _read_signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _restore_signals(before: dict[int, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)


SOON = 0.01  # seconds


def _alarm_is_set() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _restore_alarm(before: bool) -> None:
    """An alarm that was taken away rings at once: whoever set it can tell whether it is too early."""
    signal.setitimer(signal.ITIMER_REAL, SOON if before else 0)


def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read_warnings() -> tuple[Any, ...]:
    return warnings.showwarning, warnings.filters, list(warnings.filters)


def _restore_warnings(before: tuple[Any, ...]) -> None:
    warnings.showwarning, warnings.filters, filters = before
    warnings.resetwarnings()  # has what was warned of before looked up anew
    warnings.filters.extend(filters)


def _read_logging() -> tuple[int, int, list[Any]]:
    return logging.root.level, logging.root.manager.disable, list(logging.root.handlers)


def _restore_logging(before: tuple[int, int, list[Any]]) -> None:
    level, disabled, logging.root.handlers[:] = before
    logging.root.setLevel(level)
    logging.disable(disabled)


def _restore_collector(before: bool) -> None:
    (gc.enable if before else gc.disable)()


SETTINGS = (
    *TORCH_SETTINGS,
    Setting("NumPy's handling of errors", np.geterr, lambda before: np.seterr(**before)),
    Setting("the working directory", _read_folder, _restore_folder),
    Setting("the environment", lambda: dict(os.environ), _restore_environment),
    Setting("the import path", lambda: list(sys.path), lambda before: setattr(sys, "path", before)),
    Setting("the streams", *attributes((sys, "stdin"), (sys, "stdout"), (sys, "stderr"), (sys, "argv"))),
    Setting("signal handlers", _read_signals, _restore_signals),
    Setting("the alarm", _alarm_is_set, _restore_alarm),
    Setting("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda before: locale.setlocale(locale.LC_ALL, before)),
    Setting("the file mode mask", _read_umask, os.umask),
    Setting("warnings", _read_warnings, _restore_warnings),
    Setting("logging", _read_logging, _restore_logging),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("garbage collection", gc.isenabled, _restore_collector),
)
