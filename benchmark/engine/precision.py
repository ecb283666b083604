"""The device that computes, and the precision of its matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bdbench.errors import UsageError

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "bf16", "fp32")


def torch_device(name: str) -> torch.device:
    """The device called "cpu" or "cuda"; "auto" is the GPU where there is one, else the CPU.

    Raises UsageError for another name, and for a GPU that is not there.
    """
    if name not in DEVICES:
        raise UsageError(f"--device {name} is not one of {', '.join(DEVICES)}")
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UsageError("--device cuda: torch finds no GPU here; use --device cpu, or auto")
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    return torch.device(name)


@contextmanager
def autocast(device: torch.device, precision: str, *, weights_stay: bool = True) -> Iterator[None]:
    """The block in which matrix products run in `precision`, "bf16" or "fp32". Weights stay float32.

    PyTorch keeps the bf16 copy of a weight until the outermost such block ends. `weights_stay` says that none changes before
    this block ends, so that a weight that is used twice is copied once. Blocks inside and around it copy for themselves.
    """
    torch.clear_autocast_cache()
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=weights_stay):
            yield
    finally:
        torch.clear_autocast_cache()


def native_precision(device: torch.device) -> str:
    """ "bf16" where the device multiplies bf16 in hardware, else "fp32"."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"
