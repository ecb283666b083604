"""Cells to records, on every core or GPU of the machine: one Ray task per victim and per cell, or all in this process.

A cell waits only for its own victim, and a triggered victim for its clean model. A record is written as its cell ends, by
this process alone. Knows Ray and the engine's two functions; no attack, defense or task by name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bdbench.matrix.plan import Plan, victims_of
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.store import Results, VictimStore
from bdbench.protocol.cells import (
    Site,
    clean_spec,
    failed_record,
    needs_clean_victim,
    portable_traceback,
    run_cell,
    run_victim,
)
from bdbench.specs.records import CellSpec, Predictions, Record, VictimSpec

# A cell returns a few kilobytes, so Ray's shared memory can be small.
OBJECT_STORE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Work:
    """What one run still has to do: the cells without an "ok" record, in their order, and the victims these need."""

    cells: tuple[CellSpec, ...]

    @property
    def victims(self) -> tuple[VictimSpec, ...]:
        return victims_of(self.cells)

    def steps(self) -> list[VictimSpec | CellSpec]:
        """Every victim just before the first cell that needs it, behind its clean model."""
        steps: dict[str, VictimSpec | CellSpec] = {}
        for cell in self.cells:
            for spec in (*victims_of([cell]), cell):
                steps.setdefault(spec.key(), spec)
        return list(steps.values())


@dataclass(frozen=True)
class Prepared:
    """What became of a victim: the traceback of what went wrong, if anything did, and the seconds it took (see `Victim`)."""

    error: str | None
    seconds: Mapping[str, float] = field(default_factory=dict)


def remaining(made: Plan, results: Results, force: bool = False) -> Work:
    """The part of a plan that is not done. With `force` every cell is to be run again, on the victims in the store."""
    return Work(tuple(cell for cell in made.cells if force or not results.done(cell.key())))


def run_inline(
    work: Work, site: Site, results: Results, store: VictimStore, progress: MatrixProgress, given: Mapping[str, Any]
) -> None:
    """Run the cells one after another in the calling process; imports no Ray."""
    victims: dict[str, Prepared] = {}
    for spec in work.steps():
        if isinstance(spec, CellSpec):
            _finish(*finish_cell(spec, site, store.folder, given, victims[spec.victim.key()]), results, progress)
        else:
            victims[spec.key()] = prepare_victim(spec, site, store.folder, victims.get(_start(spec)))
            progress.victim(spec, victims[spec.key()].error, victims[spec.key()].seconds)


def run_ray(
    work: Work,
    site: Site,
    results: Results,
    store: VictimStore,
    progress: MatrixProgress,
    given: Mapping[str, Any],
    *,
    workers: int | None = None,
    gpus_per_cell: float = 1.0,
) -> None:
    """Run the cells as Ray tasks on this machine, `workers` at a time (None: as many as cores or GPUs allow).

    A task is handed to Ray when there is room for it: the first in the order of the work whose victim is there. On a GPU
    each task takes `gpus_per_cell` of one, which may be a fraction. A worker that dies fails its own cell.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    cpus = workers * site.threads if workers else max(cores(), site.threads)
    on_gpu = site.torch_device().type == "cuda"
    ray.init(
        address="local",  # this machine, not a cluster that happens to run
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=OBJECT_STORE_BYTES,
    )
    try:
        options = {"num_cpus": site.threads, "num_gpus": gpus_per_cell if on_gpu else 0, "max_retries": 0}
        make_victim = ray.remote(**options)(prepare_victim)
        make_cell = ray.remote(**options)(finish_cell)
        victims: dict[str, Prepared] = {}
        running: dict[Any, VictimSpec | CellSpec] = {}
        waiting = work.steps()
        room = at_a_time(site, workers, gpus_per_cell)
        while waiting or running:
            while len(running) < room and (spec := next((step for step in waiting if _ready(step, victims)), None)):
                waiting.remove(spec)
                if isinstance(spec, CellSpec):
                    task = make_cell.remote(spec, site, store.folder, dict(given), victims[spec.victim.key()])
                else:
                    task = make_victim.remote(spec, site, store.folder, victims.get(_start(spec)))
                running[task] = spec
            (task,), _ = ray.wait(list(running), num_returns=1)
            spec = running.pop(task)
            try:
                outcome = ray.get(task)
            except ray.exceptions.RayError as error:
                outcome = error
            if isinstance(spec, CellSpec):
                if isinstance(outcome, Exception):
                    outcome = failed_record(spec, portable_traceback(outcome), site, dict(given)), None
                _finish(*outcome, results, progress)
            else:
                if isinstance(outcome, Exception):
                    outcome = Prepared(portable_traceback(outcome))
                victims[spec.key()] = outcome
                progress.victim(spec, outcome.error, outcome.seconds)
    finally:
        ray.shutdown()


def at_a_time(site: Site, workers: int | None, gpus_per_cell: float) -> int:
    """How many victims or cells `run_ray` works on at once."""
    on_cores = workers or max(cores(), site.threads) // site.threads
    if site.torch_device().type == "cpu":
        return on_cores
    return min(on_cores, max(1, int(torch.cuda.device_count() / gpus_per_cell)))


def cores() -> int:
    """The CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_victim(spec: VictimSpec, site: Site, folder: Path, clean: Prepared | None = None) -> Prepared:
    """Make the victim and store it, unless it is stored. `clean` is what became of the clean model this victim needs."""
    began = time.perf_counter()
    site.enter()
    store = VictimStore(folder)
    if clean and clean.error:
        return Prepared(f"its clean model failed:\n{clean.error}")
    seconds: dict[str, float] = {}
    try:
        if store.load(spec) is None:
            victim = run_victim(spec, site, store.load(clean_spec(spec)) if needs_clean_victim(spec) else None)
            store.save(victim)
            seconds = victim.seconds
    except Exception as error:
        return Prepared(portable_traceback(error))
    return Prepared(None, {**seconds, "total": time.perf_counter() - began})


def finish_cell(
    spec: CellSpec, site: Site, folder: Path, given: Mapping[str, Any], prepared: Prepared
) -> tuple[Record, Predictions | None]:
    """The record and predictions of one cell, on the victim that was prepared; an exception becomes a failed record."""
    began = time.perf_counter()
    site.enter()
    if prepared.error:
        return failed_record(spec, f"its victim failed:\n{prepared.error}", site, dict(given)), None
    try:
        victim = VictimStore(folder).load(spec.victim)
        if victim is None:
            raise FileNotFoundError(f"the victim {spec.victim.key()} has gone from the store")
        record, predictions = run_cell(spec, victim, site, dict(given))
    except Exception as error:
        return failed_record(spec, portable_traceback(error), site, dict(given)), None
    if record.seconds:
        record.seconds["total"] = time.perf_counter() - began
    return record, predictions


def _ready(spec: VictimSpec | CellSpec, victims: Mapping[str, Prepared]) -> bool:
    """Whether what a victim or a cell starts from is there."""
    start = spec.victim.key() if isinstance(spec, CellSpec) else _start(spec)
    return start is None or start in victims


def _start(spec: VictimSpec) -> str | None:
    """The key of the clean model that a victim needs, if it needs one."""
    return clean_spec(spec).key() if needs_clean_victim(spec) else None


def _finish(record: Record, predictions: Predictions | None, results: Results, progress: MatrixProgress) -> None:
    results.write(record, predictions)
    progress.cell(record)
