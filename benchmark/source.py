"""The digest of bdbench's own source: what of it can decide a number."""

from __future__ import annotations

import hashlib
import importlib
from functools import lru_cache
from pathlib import Path

import bdbench

# What decides no number: how work is spread over machines, what is made of records, and who calls.
NOT_DECIDING = ("matrix", "analysis", "reports", "api", "suspects", "testing", "cli", "perf")
SUBPACKAGES = ("attacks", "defenses", "tasks")


@lru_cache
def source_digest() -> str:
    """SHA-256, in hex, of all of bdbench's source that can decide a number, as this process found it on its first call.

    It is the same for a checkout and for an installed wheel.
    """
    root = Path(bdbench.__file__).parent
    files = {
        file.relative_to(root).as_posix(): file
        for file in root.rglob("*.py")
        if file.relative_to(root).parts[0] not in NOT_DECIDING
    }
    for name in SUBPACKAGES:  # in a checkout they lie beside the package's folder
        (folder,) = importlib.import_module(f"bdbench.{name}").__path__
        files |= {f"{name}/{file.relative_to(folder).as_posix()}": file for file in Path(folder).rglob("*.py")}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {hashlib.sha256(files[name].read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
