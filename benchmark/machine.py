"""What of the machine and of what is installed can change an answer that was found before."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

VARIABLES = ("HF_", "TRANSFORMERS_", "CUDA", "NVIDIA", "TORCH", "PYTORCH", "ATEN", "DNNL", "ONEDNN", "MKL", "OMP", "PYTHON")

DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dri/render*")


def libraries() -> list[str]:
    """The names and versions of all that is installed, as the names of their folders of metadata."""
    places = [Path(place) for place in dict.fromkeys(sys.path) if place]
    return sorted(info.name for place in places if place.is_dir() for info in place.glob("*-info"))


def processor() -> str:
    """What Linux says of the first processor, its vector instructions among it; elsewhere its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))


def variables() -> list[tuple[str, str]]:
    """The environment variables that the libraries read, sorted."""
    return sorted((name, value) for name, value in os.environ.items() if name.startswith(VARIABLES))


def devices() -> list[Path]:
    """The files of what may be GPUs."""
    return [device for pattern in DEVICES for device in Path("/").glob(pattern.removeprefix("/"))]
