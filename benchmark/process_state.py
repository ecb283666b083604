"""What code can change for the whole process, and how to put it back. Importing this imports torch."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.optim.optimizer
from numpy.random import MT19937, SeedSequence
from torch.nn.modules import module as torch_modules


@dataclass(frozen=True)
class Setting:
    """One thing of the process: what a message calls it, and whether numbers that are computed later hang on it."""

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    decides: bool = False


def read_settings() -> list[Any]:
    """The values of `SETTINGS`, for `put_back`."""
    return [setting.read() for setting in SETTINGS]


def put_back(values: list[Any]) -> list[str]:
    """Restore what differs from `values`; the names of what numbers hang on and differed."""
    changed = []
    for setting, value in zip(SETTINGS, values, strict=True):
        if setting.read() != value:
            setting.restore(value)
            changed += [setting.name] if setting.decides else []
    return changed


@dataclass(frozen=True)
class RandomState:
    """The state of Python's, NumPy's and PyTorch's global random generators."""

    python: Any
    bit_generator: Any
    numpy: Any
    torch: torch.Tensor
    cuda: list[torch.Tensor]

    @classmethod
    def read(cls) -> RandomState:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        bit_generator = np.random.get_bit_generator()
        return cls(random.getstate(), bit_generator, np.random.get_state(legacy=False), torch.get_rng_state(), cuda)

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_bit_generator(self.bit_generator)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


def seed_random(seed: int) -> Callable[[], list[str]]:
    """Seed all global random generators. Returns a function that names those that have been seeded anew since.

    Drawing does not count as that: a new `nn.Linear` draws its weights. Only of `random.gauss` it cannot be told.
    """
    random.seed(seed)
    random.gauss(0, 1)  # leaves the second number of the pair behind, which `random.seed` throws away
    second_number = random.getstate()[2]
    bit_generator = MT19937(SeedSequence(seed))
    np.random.set_bit_generator(bit_generator)
    np.random.set_state({**np.random.get_state(legacy=False), "has_gauss": 0, "gauss": 0.0})
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)

    def seeded_anew() -> list[str]:
        now = np.random.get_bit_generator()
        found = {
            "random": random.getstate()[2] != second_number,
            "numpy.random": now is not bit_generator or now.seed_seq is None,
            "torch": torch.initial_seed() != seed,
        }
        return [name for name, anew in found.items() if anew]

    return seeded_anew


def _attributes(*places: tuple[Any, str]) -> tuple[Callable[[], Any], Callable[[Any], None]]:
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
_read_precisions, _restore_precisions = _attributes(*_PRECISIONS)


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


def _read_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _restore_folder(before: str | None) -> None:
    if before is not None:
        os.chdir(before)


def _restore_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


_SIGNALS = [
    getattr(signal, f"SIG{name}")
    for name in ("INT", "TERM", "HUP", "QUIT", "ALRM", "PIPE", "CHLD", "USR1", "USR2")
    if hasattr(signal, f"SIG{name}")
]


def _read_signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _restore_signals(before: dict[int, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)


def _alarm_is_set() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _restore_alarm(before: bool) -> None:
    if not before:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read_warnings() -> tuple[Any, ...]:
    return warnings.showwarning, warnings.filters, list(warnings.filters)


def _restore_warnings(before: tuple[Any, ...]) -> None:
    warnings.showwarning, warnings.filters, filters = before
    warnings.resetwarnings()  # has what was warned of before looked up anew
    warnings.filters.extend(filters)


def _read_logging() -> tuple[int, int, list[Any]]:
    return logging.root.level, logging.root.manager.disable, list(logging.root.handlers)


def _restore_logging(before: tuple[int, int, list[Any]]) -> None:
    level, disabled, logging.root.handlers[:] = before
    logging.root.setLevel(level)
    logging.disable(disabled)


def _restore_collector(before: bool) -> None:
    (gc.enable if before else gc.disable)()


SETTINGS = (
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
        *_attributes(
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
    Setting("NumPy's handling of errors", np.geterr, lambda before: np.seterr(**before)),
    Setting("the working directory", _read_folder, _restore_folder),
    Setting("the environment", lambda: dict(os.environ), _restore_environment),
    Setting("the import path", lambda: list(sys.path), lambda before: setattr(sys, "path", before)),
    Setting("the streams", *_attributes((sys, "stdin"), (sys, "stdout"), (sys, "stderr"), (sys, "argv"))),
    Setting("signal handlers", _read_signals, _restore_signals),
    Setting("the alarm", _alarm_is_set, _restore_alarm),
    Setting("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda before: locale.setlocale(locale.LC_ALL, before)),
    Setting("the file mode mask", _read_umask, os.umask),
    Setting("warnings", _read_warnings, _restore_warnings),
    Setting("logging", _read_logging, _restore_logging),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("garbage collection", gc.isenabled, _restore_collector),
)
