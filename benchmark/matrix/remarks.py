"""Warnings of a step, caught where it runs, so that they reach the terminal from any process."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from bdbench.errors import in_one_line

LOGGER = "bdbench"


class _Collector(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(in_one_line(record.getMessage()))


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Yields a list that gets what the block warns of, a line each: bdbench's own log, and Python's `warnings`.

    None of it is shown in the process itself.
    """
    texts: list[str] = []
    logger, collector = logging.getLogger(LOGGER), _Collector(texts)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield texts
        texts += [f"{warning.category.__name__}: {in_one_line(str(warning.message))}" for warning in caught]
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagates
