"""How many workers run at a time: as many as there are cores, or fewer where memory does not hold them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bdbench.engine.folders import count_weights
from bdbench.protocol.quotas import MemoryLimit, cores, memory_limits

# A worker's peak memory is about WORKER_BYTES and WEIGHT_COPIES times the model's weights in float32. Both come from peaks
# (ru_maxrss) of runs with few rows and `--inline --threads 1`: 1,540 MiB with the bundled model (87 MiB of weights; paper-mini,
# searched Fine-mixing after E-PUR), 3,592 with a BERT of base size (418; laptop, the same defense).
WORKER_BYTES = 1000 * 2**20
WEIGHT_COPIES = 6.25
BYTES_OF_A_WEIGHT = 4

# For the process that plans and writes, Ray's own processes (100 to 150 MiB each) and its shared memory.
RESERVED_BYTES = 1024 * 2**20
# Ray ends tasks when the machine, or its container, is this full.
RAY_FILLS = 0.95


@dataclass(frozen=True)
class Capacity:
    """How many workers run at a time, and a line for the user where memory has a say in it."""

    workers: int
    message: str | None = None


def local_capacity(model: Path, threads: int, chosen: int | None) -> Capacity:
    """What this machine holds now of workers with so many threads, for the model in the folder `model`."""
    return capacity(max(cores(), threads) // threads, free_bytes(memory_limits()), worker_bytes(model), chosen)


def capacity(on_cores: int, free: int | None, worker: int, chosen: int | None = None) -> Capacity:
    """The workers for `on_cores` cores where each takes `worker` bytes of `free` ones (None: not known).

    The number `chosen` by the user holds. At least one worker runs.
    """
    if free is None:
        return Capacity(chosen or on_cores)
    on_memory = free // worker
    sizes = f"each takes about {_gib(worker)}, and {_gib(free)} are free"
    if chosen is not None:
        is_risky = chosen > on_memory
        return Capacity(
            chosen, f"warning: --workers {chosen} may need more memory than there is: {sizes}" if is_risky else None
        )
    if not on_memory:
        return Capacity(1, f"warning: memory may not do for one worker: {sizes}; close other programs or use a smaller model")
    if on_memory < on_cores:
        return Capacity(on_memory, f"{on_memory} workers instead of {on_cores}, for memory: {sizes} (--workers overrides)")
    return Capacity(on_cores)


def free_bytes(limits: Iterable[MemoryLimit]) -> int | None:
    """What workers can take under all of these limits, in bytes; None without a limit."""
    left = [int(limit.total * RAY_FILLS) - limit.taken - RESERVED_BYTES for limit in limits]
    return max(0, min(left)) if left else None


def worker_bytes(folder: Path) -> int:
    """About the most memory, in bytes, that a worker takes on a CPU with the model in `folder`."""
    return round(WORKER_BYTES + WEIGHT_COPIES * BYTES_OF_A_WEIGHT * count_weights(folder))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
