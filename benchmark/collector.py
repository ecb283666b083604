"""Python's search for garbage, left out where there is none."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage() -> Iterator[None]:
    """A block, or a function, in which Python does not search for garbage.

    Importing PyTorch and transformers makes hardly any, and the search takes a fifth of the time. What is not part of a circle
    is freed at once, as ever.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            _grow_old()
            gc.enable()


def keep_all() -> None:
    """Never again search what there is by now for garbage. It is for a process of bdbench's own: it is freed when that ends."""
    gc.freeze()


def _grow_old() -> None:
    """Have the next search pass over what there is by now: it would take a quarter of a second, and another one soon after.

    What Python calls the oldest generation is searched when there is much more of it.
    """
    if gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()  # into the oldest generation
