"""What a process does with one step: make and store a victim, or run a cell on a stored one. An exception becomes a result."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bdbench.errors import StorageError
from bdbench.matrix.deadline import TimeLimit, deadline
from bdbench.matrix.remarks import collected_warnings
from bdbench.matrix.victim_store import VictimStore
from bdbench.protocol.cells import failed_record, run_cell
from bdbench.protocol.environment import portable_traceback
from bdbench.protocol.site import Site
from bdbench.protocol.victims import clean_spec, make_victim, needs_clean_victim
from bdbench.specs.records import Predictions, Record
from bdbench.specs.work import CellSpec, VictimSpec


@dataclass(frozen=True)
class VictimOutcome:
    """What became of a victim: the traceback of what went wrong, if anything did, and the seconds it took (see `Victim`).

    `warnings` are for the terminal, a line each.
    """

    error: str | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    unstored: bool = False  # it could not be written, and no later one could; `error` is the line that says so
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell: its record and, if it is "ok", its predictions. `warnings` are for the terminal, a line each."""

    record: Record
    predictions: Predictions | None = None
    warnings: tuple[str, ...] = ()


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

    def run(self, spec: VictimSpec | CellSpec, waited_for: Sequence[VictimOutcome]) -> VictimOutcome | CellOutcome:
        """Do one step; `waited_for` is what became of the victims it waited for. Raises nothing that a plugin raises."""
        with suppress(OSError):  # Ray starts its workers elsewhere
            os.chdir(self.folder)
        with collected_warnings() as warnings:
            outcome = self._run(spec, waited_for)
        return replace(outcome, warnings=tuple(warnings))

    def _run(self, spec: VictimSpec | CellSpec, waited_for: Sequence[VictimOutcome]) -> VictimOutcome | CellOutcome:
        try:
            with deadline(self.time_limit.seconds(spec)):
                if isinstance(spec, VictimSpec):
                    return self._make_victim(spec, waited_for)
                return self._run_cell(spec, waited_for)
        except KeyboardInterrupt:  # the user's (see `fenced`)
            raise
        except StorageError as error:
            return VictimOutcome(str(error), unstored=True)
        except BaseException as error:
            return self.failure(spec, portable_traceback(error, self.folders))

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the run, whose names no record may hold."""
        beside = (plugin.path.parent for plugin in self.site.plugins)
        return tuple(folder for folder in (self.site.model, self.site.data, self.victims, *beside) if folder is not None)

    def failure(self, spec: VictimSpec | CellSpec, error: str) -> VictimOutcome | CellOutcome:
        """The outcome of a step that ended with this traceback."""
        if isinstance(spec, VictimSpec):
            return VictimOutcome(error)
        return CellOutcome(failed_record(spec, error, self.site, dict(self.typed)))

    def _make_victim(self, spec: VictimSpec, waited_for: Sequence[VictimOutcome]) -> VictimOutcome:
        began = time.perf_counter()
        for outcome in waited_for:
            if outcome.error:
                return VictimOutcome(f"its clean model failed:\n{outcome.error}")
        self.site.enter()
        store = VictimStore(self.victims)
        seconds: dict[str, float] = {}
        if store.load(spec) is None:
            store.check_room(self.site.model)
            victim = make_victim(spec, self.site, store.load(clean_spec(spec)) if needs_clean_victim(spec) else None)
            store.save(victim)
            seconds = victim.seconds
        return VictimOutcome(None, {**seconds, "total": time.perf_counter() - began})

    def _run_cell(self, spec: CellSpec, waited_for: Sequence[VictimOutcome]) -> CellOutcome:
        began = time.perf_counter()
        for outcome in waited_for:
            if outcome.error:
                return self.failure(spec, f"its victim failed:\n{outcome.error}")
        self.site.enter()
        victim = VictimStore(self.victims).load(spec.victim)
        if victim is None:
            raise FileNotFoundError(f"the victim {spec.victim.key()} is gone from the store; run the command again")
        record, predictions = run_cell(spec, victim, self.site, dict(self.typed))
        if record.seconds:
            record.seconds["total"] = time.perf_counter() - began
        return CellOutcome(record, predictions)
