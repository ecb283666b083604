"""A bar on standard error for one piece of work in several parts; nothing where that is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bdbench.suspects.insertion import Progress


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A block with a function that is told what is done, how much of it, and of how much."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
