"""What code can change of PyTorch for the whole process, and how to put it back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.optim.optimizer
from torch.nn.modules import module as torch_modules


@dataclass(frozen=True)
class Setting:
    """One thing of the process: what a message calls it, and whether numbers that are computed later hang on it."""

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    decides: bool = False


def attributes(*places: tuple[Any, str]) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Reading and restoring attributes, given as (object, name)."""

    def read() -> list[Any]:
        return [getattr(place, name) for place, name in places]

    def restore(values: list[Any]) -> None:
        for (place, name), value in zip(places, values, strict=True):
            setattr(place, name, value)

    return read, restore


_inference_modes: list[torch.inference_mode] = []  # a mode ends when its object is collected


def _restore_inference_mode(enabled: bool) -> None:
    _inference_modes.append(torch.inference_mode(enabled))
    _inference_modes[-1].__enter__()


def _read_default_device() -> tuple[torch.device, int]:
    return torch.get_default_device(), torch._C._len_torch_function_stack()


def _restore_default_device(before: tuple[torch.device, int]) -> None:
    device, modes = before
    torch.set_default_device(None)
    while torch._C._len_torch_function_stack() > modes:  # a `with torch.device(...)` that was never left
        torch._C._pop_torch_function_stack()
    if torch.get_default_device() != device:
        torch.set_default_device(device)


def _restore_deterministic(before: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _matmul_precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # PyTorch's newer flags were set to what the older one cannot say
        return None


# PyTorch's newer flags for the precision of float32 products; an older PyTorch lacks them.
_PRECISIONS = [
    (place, "fp32_precision")
    for place in (
        torch.backends,
        torch.backends.cuda.matmul,
        torch.backends.cudnn,
        *(getattr(torch.backends.cudnn, name, None) for name in ("conv", "rnn")),
        torch.backends.mkldnn,
        *(getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv", "rnn")),
    )
    if hasattr(place, "fp32_precision")
] or [(torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")]
_read_precisions, _restore_precisions = attributes(*_PRECISIONS)


def _read_float32_precision() -> tuple[str | None, list[Any]]:
    return _matmul_precision(), _read_precisions()


def _restore_float32_precision(before: tuple[str | None, list[Any]]) -> None:
    if before[0] is not None:
        torch.set_float32_matmul_precision(before[0])
    _restore_precisions(before[1])


_ATTENTION_KERNELS = ("flash", "mem_efficient", "math", "cudnn")


def _read_attention_kernels() -> list[bool]:
    return [getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")() for kernel in _ATTENTION_KERNELS]


def _restore_attention_kernels(before: list[bool]) -> None:
    for kernel, enabled in zip(_ATTENTION_KERNELS, before, strict=True):
        getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(enabled)


def _autocast_depth() -> int:
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _read_autocast() -> tuple[Any, ...]:
    by_device = [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")]
    return by_device, torch.is_autocast_cache_enabled(), _autocast_depth()


def _restore_autocast(before: tuple[Any, ...]) -> None:
    by_device, cached, depth = before
    for device, (enabled, dtype) in zip(("cpu", "cuda"), by_device, strict=True):
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(cached)
    while _autocast_depth() > depth:
        torch.autocast_decrement_nesting()
    while _autocast_depth() < depth:
        torch.autocast_increment_nesting()
    torch.clear_autocast_cache()


_HOOKS = [
    (place, name)
    for place in (torch_modules, sys.modules["torch.optim.optimizer"])
    for name, value in vars(place).items()
    if name.startswith("_global_") and isinstance(value, dict)
]


def _read_hooks() -> list[dict[Any, Any]]:
    return [dict(getattr(place, name)) for place, name in _HOOKS]


def _restore_hooks(before: list[dict[Any, Any]]) -> None:
    for (place, name), hooks in zip(_HOOKS, before, strict=True):
        there = getattr(place, name)
        there.clear()
        there.update(hooks)


def _flushes_denormals() -> bool:
    return sys.float_info.min / 2 == 0.0


TORCH_SETTINGS = (
    Setting("inference mode", torch.is_inference_mode_enabled, _restore_inference_mode, decides=True),  # sets the next one
    Setting("whether gradients are computed", torch.is_grad_enabled, torch.set_grad_enabled, decides=True),
    Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype, decides=True),
    Setting("the default device", _read_default_device, _restore_default_device, decides=True),
    Setting("the number of threads", torch.get_num_threads, torch.set_num_threads, decides=True),
    Setting(
        "deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _restore_deterministic,
        decides=True,
    ),
    Setting("the float32 precision", _read_float32_precision, _restore_float32_precision, decides=True),
    Setting(
        "the flags of cuDNN or oneDNN",
        *attributes(
            *((torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
            (torch.backends.mkldnn, "enabled"),
        ),
        decides=True,
    ),
    Setting("the attention kernels", _read_attention_kernels, _restore_attention_kernels, decides=True),
    Setting("autocast", _read_autocast, _restore_autocast, decides=True),
    Setting("denormal numbers", _flushes_denormals, torch.set_flush_denormal, decides=True),
    Setting("global hooks of modules or optimizers", _read_hooks, _restore_hooks, decides=True),
    Setting("anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)
