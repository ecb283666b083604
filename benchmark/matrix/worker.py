"""What a process does with one step: make and store a victim, or run a cell on a stored one. An exception becomes a result."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bdbench.errors import StorageError, first_line
from bdbench.matrix.deadline import TimeLimit, deadline
from bdbench.matrix.remarks import collected_warnings
from bdbench.matrix.victim_store import VictimStore
from bdbench.protocol.cells import changes_nothing, failed_record, run_cell, victims_of_cell
from bdbench.protocol.environment import portable_traceback
from bdbench.protocol.site import Site, give_back_memory
from bdbench.protocol.victims import Victim, clean_spec, make_victim, needs_clean_victim
from bdbench.specs.records import Predictions, Record
from bdbench.specs.work import CellSpec, VictimSpec

# In the messages of PyTorch's errors after which a process can use its GPU no more. Out of memory has a type of its own.
GPU_ERRORS = ("CUDA error", "cuDNN error", "HIP error")


@dataclass(frozen=True)
class Mishap:
    """Something that is not the step's own fault, so that it is worth another try.

    `lost` is the key of a stored victim that is gone or damaged, and must be made again first. After a mishap that
    `ends_process` whatever the process did next would fail, too: its GPU is in error. After one that `spoils_machine` so would
    the next step that needs a victim there: its disk takes none.
    """

    reason: str
    lost: str | None = None
    ends_process: bool = False
    spoils_machine: bool = False


@dataclass(frozen=True)
class VictimOutcome:
    """What became of a victim: the traceback of what went wrong, if anything did, and the seconds it took (see `Victim`).

    `warnings` are for the terminal, a line each.
    """

    error: str | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    unstored: bool = False  # it could not be written, and no later one could; `error` is the line that says so
    warnings: tuple[str, ...] = ()
    mishap: Mishap | None = None


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell: its record and, if it is "ok", its predictions. `warnings` are for the terminal, a line each."""

    record: Record
    predictions: Predictions | None = None
    warnings: tuple[str, ...] = ()
    mishap: Mishap | None = None


Outcome = VictimOutcome | CellOutcome


class LostVictim(Exception):
    """A victim that was stored is gone or damaged."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the victim {key} is gone from the store, or damaged")
        self.key = key


@dataclass(frozen=True)
class Worker:
    """What a process must know beside the step.

    That is the site, the folder of the victims, what the user typed, the working directory and the time limit.
    """

    site: Site
    victims: Path
    typed: Mapping[str, Any]
    folder: Path = field(default_factory=Path.cwd)
    time_limit: TimeLimit = TimeLimit()

    def run(self, spec: VictimSpec | CellSpec, waited_for: Sequence[VictimOutcome], mishaps: Sequence[str] = ()) -> Outcome:
        """Do one step. Raises nothing that a plugin raises.

        `waited_for` is what became of the victims it waited for, and `mishaps` are the reasons of earlier tries' ends.
        """
        with suppress(OSError):  # Ray starts its workers elsewhere
            os.chdir(self.folder)
        with collected_warnings() as warnings:
            outcome = self._run(spec, waited_for, mishaps)
        give_back_memory()
        return replace(outcome, warnings=tuple(warnings))

    def _run(self, spec: VictimSpec | CellSpec, waited_for: Sequence[VictimOutcome], mishaps: Sequence[str]) -> Outcome:
        try:
            with deadline(self.time_limit.seconds(spec)):
                if isinstance(spec, VictimSpec):
                    return self._make_victim(spec, waited_for, mishaps)
                return self._run_cell(spec, waited_for, mishaps)
        except KeyboardInterrupt:  # the user's (see `fenced`)
            raise
        except StorageError as error:
            return VictimOutcome(str(error), unstored=True)
        except BaseException as error:
            return self.failure(spec, portable_traceback(error, self.folders), mishaps, mishap_of(error))

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the run, whose names no record may hold."""
        beside = (plugin.path.parent for plugin in self.site.plugins)
        folders = (self.site.model, self.site.data, self.site.checkpoint, self.victims, *beside)
        return tuple(folder for folder in folders if folder is not None)

    def failure(
        self, spec: VictimSpec | CellSpec, error: str, mishaps: Sequence[str] = (), mishap: Mishap | None = None
    ) -> Outcome:
        """The outcome of a step that ended with this traceback."""
        if isinstance(spec, VictimSpec):
            return VictimOutcome(error, mishap=mishap)
        record = failed_record(spec, error, self.site, dict(self.typed))
        record.env = with_mishaps(record.env, mishaps)
        return CellOutcome(record, mishap=mishap)

    def _make_victim(self, spec: VictimSpec, waited_for: Sequence[VictimOutcome], mishaps: Sequence[str]) -> VictimOutcome:
        began = time.perf_counter()
        for outcome in waited_for:
            if outcome.error:
                return VictimOutcome(f"its clean model failed:\n{outcome.error}")
        self.site.enter()
        store = VictimStore(self.victims)
        seconds: dict[str, float] = {}
        if store.load(spec) is None:
            store.check_room(self.site.model)
            clean = _stored(clean_spec(spec), store) if needs_clean_victim(spec) else None
            victim = make_victim(spec, self.site, clean)
            victim.env = with_mishaps(victim.env, mishaps)
            store.save(victim)
            seconds = victim.seconds
        return VictimOutcome(None, {**seconds, "total": time.perf_counter() - began})

    def _run_cell(self, spec: CellSpec, waited_for: Sequence[VictimOutcome], mishaps: Sequence[str]) -> Outcome:
        began = time.perf_counter()
        for outcome in waited_for:
            if outcome.error:
                return self.failure(spec, f"its victim failed:\n{outcome.error}", mishaps)
        self.site.enter()
        store = VictimStore(self.victims)
        victim = _stored(spec.victim, store, without_weights=changes_nothing(spec))
        others = {other.key(): _stored(other, store) for other in victims_of_cell(spec)[1:]}
        record, predictions = run_cell(spec, victim, self.site, dict(self.typed), others)
        record.env = with_mishaps(record.env, mishaps)
        if record.seconds:
            record.seconds["total"] = time.perf_counter() - began
        return CellOutcome(record, predictions)


def _stored(spec: VictimSpec, store: VictimStore, without_weights: bool = False) -> Victim:
    """A victim that was stored before (see `VictimStore.load`). Raises LostVictim unless it is still there, whole."""
    victim = store.load(spec, without_weights)
    if victim is None:
        raise LostVictim(spec.key())
    return victim


def mishap_of(error: BaseException) -> Mishap | None:
    """What makes another try worth while, if anything does: a lost victim, or a GPU in error. Out of memory is neither."""
    if isinstance(error, LostVictim):
        return Mishap(str(error), lost=error.key)
    is_of_gpu = isinstance(error, RuntimeError) and any(words in str(error) for words in GPU_ERRORS)
    if is_of_gpu and not isinstance(error, torch.OutOfMemoryError):
        return Mishap(f"the GPU is in error ({first_line(error)})", ends_process=True)
    return None


def with_mishaps(env: Mapping[str, Any] | None, mishaps: Sequence[str]) -> dict[str, Any]:
    """The environment of a record or a victim, with the reasons why earlier tries at it ended, if there were any."""
    return {**(env or {}), **({"mishaps": list(mishaps)} if mishaps else {})}
