"""What travels to machines that share no folder with the driver: the files of models and of a task, and victims.

Files travel by name, as bytes. On each machine they lie in one temporary folder of the run, which its processes there share.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bdbench.engine.models import HUB_FILES, find_model
from bdbench.files import unfinished
from bdbench.matrix.worker import Worker
from bdbench.protocol.paired_texts import paired_files
from bdbench.protocol.split_files import SPLITS, files_of_split

Files = Mapping[str, bytes]

FOLDERS = "bdbench-node-"
OLD_SECONDS = 7 * 24 * 3600  # what a run that was killed left behind is removed after a week


@dataclass(frozen=True)
class Luggage:
    """What a process of a run brings to its machine.

    - `model` is a name by which each machine finds the model itself ("bundled", or one of the Hugging Face hub), with the
      `digest` of its weights; None if its files travel.
    - `model_files`, `data_files` and `checkpoint_files` are what travels, or None. They are references of Ray's, which `fetch`
      resolves.
    - `token` names the run's folder on every machine.
    """

    model: str | None
    digest: str
    model_files: Any = None
    data_files: Any = None
    checkpoint_files: Any = None
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def folder(self) -> Path:
        """The run's folder on this machine."""
        return Path(tempfile.gettempdir()) / f"{FOLDERS}{self.token}"

    def settle(self, worker: Worker, fetch: Callable[[Any], Files]) -> Worker:
        """The worker for this machine: with the model, the data and the folder of victims that lie here.

        Raises UsageError if the model is not here.
        """
        sweep_old()
        home = self.folder
        home.mkdir(parents=True, exist_ok=True)
        site = worker.site
        if self.model is not None:
            site = replace(site, model=find_model(self.model, self.digest).folder)
        elif self.model_files is not None:
            site = replace(site, model=unpack(lambda: fetch(self.model_files), home / "model"))
        if self.data_files is not None:
            site = replace(site, data=unpack(lambda: fetch(self.data_files), home / "data"))
        if self.checkpoint_files is not None:
            site = replace(site, checkpoint=unpack(lambda: fetch(self.checkpoint_files), home / "checkpoint"))
        return replace(worker, site=site, victims=home / "victims", folder=home)


def pack(folder: Path, files: Iterable[Path]) -> Files:
    """The files' contents by their paths below `folder`."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def model_files(folder: Path) -> list[Path]:
    """What a model's folder needs to be that model elsewhere: configuration, weights, tokenizer."""
    return sorted(
        file for file in folder.iterdir() if file.is_file() and any(fnmatch(file.name, pattern) for pattern in HUB_FILES)
    )


def data_files(folder: Path, tasks: Iterable[str]) -> list[Path]:
    """The files of all splits of these tasks in a data directory, and those of texts that were poisoned elsewhere."""
    of_splits = [file for task in tasks for split in SPLITS for file in files_of_split(folder, task, split)]
    return [*of_splits, *(file for task in tasks for file in paired_files(folder, task))]


def unpack(fetch: Callable[[], Files], home: Path) -> Path:
    """`home`, after the files are in it, whole: they are fetched unless another process has put them there."""
    if home.exists():
        return home
    work = unfinished(home.parent)
    try:
        for name, content in fetch().items():
            file = work / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        with suppress(OSError):  # another process was quicker
            os.rename(work, home)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return home


def sweep_old() -> None:
    """Remove the folders of runs that were killed on this machine long ago."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > OLD_SECONDS:
                shutil.rmtree(folder)
