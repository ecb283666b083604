"""Reading and writing whole files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> Path:
    """Let `fill` write the file under a temporary name, then rename it: a reader sees the old file or the new one, whole."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as stream:
        try:
            fill(stream)
        except BaseException:
            os.unlink(stream.name)
            raise
    os.chmod(stream.name, 0o644)  # a temporary file is its owner's alone
    os.replace(stream.name, path)
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
