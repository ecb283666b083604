"""What a process does with one step: make and store a victim, or run a cell on a stored one. An exception becomes a result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdbench.errors import StorageError
from bdbench.matrix.victim_store import VictimStore
from bdbench.protocol.cells import failed_record, run_cell
from bdbench.protocol.environment import portable_traceback
from bdbench.protocol.site import Site
from bdbench.protocol.victims import clean_spec, make_victim, needs_clean_victim
from bdbench.specs.records import Predictions, Record
from bdbench.specs.work import CellSpec, VictimSpec


@dataclass(frozen=True)
class VictimOutcome:
    """What became of a victim: the traceback of what went wrong, if anything did, and the seconds it took (see `Victim`)."""

    error: str | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    unstored: bool = False  # it could not be written, and no later one could; `error` is the line that says so


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell: its record and, if it is "ok", its predictions."""

    record: Record
    predictions: Predictions | None = None


@dataclass(frozen=True)
class Worker:
    """All that a process must know beside the step: the site, the folder of the victims, and what the user typed."""

    site: Site
    victims: Path
    typed: Mapping[str, Any]

    def run(self, spec: VictimSpec | CellSpec, waited_for: Sequence[VictimOutcome]) -> VictimOutcome | CellOutcome:
        """Do one step; `waited_for` is what became of the victims it waited for. Raises nothing that a plugin raises."""
        try:
            return self._make_victim(spec, waited_for) if isinstance(spec, VictimSpec) else self._run_cell(spec, waited_for)
        except StorageError as error:
            return VictimOutcome(str(error), unstored=True)
        except (Exception, SystemExit) as error:  # a plugin that calls sys.exit() ends its own cell, not the run
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
