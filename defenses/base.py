"""The contract of a defense. The one kind so far repairs weights: a suspect classifier in, a repaired one out.

Weight repairs compose: `e-pur+fine-tuning` applies the left one first and hands its result to the right one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bdbench.params import Hyperparameters, hp
from bdbench.registry import DEFENSES

if TYPE_CHECKING:
    from torch import nn

    from bdbench.engine.loops import Recipe
    from bdbench.protocol.contexts import DefenseContext

register = DEFENSES.register

# What a defense may ask for beside the victim itself; the context hands over nothing that is not declared.
RESOURCES = ("clean", "validation", "pretrained")


@dataclass(frozen=True)
class ModelRepair(Hyperparameters, ABC):
    """A defense that turns the victim's weights into repaired ones.

    `needs` lists what it may be given, from `RESOURCES`; with some hyperparameters it may ask for less. `unchanged` is True
    only for a defense that returns the victim as it is; the victim's own evaluation is then reused.
    """

    paper: ClassVar[str]
    version: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    unchanged: ClassVar[bool] = False

    def asks_for(self) -> frozenset[str]:
        """What it must be given with these hyperparameters."""
        return self.needs

    def skip(self, task: str, attack: str) -> str | None:
        """Why this defense makes no sense on a task or against an attack, or None; a skipped cell is recorded as such."""
        return None

    @abstractmethod
    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        """The repaired classifier. `model`, a transformers sequence classifier on `ctx.device`, is left as it was."""


@dataclass(frozen=True)
class FineTuned(ModelRepair):
    """A repair that ends by fine-tuning every weight on the clean set; one set of hyperparameters for all of these.

    The paper gives the size of the clean set, not how to train on it: the defaults are ours (README, "How the
    hyperparameters were chosen").
    """

    needs = frozenset({"clean"})

    epochs: int = hp(10, low=1, high=1000, help="passes over the clean set")
    learning_rate: float = hp(5e-5, low=0.0, high=1.0, help="AdamW's peak learning rate")
    batch_size: int = hp(16, low=1, high=4096, help="clean rows per step")

    def recipe(self) -> Recipe:
        """For `ctx.train`."""
        from bdbench.engine.loops import Recipe

        return Recipe(epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size)


# The reserve ratios of the seed paper's search (from memory).
GRID = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Reserving(FineTuned):
    """A repair that keeps a part of the victim's weights, the reserve ratio rho, does away with the rest and fine-tunes.

    With `search`, rho is chosen as a defender could: the smallest of a grid whose accuracy on the validation rows, after
    fine-tuning, is no more than `tolerance` below that of the classifier it was given. Bisection finds it in `trials`
    fine-tunings, and one more where only rho = 1 is left (whose accuracy then is what it is); the model of the chosen trial
    is the result, the same as that of a fixed `ratio`. The rule is from memory of arXiv:2210.09545, the tolerance is ours.
    """

    needs = frozenset({"clean", "validation"})

    ratio: float = hp(0.5, low=0.0, high=1.0, help="reserve ratio: share of the victim that is kept")
    search: bool = hp(False, help="whether the ratio is searched for on validation rows instead")
    tolerance: float = hp(0.05, low=0.0, high=1.0, help="accuracy on validation rows that a searched ratio may cost")
    trials: int = hp(4, low=1, high=4, help="fine-tunings of a search: 4 for the whole grid, fewer for a coarser one")

    def asks_for(self) -> frozenset[str]:
        return self.needs if self.search else self.needs - {"validation"}

    @abstractmethod
    def reserving(self, model: nn.Module, ctx: DefenseContext) -> Callable[[float], nn.Module]:
        """Ratio -> a copy of `model` that keeps this part, before fine-tuning; what does not depend on it is done once."""

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        reserve = self.reserving(model, ctx)
        state = ctx.generator.get_state()

        def repaired(ratio: float) -> nn.Module:
            ctx.generator.set_state(state)  # all trials draw alike: the weights kept at one ratio are among those of a larger
            kept = reserve(ratio)
            ctx.train(kept, ctx.clean, self.recipe())
            return kept

        if not self.search:
            return repaired(self.ratio)
        accuracy = ctx.accuracy(model, ctx.validation)
        trials, found = [], model

        def accepted(ratio: float) -> bool:
            nonlocal found
            tried = repaired(ratio)
            trials.append({"ratio": ratio, "accuracy": ctx.accuracy(tried, ctx.validation)})
            fits = trials[-1]["accuracy"] >= accuracy - self.tolerance
            found = tried if fits or ratio == GRID[-1] else found
            return fits

        step = len(GRID) // 2**self.trials
        ratio = smallest_accepted(GRID[step - 1 :: step], accepted)
        if ratio == GRID[-1]:
            accepted(ratio)
        ctx.notes.update(accuracy=accuracy, trials=trials, ratio=ratio)
        return found


def smallest_accepted(grid: Sequence[float], accepted: Callable[[float], bool]) -> float:
    """The smallest value of an ascending grid that is accepted, by bisection, if what is above an accepted one is too.

    The last value counts as accepted and is not tried: of 2**n values n are.
    """
    low, high = 0, len(grid) - 1
    while low < high:
        middle = (low + high) // 2
        if accepted(grid[middle]):
            high = middle
        else:
            low = middle + 1
    return grid[high]
