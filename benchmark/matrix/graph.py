"""What waits for what: steps, and the order in which they may be started. Pure: no Ray, no file, no clock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from bdbench.protocol.cells import victims_of_cell
from bdbench.protocol.victims import clean_spec, needs_clean_victim
from bdbench.specs.work import CellSpec, PluginSpec, VictimSpec


@dataclass(frozen=True)
class Step:
    """One piece of work: a victim to make or a cell to run, with the keys of the victims it waits for."""

    spec: VictimSpec | CellSpec
    waits_for: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        return self.spec.key()

    @property
    def victim(self) -> VictimSpec:
        """The victim that it makes, or the one that its cell stands on."""
        return self.spec.victim if isinstance(self.spec, CellSpec) else self.spec


class Schedule:
    """Hands out steps in their order, each as soon as all that it waits for is done."""

    def __init__(self, steps: Sequence[Step]) -> None:
        """Raises ValueError if two steps have one key, or if a step waits for one that is not there."""
        self._steps = list(steps)
        self._place = {step.key: number for number, step in enumerate(self._steps)}
        if len(self._place) < len(self._steps):
            raise ValueError("two steps have the same key")
        self._missing = [len(step.waits_for) for step in self._steps]
        self._dependents: list[list[int]] = [[] for _ in self._steps]  # those that still wait for the step
        self._done = [False] * len(self._steps)
        for number, step in enumerate(self._steps):
            for key in step.waits_for:
                if key not in self._place:
                    raise ValueError(f"the step {step.key} waits for {key}, which is no step")
                self._dependents[self._place[key]].append(number)
        self._ready = [number for number, missing in enumerate(self._missing) if not missing]  # ascending: a heap

    def first(self) -> Step | None:
        """The first step that can be started; None while there is none."""
        return self._steps[self._ready[0]] if self._ready else None

    def ready(self) -> Step | None:
        """The first step that can be started, which counts as started from now on; None while there is none."""
        return self._steps[heapq.heappop(self._ready)] if self._ready else None

    @property
    def blocked(self) -> list[Step]:
        """The steps that still wait for others. With nothing running there must be none."""
        return [step for step, missing in zip(self._steps, self._missing, strict=True) if missing]

    def done(self, key: str) -> None:
        """A step has ended, well or not: what waited for it alone is ready."""
        number = self._place[key]
        self._done[number] = True
        dependents, self._dependents[number] = self._dependents[number], []
        for dependent in dependents:
            self._missing[dependent] -= 1
            if not self._missing[dependent]:
                heapq.heappush(self._ready, dependent)

    def again(self, key: str, lost: str | None = None) -> None:
        """A started step is to be started anew; if it `lost` a victim that was done, only after that one is made again."""
        number = self._place[key]
        if lost is None:
            heapq.heappush(self._ready, number)
            return
        victim = self._place[lost]
        self._dependents[victim].append(number)
        self._missing[number] = 1
        if self._done[victim]:
            self._done[victim] = False
            heapq.heappush(self._ready, victim)


def steps_of(cells: Iterable[CellSpec]) -> list[Step]:
    """Every victim just before the first cell that takes it, behind its clean model."""
    steps: dict[str, Step] = {}
    known: set[str] = set()
    for cell in cells:
        victims = victims_of_cell(cell)
        for victim in victims:
            if victim.key() not in known:
                known.add(victim.key())
                for step in _victim_steps(victim):
                    steps.setdefault(step.key, step)
        step = Step(cell, tuple(victim.key() for victim in victims))
        steps.setdefault(step.key, step)
    return list(steps.values())


def victims_of(cells: Iterable[CellSpec]) -> tuple[VictimSpec, ...]:
    """The distinct victims that cells take, in the order of the cells, each behind the clean model it needs."""
    return tuple(step.spec for step in steps_of(cells) if isinstance(step.spec, VictimSpec))


def in_order(steps: Sequence[Step], work: Callable[[VictimSpec | CellSpec], float]) -> list[Step]:
    """The order in which steps are to be started, as soon as each can be.

    A row, which is an attack with a seed on all tasks, comes before the next one, in the order of `steps`. So a run that is cut
    short has the same rows for all tasks. In a row the tasks take turns. Of a task the longest work comes first, that of what
    waits for a step in the same row counted in (the longest path, as in list scheduling). A victim that several rows need is of
    the first one.
    """
    rows = _rows(steps)
    weights = _longest_paths(steps, rows, work)
    queues: dict[tuple[int, str], list[Step]] = {}
    for step in steps:
        queues.setdefault((rows[step.key], step.victim.task), []).append(step)
    turns: dict[int, list[list[Step]]] = {}
    for (row, _), of_task in queues.items():
        turns.setdefault(row, []).append(sorted(of_task, key=lambda step: -weights[step.key]))
    in_turn = (itertools.chain.from_iterable(itertools.zip_longest(*turns[row])) for row in sorted(turns))
    return [step for step in itertools.chain.from_iterable(in_turn) if step is not None]


def _rows(steps: Sequence[Step]) -> dict[str, int]:
    """The number of each step's row, by its key: that of the first cell that stands on it, at once or through a victim."""
    numbers: dict[Hashable, int] = {}
    row_by_key: dict[str, int] = {}
    for step in steps:
        if isinstance(step.spec, CellSpec):
            attack = _hashable(step.victim.attack)
            row_by_key[step.key] = numbers.setdefault((step.victim.seed, attack), len(numbers))
    for step in reversed(steps):
        own = row_by_key.setdefault(step.key, len(numbers))
        for key in step.waits_for:
            row_by_key[key] = min(own, row_by_key.get(key, own))
    return row_by_key


def _longest_paths(
    steps: Sequence[Step], rows: dict[str, int], work: Callable[[VictimSpec | CellSpec], float]
) -> dict[str, float]:
    """The work of each step and, of all chains of steps in its row that wait for it, the longest one's."""
    behind: dict[str, float] = {}
    weights: dict[str, float] = {}
    for step in reversed(steps):  # what waits stands behind what it waits for
        weights[step.key] = work(step.spec) + behind.get(step.key, 0.0)
        for key in step.waits_for:
            if rows[key] == rows[step.key]:
                behind[key] = max(behind.get(key, 0.0), weights[step.key])
    return weights


def _hashable(plugin: PluginSpec) -> Hashable:
    return plugin.name, plugin.version, tuple(sorted(plugin.params.items()))


def _victim_steps(spec: VictimSpec) -> tuple[Step, ...]:
    if not needs_clean_victim(spec):
        return (Step(spec),)
    clean = clean_spec(spec)
    return Step(clean), Step(spec, (clean.key(),))
