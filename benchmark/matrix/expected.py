"""How much work a victim or a cell is, before anybody has done it: what orders steps and bounds their time."""

from __future__ import annotations

from dataclasses import dataclass

from bdbench.registry import DEFENSES
from bdbench.specs.work import CellSpec, PluginSpec, VictimSpec

# Floating-point operations per parameter and word piece: a product and a sum forward, twice as many backward.
FORWARD, FORWARD_AND_BACKWARD = 2, 6
TRAININGS = {"filter": 2, "training": 1}  # of a classifier on the whole training set, by the kind of defense


@dataclass(frozen=True)
class ExpectedWork:
    """About the floating-point operations of a step with a model of so many `parameters`. No number of a result hangs on it."""

    parameters: int

    def __call__(self, spec: VictimSpec | CellSpec) -> float:
        return self.of_victim(spec) if isinstance(spec, VictimSpec) else self.of_cell(spec)

    def of_victim(self, spec: VictimSpec) -> float:
        """Its training, and its evaluation: test rows as they are, with the trigger, and those again by the clean model."""
        return self._operations(spec, spec.data.train_rows * int(spec.training["epochs"]), 3 * spec.data.test_rows)

    def of_cell(self, spec: CellSpec) -> float:
        """What its defense trains on, by the names of its hyperparameters, and its evaluation.

        Where the defender trains anew it is at least as much as a victim, or for a filter twice that: once to find the poison.
        """
        trained_rows = sum(map(_passes, spec.defense)) * spec.clean_rows
        victim_rows = spec.victim.data.train_rows * int(spec.victim.training["epochs"])
        trained_rows += sum(TRAININGS.get(DEFENSES.get(part.name).kind, 0) for part in spec.defense) * victim_rows
        return self._operations(spec.victim, trained_rows, 2 * spec.victim.data.test_rows)

    def _operations(self, spec: VictimSpec, trained_rows: int, predicted_rows: int) -> float:
        operations = FORWARD_AND_BACKWARD * trained_rows + FORWARD * predicted_rows
        return float(self.parameters * spec.max_length * operations)


def _passes(part: PluginSpec) -> int:
    """How often a component visits the clean set: its `epochs`, for each of the `trials` of a search."""
    trials = part.params.get("trials", 1) if part.params.get("search") else 1
    epochs = part.params.get("epochs", 0)
    return epochs * trials if isinstance(epochs, int) and isinstance(trials, int) else 0
