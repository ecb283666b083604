"""What a record says of the machine and the code, and tracebacks that name no folder of the machine."""

from __future__ import annotations

import getpass
import os
import platform
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import bdbench
from bdbench.engine.trace import Trace
from bdbench.portable import encodable, without_folders
from bdbench.protocol.site import Site
from bdbench.source import SUBPACKAGES, source_digest

LIBRARIES = ("torch", "numpy", "scipy", "transformers", "tokenizers", "wordfreq")
COMMON_USERS = frozenset({"root", "user", "admin", "test", "data", "model", "runner", "worker", "nobody", "python", "ray"})
IS_MAC = sys.platform == "darwin"


def environment(site: Site, trace: Trace | None = None) -> dict[str, Any]:
    """The versions, the machine and, of a piece of work, what its loops did.

    What decides bits beside the spec: "source" (see `source_digest`), the libraries, "device" with the vector instructions of
    a CPU, "threads", "kernels" (those that ran in place of PyTorch's own) and "halved_batches".
    """
    trace = trace or Trace()
    return {
        "bdbench": bdbench.__version__,
        "source": source_digest(),
        **_commit(),
        "python": platform.python_version(),
        **{library: _version(library) for library in LIBRARIES},
        "device": device_name(site.torch_device()),
        "threads": site.threads,
        "kernels": sorted(trace.kernels),
        "halved_batches": trace.halved_batches,
        # of the process, which may have run other cells before
        "peak_memory_mb": round(peak_memory_mb()),
        "ended": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def device_name(device: torch.device) -> str:
    """ "NVIDIA H100 80GB HBM3", or "cpu (x86_64, AVX512)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MiB."""
    with suppress(OSError, ValueError, StopIteration):  # Linux says it at once; getrusage adds up over all threads first
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if IS_MAC else 2**10)


def portable_traceback(error: BaseException, folders: Iterable[Path] = ()) -> str:
    """The traceback of `error`, with no folder and no user of this machine. `folders` are those of the run."""
    text = "".join(traceback.format_exception(error))
    for folder in (Path(bdbench.__file__).parents[1], Path(torch.__file__).parents[1]):
        text = text.replace(f"{folder}{os.sep}", "")
    return encodable(without_folders(text, _known_folders(folders), _user()))


def _known_folders(folders: Iterable[Path]) -> Iterator[Path]:
    """These folders and those that any process has, as they are called and as they are, as far as they can be told."""
    of_process = (Path.home, Path.cwd, tempfile.gettempdir, lambda: sys.prefix, lambda: sys.base_prefix)
    for folder in (*(partial(Path, folder) for folder in folders), *of_process):
        with suppress(OSError, RuntimeError):  # the current folder may be gone, a container's user may have no home
            yield Path(folder()).absolute()
            yield Path(folder()).resolve()


def _user() -> str | None:
    """The name of the user, unless it is one that many machines have and that is a word of its own."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        return None
    return None if user in COMMON_USERS else user


@lru_cache
def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:  # wordfreq on a bare machine: only two plugins need it
        return None


@lru_cache
def _commit() -> dict[str, Any]:
    """The commit of the checkout this code runs from and whether its code differs from it; none for an installed wheel."""
    root = Path(bdbench.__file__).resolve().parents[1]
    code = ["benchmark", *SUBPACKAGES, "pyproject.toml"]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": False}

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *code))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": False}
