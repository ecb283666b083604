"""What a container, or the machine, allows this process: quotas of memory and of CPU time. Reads files of /proc and /sys.

Linux keeps quotas in control groups, a tree of folders in which a group has at most what each of its parents has. There are two
versions of it, also side by side. Without such files nothing is limited.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
ABOVE_GROUPS = ("/", "..")  # a group outside of what a container sees is shown as "/../other"


@dataclass(frozen=True)
class MemoryLimit:
    """A limit, and how much of it is taken, in bytes. What the system can drop at any time does not count as taken."""

    total: int
    taken: int


def memory_limits(proc: Path = PROC, groups: Path = GROUPS) -> list[MemoryLimit]:
    """The machine's memory and every quota that limits this process."""
    limits = []
    machine = _amounts(proc / "meminfo")
    if "MemTotal:" in machine and "MemAvailable:" in machine:
        total, available = machine["MemTotal:"] * 1024, machine["MemAvailable:"] * 1024
        limits.append(MemoryLimit(total, total - available))
    for group in control_groups("memory", proc, groups):
        names = ("memory.max", "memory.high", "memory.limit_in_bytes")
        quotas = [quota for name in names if (quota := _number(group / name)) is not None]
        if quotas:
            limits.append(MemoryLimit(min(quotas), _taken(group)))
    return limits


def cores() -> int:
    """The CPU cores that this process may use: those it may run on, or fewer by a container's quota of CPU time."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = core_quota()
    return usable if quota is None else max(1, min(usable, int(quota)))


def core_quota(proc: Path = PROC, groups: Path = GROUPS) -> float | None:
    """The CPU time that this process and those beside it may use, in cores; None without a quota."""
    quotas = [_cores(group) for group in control_groups("cpu", proc, groups)]
    return min((quota for quota in quotas if quota is not None), default=None)


def control_groups(controller: str, proc: Path = PROC, groups: Path = GROUPS) -> list[Path]:
    """The folders of this process's control groups for "memory" or "cpu", and of all their parents."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2 has one tree
            roots = [groups, groups / "unified"]
        elif controller in controllers.split(","):  # version 1 has one for each controller, or for some together
            roots = [groups / controllers, groups / controller]
        else:
            continue
        for root in roots:
            own = root.joinpath(*(part for part in Path(path).parts if part not in ABOVE_GROUPS))
            # A container may see its own group as the root. Then the path is that of the host and leads nowhere.
            within = [folder for folder in (own, *own.parents) if folder == root or root in folder.parents]
            folders += [folder for folder in within if folder.is_dir()]
    return folders


def _taken(group: Path) -> int:
    used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
    kept = _amounts(group / "memory.stat")
    prefix = "total_" if "total_inactive_file" in kept else ""  # version 1: with the group's children
    return max(0, used - sum(kept.get(f"{prefix}{name}", 0) for name in ("inactive_file", "active_file")))


def _cores(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = (str(_number(group / f"cpu.cfs_{name}_us") or "max") for name in ("quota", "period"))
    is_limited = quota.isdigit() and period.isdigit()  # without a quota version 2 has "max", version 1 has -1
    return int(quota) / int(period) if is_limited else None


def _number(file: Path) -> int | None:
    """The number in a file; None for "max" and without the file."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _amounts(file: Path) -> dict[str, int]:
    """The numbers in a file of lines such as "MemTotal: 100 kB" by their first words; none without the file."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
