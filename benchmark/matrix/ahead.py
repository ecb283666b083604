"""Ray, started before a run is planned: it takes seconds in which the planning process only imports and reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from bdbench.engine.bundled import BUNDLED_MODELS, ready_folder
from bdbench.errors import UsageError
from bdbench.machine import devices
from bdbench.matrix.capacity import Capacity, local_capacity
from bdbench.matrix.ray_start import RayHead
from bdbench.matrix.selection import Selection
from bdbench.protocol.compositions import name_of, parts_of_choice
from bdbench.registry import ATTACKS, DEFENSES, TASKS


@dataclass(frozen=True)
class RayAhead:
    """Ray that is starting, and the workers that it is for. They were counted before: those that wait for work take memory."""

    head: RayHead
    held: Capacity


def start_ahead(
    selection: Selection, *, workers: int | None, threads: int, device: str, with_plugin_files: bool
) -> RayAhead | None:
    """Ray for a run on this machine's cores; None where it may not come to that.

    That is where a GPU may do the work, for then workers are other ones; where the model is not here yet; and where a look
    tells that the plan will be refused. `with_plugin_files` says that there may be plugins whose names are not known yet.
    """
    folder = _folder_of(selection.model)
    on_cores = device == "cpu" or (device == "auto" and not devices())
    if folder is None or not on_cores:
        return None
    try:
        if not (with_plugin_files or _is_known(selection)):
            return None
        held = local_capacity(folder, threads, workers)
        # Ray has a process ready for every core. If workers take several, most of them would take memory for nothing.
        return RayAhead(RayHead(held.workers * threads, preload=threads == 1), held)
    except (UsageError, SafetensorError, OSError):  # if it is still one after the plan, it is told then
        return None


def _folder_of(model: str) -> Path | None:
    try:
        folder = ready_folder(model) if model in BUNDLED_MODELS else Path(model)
        return folder if folder is not None and folder.is_dir() else None
    except (UsageError, OSError, ValueError):  # a package that is missing, or a name that is none of a file
        return None


def _is_known(selection: Selection) -> bool:
    """Whether there are plugins of all these names. Raises UsageError for what cannot be a name."""
    parts = [part for choice in selection.defenses for part in parts_of_choice(choice)]
    named = ((TASKS, selection.tasks), (ATTACKS, selection.attacks), (DEFENSES, parts))
    return all({*map(name_of, choices)} <= {*registry.names()} for registry, choices in named)
