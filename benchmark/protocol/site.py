"""Where and how a machine does the work; no part of it is in a key."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from bdbench.engine.kernels import use_widened_linear
from bdbench.engine.precision import torch_device
from bdbench.plugin_files import PluginFile

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Site:
    """What every process of a run is told, by whoever planned the run.

    - `model` is the folder of the pre-trained model, `data` the directory for the data source "directory".
    - `plugins` are the files given with `--plugin`, with their texts.
    - `threads` is the number of CPU threads of one victim or cell, and `device` is "cpu", "cuda" or "auto". Both decide how
      sums are rounded. So does `widened`: whether linear layers multiply bf16 numbers by float32 instructions (None: each
      process decides by timing). It is decided once per run, so that all its workers give the same bits.
    - `checkpoint` is the folder of a victim that the user brought (None: there is none).
    - `source` is the digest of bdbench's own source where the run was planned (None: it is not compared).
    """

    model: Path
    data: Path | None = None
    plugins: tuple[PluginFile, ...] = ()
    threads: int = 1
    device: str = "auto"
    widened: bool | None = None
    source: str | None = None
    checkpoint: Path | None = None

    def enter(self) -> None:
        """Make the calling process ready: its threads, its kernels, and the plugins from files.

        Raises UsageError if a plugin fails to run.
        """
        torch.set_num_threads(self.threads)
        use_widened_linear(self.widened)
        keep_freed_memory()
        for plugin in self.plugins:
            plugin.load()

    def torch_device(self) -> torch.device:
        return torch_device(self.device)


@lru_cache
def keep_freed_memory() -> None:
    """Have the C library keep what this process frees for its next use, instead of giving it back to the system.

    A training step frees and allocates some hundred megabytes, and the system clears every page that it hands out again. That
    is 5 to 10 % of the bundled model's fine-tuning on texts of 48 pieces, on one core. Does nothing where there is no glibc.
    """
    mallopt = getattr(_c_library(), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest value that glibc allows; setting one of the two freezes both
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # never give back


def give_back_memory() -> None:
    """Give the system back what was freed and kept so far: once after each piece of work.

    Between the blocks of the next one, which have other sizes, it would stay unused, and add up from cell to cell. Does nothing
    without glibc.
    """
    malloc_trim = getattr(_c_library(), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


@lru_cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
