"""What a process does for a tuning: prepare a victim, run a trial. An exception becomes a result."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from bdbench.errors import StorageError
from bdbench.matrix.deadline import TimeLimit, deadline
from bdbench.matrix.remarks import collected_warnings
from bdbench.matrix.studies import Request
from bdbench.matrix.trial_store import Before, TrialStore
from bdbench.matrix.victim_store import VictimStore
from bdbench.protocol.environment import portable_traceback
from bdbench.protocol.rows import DefenderSets
from bdbench.protocol.site import Site, give_back_memory
from bdbench.protocol.trials import Measured, Suspect, plant_in, run_trial, suspect_of, undefended
from bdbench.protocol.victims import Victim
from bdbench.specs.work import CellSpec, VictimSpec


@dataclass(frozen=True)
class Ended:
    """What became of a piece of work: what it measured, or the traceback of what went wrong.

    `unstored` says that a result could not be written, and no later one could; `error` is the line that says so.
    `warnings` are for the terminal, a line each.
    """

    measured: tuple[Measured, ...] = ()
    error: str | None = None
    unstored: bool = False
    warnings: tuple[str, ...] = ()


VictimEnded = Callable[[VictimSpec, Ended], None]
Suggest, IsOver, TrialEnded = Callable[[], Request | None], Callable[[], bool], Callable[[Request, Ended], None]


class Tuning(Protocol):
    """Where trials run."""

    def prepare(self, victims: Sequence[VictimSpec], ended: VictimEnded) -> None:
        """`TuneWorker.prepare` for each victim; `ended` gets what became of it."""

    def run(self, suggest: Suggest, is_over: IsOver, ended: TrialEnded) -> None:
        """Run trials until `is_over`: those that `suggest` gives; None means that others must end first."""


@dataclass(frozen=True)
class TuneWorker:
    """What a process must know beside the trial: the site, the folder of the victims, and where results go.

    `sets` are the sizes of the defender's sets by task, `folder` is the working directory.
    """

    site: Site
    victims: Path
    store: TrialStore
    sets: Mapping[str, DefenderSets]
    folder: Path = field(default_factory=Path.cwd)
    time_limit: TimeLimit = TimeLimit()

    def prepare(self, spec: VictimSpec) -> Ended:
        """Score the victim undefended; where the measure asks for it, its copy with a backdoor of the defender's own."""
        return self._safely(lambda: (self._before(spec),))

    def run(self, request: Request) -> Ended:
        """Run one trial on all its victims; what is known already is not computed again."""
        return self._safely(lambda: tuple(self._measured(cell) for cell in request.cells))

    def known(self, request: Request) -> Ended | None:
        """What is on file of a trial; None unless all of it is."""
        measured = [self.store.trial(cell, self.sets[cell.victim.task]) for cell in request.cells]
        return None if None in measured else Ended(tuple(measured))

    def _before(self, spec: VictimSpec) -> Measured:
        sets = self.sets[spec.task]
        before = self.store.before(spec, sets)
        if before is None:
            with deadline(self.time_limit.seconds(spec)):
                victim = self._victim(spec)
                planted = plant_in(victim, sets, self.site) if self.store.measure == "planted" else None
                measured = undefended(suspect_of(victim, self.store.measure, sets, self.site, planted), self.site)
            weights, trigger = planted or (None, None)
            before = Before(measured, trigger)
            self.store.save_before(spec, sets, before, weights)
        return before.measured

    def _measured(self, cell: CellSpec) -> Measured:
        sets = self.sets[cell.victim.task]
        measured = self.store.trial(cell, sets)
        if measured is None:
            with deadline(self.time_limit.seconds(cell)):
                measured = run_trial(cell, self._suspect(cell.victim, sets), self.site)
            self.store.save_trial(cell, sets, measured)
        return measured

    def _suspect(self, spec: VictimSpec, sets: DefenderSets) -> Suspect:
        planted = None
        if self.store.measure == "planted":
            before = self.store.before(spec, sets)
            if before is None:
                raise FileNotFoundError(f"the planted copy of the victim {spec.key()} is gone; run the command again")
            planted = self.store.planted_weights(spec, sets), before.planted
        return suspect_of(self._victim(spec), self.store.measure, sets, self.site, planted)

    def _victim(self, spec: VictimSpec) -> Victim:
        victim = VictimStore(self.victims).load(spec)
        if victim is None:
            raise FileNotFoundError(f"the victim {spec.key()} is not in the store: it failed, or it is gone")
        return victim

    def _safely(self, work: Callable[[], tuple[Measured, ...]]) -> Ended:
        """Raises nothing that a plugin raises."""
        with suppress(OSError):  # Ray starts its workers elsewhere
            os.chdir(self.folder)
        with collected_warnings() as warnings:
            try:
                self.site.enter()
                ended = Ended(work())
            except KeyboardInterrupt:  # the user's (see `fenced`)
                raise
            except StorageError as error:
                ended = Ended(error=str(error), unstored=True)
            except BaseException as error:
                ended = Ended(error=portable_traceback(error, self._folders))
        give_back_memory()
        return replace(ended, warnings=tuple(warnings))

    @property
    def _folders(self) -> tuple[Path, ...]:
        """The folders of the tuning, whose names its file must not hold."""
        beside = (plugin.path.parent for plugin in self.site.plugins)
        folders = (self.site.model, self.site.data, self.victims, self.store.folder, *beside)
        return tuple(folder for folder in folders if folder is not None)


class InlineTuning:
    """The calling process: one trial after another. Imports no Ray."""

    def __init__(self, worker: TuneWorker) -> None:
        self._worker = worker

    def prepare(self, victims: Sequence[VictimSpec], ended: VictimEnded) -> None:
        for victim in victims:
            ended(victim, self._worker.prepare(victim))

    def run(self, suggest: Suggest, is_over: IsOver, ended: TrialEnded) -> None:
        while not is_over():
            if request := suggest():
                ended(request, self._worker.run(request))
