"""What a worker's process is: it does one step after another for a run. An actor of Ray's, but without a word of Ray."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from bdbench.engine import meter
from bdbench.errors import StorageError
from bdbench.matrix.shipping import Files, Luggage
from bdbench.matrix.victim_store import VictimStore
from bdbench.matrix.worker import Mishap, Outcome, VictimOutcome, Worker
from bdbench.protocol.environment import portable_traceback
from bdbench.source import source_digest
from bdbench.specs.work import CellSpec, VictimSpec

TELL_SECONDS = 1.0


@dataclass(frozen=True)
class Greeting:
    """What a process says of itself before it gets work: the digest of bdbench's source, and the GPUs that PyTorch sees."""

    source: str
    gpus: int


@dataclass(frozen=True)
class Report:
    """What became of a step, the memory, in bytes, that its process keeps, and the seconds it took."""

    outcome: Outcome
    resident: int
    seconds: float


class Station:
    """A process of a run. With `luggage` it shares no folder with the driver.

    `fetch` gives what a reference of Ray's stands for; `tell` is called every second of a step with how far it is. Raises
    UsageError if this machine has not what the luggage names.
    """

    def __init__(
        self,
        worker: Worker,
        luggage: Luggage | None,
        fetch: Callable[[Any], Any],
        tell: Callable[[meter.Progress | None], None],
    ) -> None:
        self._worker = worker if luggage is None else luggage.settle(worker, fetch)
        self._luggage, self._fetch, self._tell = luggage, fetch, tell
        self._process = psutil.Process()
        self._is_busy = threading.Event()
        threading.Thread(target=self._keep_telling, daemon=True).start()

    def greet(self) -> Greeting:
        return Greeting(source_digest(), torch.cuda.device_count())

    def run(
        self,
        spec: VictimSpec | CellSpec,
        waited_for: Sequence[VictimOutcome],
        mishaps: Sequence[str],
    ) -> Report:
        """Do one step; see `Worker.run`."""
        began = time.monotonic()
        meter.clear()
        self._is_busy.set()
        try:
            outcome = self._worker.run(spec, waited_for, mishaps)
        finally:
            self._is_busy.clear()
        return Report(outcome, self._process.memory_info().rss, time.monotonic() - began)

    def run_all(self, work: Sequence[tuple[VictimSpec | CellSpec, Sequence[VictimOutcome], Sequence[str]]]) -> list[Report]:
        """As `run`, of several steps one after another: each is its spec, `waited_for` and `mishaps`."""
        return [self.run(*step) for step in work]

    def run_with_files(
        self,
        spec: VictimSpec | CellSpec,
        waited_for: Sequence[VictimOutcome],
        mishaps: Sequence[str],
        victims: Mapping[str, Any],
    ) -> tuple[list[Report], Files | None]:
        """As `run_all` of one step, where victims travel: with the report come the files of the victim that it made.

        `victims` refers to the files of the victims that it needs, by key: they are fetched if they are not on this machine.
        Where that fails, the step has met with a mishap.
        """
        store = VictimStore(self._worker.victims)
        try:
            for key, reference in victims.items():
                if not store.is_whole(key):
                    store.unpack(key, self._fetch(reference))
        except Exception as error:
            return [self._unfetched(spec, mishaps, error)], None
        report = self.run(spec, waited_for, mishaps)
        is_made = isinstance(report.outcome, VictimOutcome) and not report.outcome.error
        return [report], store.pack(spec.key()) if is_made else None

    def _unfetched(self, spec: VictimSpec | CellSpec, mishaps: Sequence[str], error: Exception) -> Report:
        """What becomes of a step whose victims did not get here: Ray has lost one, or this machine's disk takes none."""
        is_of_disk = isinstance(error, StorageError)
        why = error.__cause__.strerror if is_of_disk else type(error).__name__  # no record names a folder
        mishap = Mishap(f"a victim that it needs did not get to its machine ({why})", spoils_machine=is_of_disk)
        failure = self._worker.failure(spec, portable_traceback(error, self._worker.folders), mishaps, mishap)
        return Report(failure, self._process.memory_info().rss, seconds=0.0)

    def _keep_telling(self) -> None:
        while self._is_busy.wait():
            time.sleep(TELL_SECONDS)
            if self._is_busy.is_set():
                self._tell(meter.current())

    def leave(self) -> None:
        """Remove what the run brought to this machine."""
        if self._luggage is not None:
            shutil.rmtree(self._luggage.folder, ignore_errors=True)
