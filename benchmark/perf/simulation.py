"""The runner's decisions without its work: how long the schedule takes to say what comes next."""

from __future__ import annotations

import heapq
import random
import time
from dataclasses import dataclass

from bdbench.matrix.graph import Schedule, Step
from bdbench.specs.work import CellSpec, DataSpec, ModelSpec, PluginSpec, VictimSpec

CELLS_PER_VICTIM, VICTIMS_PER_CLEAN_MODEL = 25, 12  # as in a matrix of 12 attacks and 25 defenses


@dataclass(frozen=True)
class Decisions:
    """Steps that were handed out, and the seconds that the schedule took: its making, all decisions, the slowest of them."""

    steps: int
    making: float
    deciding: float
    slowest: float

    @property
    def milliseconds(self) -> float:
        """Of the schedule's time, to a step."""
        return 1000 * (self.making + self.deciding) / self.steps


def simulate(steps: list[Step], slots: int, seed: int = 0) -> Decisions:
    """Run the steps in so many slots of a pretended clock, each for a random time.

    A decision takes note of a step that ended and picks the next ones. Raises RuntimeError if a step was never handed out.
    """
    rng, clock = random.Random(seed), time.perf_counter
    began = clock()
    schedule = Schedule(steps)
    making = clock() - began
    running: list[tuple[float, str]] = []  # when it ends, and its key
    now, started, deciding, slowest, ended = 0.0, 0, 0.0, 0.0, None
    while True:
        began = clock()
        if ended is not None:
            schedule.done(ended)
        new = []
        while len(running) + len(new) < slots and (step := schedule.ready()):
            new.append(step)
        seconds = clock() - began
        deciding, slowest = deciding + seconds, max(slowest, seconds)
        for step in new:
            heapq.heappush(running, (now + rng.uniform(0.5, 1.5), step.key))
        started += len(new)
        if not running:
            break
        now, ended = heapq.heappop(running)
    if started < len(steps):
        raise RuntimeError(f"{len(steps) - started} of {len(steps)} steps were never handed out")
    return Decisions(started, making, deciding, slowest)


def pretended_steps(cells: int) -> list[Step]:
    """So many cells, their victims and the clean models of these, in the order in which a run has them."""
    data, model = DataSpec("builtin", "0" * 64, None, 100, 100), ModelSpec("tiny", "1" * 64, "2" * 64, "3" * 64)
    defenses = [(PluginSpec("no-op", "1", {"number": number}),) for number in range(CELLS_PER_VICTIM)]

    def victim(attack: int, seed: int) -> VictimSpec:
        plugin = PluginSpec("attack" if attack else "none", "1", {"number": attack})
        return VictimSpec("sst2", data, model, 64, {"epochs": 1}, "fp32", plugin, seed)

    steps: list[Step] = []
    for number in range(-(-cells // CELLS_PER_VICTIM)):
        seed, attack = divmod(number, VICTIMS_PER_CLEAN_MODEL)
        if attack == 0:
            clean = Step(victim(0, seed))
            steps.append(clean)
        poisoned = Step(victim(attack + 1, seed), (clean.key,))
        count = min(CELLS_PER_VICTIM, cells - number * CELLS_PER_VICTIM)
        steps += [poisoned, *(Step(CellSpec(poisoned.spec, parts, 0, 0), (poisoned.key,)) for parts in defenses[:count])]
    return steps
