"""What waits for what: steps, and the order in which they may be started. Pure: no Ray, no file, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bdbench.protocol.victims import clean_spec, needs_clean_victim
from bdbench.specs.work import CellSpec, VictimSpec


@dataclass(frozen=True)
class Step:
    """One piece of work: a victim to make or a cell to run, with the keys of the victims it waits for."""

    spec: VictimSpec | CellSpec
    waits_for: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.spec.key()


class Schedule:
    """Hands out steps in their order, each as soon as all that it waits for is done."""

    def __init__(self, steps: Sequence[Step]) -> None:
        """Raises ValueError if two steps have one key, or if a step waits for one that is not there."""
        self._steps = list(steps)
        place = {step.key: number for number, step in enumerate(self._steps)}
        if len(place) < len(self._steps):
            raise ValueError("two steps have the same key")
        self._missing = [len(step.waits_for) for step in self._steps]
        self._dependents: dict[str, list[int]] = {key: [] for key in place}
        for number, step in enumerate(self._steps):
            for key in step.waits_for:
                if key not in place:
                    raise ValueError(f"the step {step.key} waits for {key}, which is no step")
                self._dependents[key].append(number)
        self._ready = [number for number, missing in enumerate(self._missing) if not missing]  # ascending: a heap

    def ready(self) -> Step | None:
        """The first step that can be started, which counts as started from now on; None while there is none."""
        return self._steps[heapq.heappop(self._ready)] if self._ready else None

    @property
    def blocked(self) -> list[Step]:
        """The steps that still wait for others. With nothing running there must be none."""
        return [step for step, missing in zip(self._steps, self._missing, strict=True) if missing]

    def done(self, key: str) -> None:
        """A step has ended, well or not: what waited for it alone is ready."""
        for number in self._dependents.pop(key):
            self._missing[number] -= 1
            if not self._missing[number]:
                heapq.heappush(self._ready, number)


def steps_of(cells: Iterable[CellSpec]) -> list[Step]:
    """Every victim just before the first cell that needs it, behind its clean model."""
    steps: dict[str, Step] = {}
    for cell in cells:
        for step in (*_victim_steps(cell.victim), Step(cell, (cell.victim.key(),))):
            steps.setdefault(step.key, step)
    return list(steps.values())


def victims_of(cells: Iterable[CellSpec]) -> tuple[VictimSpec, ...]:
    """The distinct victims that cells stand on, in the order of the cells, each behind the clean model it needs."""
    return tuple(step.spec for step in steps_of(cells) if isinstance(step.spec, VictimSpec))


def _victim_steps(spec: VictimSpec) -> tuple[Step, ...]:
    if not needs_clean_victim(spec):
        return (Step(spec),)
    clean = clean_spec(spec)
    return Step(clean), Step(spec, (clean.key(),))
