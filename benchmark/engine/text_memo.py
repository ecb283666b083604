"""Numbers that hang on a text alone: computed once for all victims, cells and runs of a user, and kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bdbench.engine.bundled import cache_folder
from bdbench.errors import StorageError, UsageError
from bdbench.files import sweep, write_whole

FOLDER = "texts"  # in the cache folder
SECONDS_BETWEEN_FILES = 5.0  # what a killed process loses, and what two that work on the same texts may both compute
DIGITS = 32  # of a digest's 64: of identities, texts and files


class TextMemo:
    """The numbers of one `identity`, a text that names all that decides them beside the text that they belong to.

    They lie in a folder, one file for what a process computed in some seconds, and each number with the seconds that it took.
    A folder that cannot be written to is done without.
    """

    def __init__(self, identity: str) -> None:
        self._numbers: dict[str, tuple[npt.NDArray[np.float64], float]] = {}
        self._files_read: set[str] = set()
        self._folder: Path | None = None
        with suppress(UsageError, OSError):
            folder = cache_folder(FOLDER) / FOLDER / _digest(identity)
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            self._folder = folder

    def of(
        self, texts: Sequence[str], compute: Callable[[str], npt.NDArray[np.float64]]
    ) -> tuple[list[npt.NDArray[np.float64]], float]:
        """What `compute` gives for each text, (m,) float64 each; and the seconds that were saved, not spent here."""
        self._read()
        keys = [_digest(text) for text in texts]
        text_by_key = dict(zip(keys, texts, strict=True))
        saved = sum(self._numbers[key][1] for key in text_by_key if key in self._numbers)
        # In an order of this process alone: another one with the same texts will have begun with others.
        missing = sorted(text_by_key.keys() - self._numbers.keys())
        random.Random(os.getpid()).shuffle(missing)
        unwritten: list[str] = []
        written = time.monotonic()
        for key in missing:
            if key in self._numbers:  # by another process, meanwhile
                saved += self._numbers[key][1]
                continue
            began = time.perf_counter()
            numbers = np.asarray(compute(text_by_key[key]), dtype=np.float64)
            self._numbers[key] = numbers, time.perf_counter() - began
            unwritten.append(key)
            if time.monotonic() - written > SECONDS_BETWEEN_FILES:
                self._write(unwritten)
                self._read()
                unwritten, written = [], time.monotonic()
        if unwritten:
            self._write(unwritten)
        return [self._numbers[key][0] for key in keys], saved

    def _read(self) -> None:
        """What other processes wrote since. A file that is not what its name says is as good as none."""
        for path in self._folder.glob("*.json") if self._folder else ():
            if path.name not in self._files_read:
                self._files_read.add(path.name)
                with suppress(OSError):
                    content = path.read_bytes()
                    if path.name == _file_name(content):
                        for key, (seconds, *numbers) in json.loads(content).items():
                            self._numbers.setdefault(key, (np.array(numbers, dtype=np.float64), seconds))

    def _write(self, keys: Sequence[str]) -> None:
        if self._folder is not None:
            values = {key: [self._numbers[key][1], *self._numbers[key][0].tolist()] for key in keys}
            content = json.dumps(values).encode()
            self._files_read.add(_file_name(content))
            with suppress(StorageError):
                write_whole(self._folder / _file_name(content), lambda stream: stream.write(content))


@lru_cache(maxsize=4)
def text_memo(identity: str) -> TextMemo:
    """The one of this process."""
    return TextMemo(identity)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _file_name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:DIGITS]}.json"
