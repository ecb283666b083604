"""What was found out about a model, kept in the user's cache folder, so that the next process need not find it out again.

An entry is the answer to one question in the same circumstances: bdbench's source, the installed libraries, Python, the
processor, and the environment variables that the libraries read. Entries may be deleted at any time.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from bdbench.engine.bundled import cache_folder
from bdbench.errors import StorageError, UsageError
from bdbench.files import sweep, write_whole
from bdbench.machine import libraries, processor, variables
from bdbench.source import source_digest
from bdbench.specs.keys import digest_of

Answer = TypeVar("Answer")

FOLDER = "findings"
KEPT_SECONDS = 90 * 24 * 3600  # an entry of an older version of anything is never asked for again


def find_out(question: Mapping[str, Any], answer: Callable[[], Answer]) -> Answer:
    """The kept answer, or what `answer` returns, which is kept from then on. Both are JSON.

    The `question` names, by digests, all that decides the answer but the circumstances. What `answer` raises passes, and is not
    kept. An entry that is damaged or cannot be read is as none, and so is one that cannot be written.
    """
    key = digest_of({"question": question, "circumstances": [*_lasting_circumstances(), variables()]})
    try:
        file = cache_folder("bundled") / FOLDER / f"{key}.json"
    except UsageError:  # there is no home folder
        return answer()
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        entry = json.loads(file.read_text(encoding="utf-8"))
        if entry["check"] == digest_of([key, entry["answer"]]):
            return entry["answer"]
    fresh = answer()
    _keep(file, {"answer": fresh, "check": digest_of([key, fresh])})
    return fresh


@lru_cache
def _lasting_circumstances() -> tuple[Any, ...]:
    """Those that stay while this process lives."""
    return source_digest(), libraries(), sys.version, platform.machine(), processor()


def _keep(file: Path, entry: Mapping[str, Any]) -> None:
    with suppress(OSError, StorageError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda stream: stream.write(json.dumps(entry).encode()))
        sweep(file.parent)
        for other in file.parent.glob("*.json"):
            if time.time() - other.stat().st_mtime > KEPT_SECONDS:
                other.unlink()
