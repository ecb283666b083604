"""The receipt of a finished run: by it the same command sees in a second that there is nothing left to do.

`.finished.json` in the folder of results holds digests of all that the command depended on, and of all that it left. Where each
of them is the same again, planning and reading the records would end as they ended before, so both are left out. Where one
differs, or is not there, everything is done as ever. The file may be deleted at any time.

- What was asked: every flag, the text of every plugin and of every file that a flag names.
- What it was asked of: bdbench's own source, the installed libraries, the processor and GPUs, the environment variables of the
  libraries, and the files of the model and of the data, by size and time of change.
- What was left: every record and table, by content, and the predictions, which are far larger, by size and time of change.

A run that asks the hub, or that may use a plugin installed as a library, gets no receipt: they may have changed unseen.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import bdbench
from bdbench.engine.bundled import BUNDLED_MODELS
from bdbench.errors import StorageError
from bdbench.files import write_whole
from bdbench.machine import devices, libraries, processor, variables
from bdbench.plugin_files import PluginFile
from bdbench.registry import ATTACKS, DEFENSES, TASKS

NAME = ".finished.json"


@dataclass(frozen=True)
class Receipt:
    """What a finished command depended on and left.

    `asked` is a digest (see `asked_digest`). `sources` are the files and folders that its model and data were read from, with
    the digest of their state; `records` and `tables` are digests of what was left. `cells` is the number of its cells and
    `warnings` what its plan warned of.
    """

    asked: str
    sources: Mapping[str, str]
    cells: int
    warnings: Sequence[str]
    records: str = ""
    tables: Mapping[str, str] = field(default_factory=dict)

    def holds(self, folder: Path, asked: str) -> bool:
        """Whether the same is asked of the same, and all that was left is still in `folder`, as it was left."""
        try:
            return (
                self.asked == asked
                and all(state_of(Path(path)) == state for path, state in self.sources.items())
                and all(_content(folder / name) == digest for name, digest in self.tables.items())
                and records_digest(folder) == self.records
            )
        except OSError:
            return False

    def write(self, folder: Path) -> None:
        """Write it; a disk that has no room for it loses nothing."""
        with suppress(StorageError):
            write_whole(folder / NAME, lambda stream: stream.write((json.dumps(asdict(self), indent=1) + "\n").encode()))


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt in the folder of a run; None if there is none that can be read."""
    try:
        return Receipt(**json.loads((folder / NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def asked_digest(flags: Mapping[str, Any]) -> str | None:
    """A digest of a command's flags and of the code, the libraries and the machine that answer; None for one without receipt.

    Raises UsageError for a plugin that cannot be read.
    """
    models = (flags.get("model"), flags.get("base"))
    is_local = flags.get("data") != "hub" and all(
        model in (None, *BUNDLED_MODELS) or _is(Path.is_dir, model) for model in models
    )
    if not is_local or any(registry.installed() for registry in (ATTACKS, DEFENSES, TASKS)):
        return None
    plugins = [PluginFile.read(file) for file in flags.get("plugin") or ()]
    values = itertools.chain.from_iterable(value if isinstance(value, list) else [value] for value in flags.values())
    named = [Path(value) for value in values if isinstance(value, str | Path) and _is(Path.is_file, value)]
    facts = {
        "flags": {name: repr(value) for name, value in flags.items()},
        "folder": os.getcwd(),
        "plugins": [(plugin.digest, list(map(str, plugin.shadowed))) for plugin in plugins],
        "files": [_content(file) for file in named],
        "code": _code_digest(),
        "libraries": libraries(),
        "python": (sys.version, sys.prefix, sys.path),
        "machine": (platform.machine(), processor(), sorted(map(str, devices()))),
        "variables": variables(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def states_of(paths: Iterable[Path]) -> dict[str, str] | None:
    """The state of every path; None if one cannot be read."""
    try:
        return {str(path): state_of(path) for path in paths}
    except OSError:
        return None


def state_of(path: Path) -> str:
    """A digest of the names, sizes and times of change of a file, or of all files below a folder. Raises OSError."""
    digest = hashlib.sha256()
    for file in _files_below(path) if path.is_dir() else [path]:
        facts = file.stat()
        digest.update(
            f"{file}\0{facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those in it, linked ones too, each folder once: a link may lead back up. Raises OSError."""
    entered: set[tuple[int, int]] = set()
    for home, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        facts = os.stat(home)
        if (facts.st_dev, facts.st_ino) in entered:
            folders.clear()
            continue
        entered.add((facts.st_dev, facts.st_ino))
        folders.sort()  # the order in which they are entered
        yield from (Path(home, name) for name in sorted(names))


def _raise(error: OSError) -> None:
    raise error


def records_digest(folder: Path) -> str:
    """A digest of the names and contents of all records of a run and of its kept tuned files, and of the predictions' state."""
    digest = hashlib.sha256()
    for sub in ("records", "tuned"):
        names = sorted(file.name for file in (folder / sub).glob("*.json"))
        for name in names:
            digest.update(f"{sub} {name} {_content(folder / sub / name)}\n".encode(errors="surrogateescape"))
    if (folder / "predictions").is_dir():
        digest.update(state_of(folder / "predictions").encode())
    return digest.hexdigest()


def table_digests(folder: Path, tables: Iterable[Path]) -> dict[str, str]:
    """The digest of every table, by its path within the folder of the run."""
    return {str(table.relative_to(folder)): _content(table) for table in tables}


def _content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _is(kind: Callable[[Path], bool], value: str | Path) -> bool:
    try:
        return kind(Path(value))
    except (OSError, ValueError):  # a text too long for a file's name, or with a zero byte
        return False


def _code_digest() -> str:
    """Of all of bdbench: tables hang on every part of it."""
    digest = hashlib.sha256()
    packages = (bdbench, *(importlib.import_module(f"bdbench.{kind}") for kind in ("attacks", "defenses", "tasks")))
    for folder in (Path(folder) for package in packages for folder in package.__path__):
        for file in sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"):
            digest.update(f"{file.relative_to(folder)} {_content(file)}\n".encode())
    return digest.hexdigest()
