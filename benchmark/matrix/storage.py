"""Where a run's files lie: a folder of this machine, or one of an object store or any other file system that has a URI.

A `Place` is a folder of named files. Each appears whole or not at all:

- in a folder of this machine under a temporary name, renamed (see `bdbench.files`);
- in an object store by one put, which nobody sees half done;
- elsewhere under a temporary name, moved.

pyarrow opens the URIs that it knows (s3, gs, abfs, hdfs), fsspec all others. A URI may hold secrets: no message shows its user,
password or query.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from bdbench.files import make_writable, storage_error, sweep, write_whole

T = TypeVar("T")


class Place(Protocol):
    """A folder of files. Its text is what the user typed, without secrets."""

    def at(self, name: str) -> str:
        """Where a file lies, for people."""

    def sub(self, name: str) -> Place:
        """The folder of this name in it."""

    def beside(self, name: str) -> Place:
        """The folder of this name next to it. Raises UsageError for a whole bucket."""

    def absolute(self) -> Place:
        """The same, whatever becomes of the working directory."""

    def prepare(self, flag: str) -> None:
        """Make it, unless it is there. Raises UsageError, naming `flag`, if it cannot be listed or written to."""

    def names(self) -> list[str]:
        """The names in it, sorted. Raises OSError."""

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError, on this machine any OSError, and StorageError if nobody answers."""

    def write(self, name: str, content: bytes) -> str:
        """Write a file, whole, in place of any earlier; returns where. Raises StorageError."""

    def exists(self, name: str) -> bool:
        """Whether anything has this name."""

    def stamp(self, name: str) -> Hashable | None:
        """What changes when a file does; None where nobody can say."""

    def rename(self, name: str, new_name: str) -> None:
        """Raises StorageError."""

    def map(self, function: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
        """The function's values in order, computed several at a time where reading is waiting."""


def place_of(text: str | Path | Place) -> Place:
    """The place at a path or URI. Asks nobody yet whether it is there. Raises UsageError if there can be none."""
    if not isinstance(text, str | Path):
        return text
    if isinstance(text, Path) or not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return LocalPlace(Path(text))
    parts = urlsplit(text)
    if parts.scheme == "file":
        return LocalPlace(Path(unquote(parts.path)))
    from bdbench.matrix.remote_place import opened

    return opened(text)


@dataclass(frozen=True)
class LocalPlace:
    """A folder of this machine, or one that is mounted here."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def at(self, name: str) -> str:
        return str(self.folder / name)

    def sub(self, name: str) -> LocalPlace:
        return LocalPlace(self.folder / name)

    def beside(self, name: str) -> LocalPlace:
        return LocalPlace(self.folder.parent / name)

    def absolute(self) -> LocalPlace:
        return LocalPlace(self.folder.absolute())

    def prepare(self, flag: str) -> None:
        """Removes what killed processes left unfinished, too."""
        make_writable(self.folder, flag)
        sweep(self.folder)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> str:
        return str(write_whole(self.folder / name, lambda stream: stream.write(content)))

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.folder / name)

    def stamp(self, name: str) -> Hashable | None:
        try:
            facts = (self.folder / name).stat()
        except OSError:
            return None
        return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns

    def rename(self, name: str, new_name: str) -> None:
        try:
            (self.folder / name).rename(self.folder / new_name)
        except OSError as error:
            raise storage_error(self.folder / name, error) from error

    def map(self, function: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
        return map(function, names)
