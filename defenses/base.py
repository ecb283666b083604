"""The contract of a defense. The one kind so far repairs weights: it turns a suspect classifier into a repaired one.

Weight repairs compose: `e-pur+fine-tuning` applies the left one first and hands its result to the right one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from bdbench.defenses._search import (
    GRID,
    Trial,
    bisect_ratios,
    coarser_grid,
    exact_accuracy,
    least_accuracy,
    smallest_accepted,
)
from bdbench.params import Hyperparameters, hp
from bdbench.registry import DEFENSES

if TYPE_CHECKING:
    from torch import nn

    from bdbench.engine.training import Recipe
    from bdbench.protocol.contexts import DefenseContext

register = DEFENSES.register

# What a defense may ask for beside the victim itself; the context hands over nothing that is not declared.
RESOURCES = ("clean", "validation", "pretrained")

# The stage of a reserving repair (`DefenseContext.observe`) in which its ratio is applied, and nothing is trained yet.
BEFORE_FINE_TUNING = "before fine-tuning"


@dataclass(frozen=True)
class ModelRepair(Hyperparameters, ABC):
    """A defense that turns the victim's weights into repaired ones.

    `needs` lists the resources it may ask for, from `RESOURCES`; some hyperparameters make it ask for fewer. `unchanged` is
    True only for a defense that returns the victim as it is. Then the victim's own evaluation is used again.
    """

    paper: ClassVar[str]
    version: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    unchanged: ClassVar[bool] = False

    def asks_for(self) -> frozenset[str]:
        """The resources that it uses with these hyperparameters."""
        return self.needs

    def chooses(self) -> frozenset[str]:
        """The hyperparameters that it does not use with these values, since it chooses them by itself: a tuner leaves them."""
        return frozenset()

    def skip(self, task: str) -> str | None:
        """Why this defense makes no sense on this task, or None. A skipped cell is recorded as skipped, with the reason.

        The attack's name is withheld: by the threat model the defender does not know the attack.
        """
        return None

    def unfit(self, model: nn.Module) -> str | None:
        """Why this defense cannot repair a classifier of this kind, or None. Its cells are skipped, with the reason.

        `model` stays as it is; its parameters have names and shapes, but no numbers (`device="meta"`).
        """
        return None

    @abstractmethod
    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        """The repaired classifier. `model`, a transformers sequence classifier on `ctx.device`, stays as it is."""


@dataclass(frozen=True)
class FineTuned(ModelRepair):
    """A repair that ends by fine-tuning every weight on the clean set. All of these have the same hyperparameters.

    The paper gives the size of the clean set, but not how to train on it. The defaults are ours (README, "How the
    hyperparameters were chosen").
    """

    needs = frozenset({"clean"})

    # Searched: the recipes that repairs are published with, and some stronger. More passes or steps of another size do what a
    # higher learning rate does, so a tuner leaves the other three.
    epochs: int = hp(10, low=1, high=1000, search=(1, 40), log=True, aggressive="high", help="passes over the clean set")
    learning_rate: float = hp(
        5e-5, low=0.0, high=1.0, search=(1e-6, 1e-3), log=True, aggressive="high", help="AdamW's peak learning rate"
    )
    batch_size: int = hp(16, low=1, high=4096, tuned=False, help="clean rows per step")
    warmup: float = hp(
        0.1, low=0.0, high=1.0, tuned=False, help="share of the steps in which the learning rate rises from zero"
    )
    clip: float = hp(1.0, low=0.0, tuned=False, help="largest L2 norm of the whole gradient")

    def recipe(self) -> Recipe:
        """For `ctx.train`."""
        from bdbench.engine.training import Recipe

        return Recipe(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            warmup=self.warmup,
            clip=self.clip,
        )


@dataclass(frozen=True)
class Reserving(FineTuned):
    """A repair that keeps a part of the victim's weights, the reserve ratio rho, discards the rest and fine-tunes.

    With `search`, rho is chosen as a defender could choose it, on validation rows. It is the smallest ratio of a grid whose
    accuracy, after fine-tuning, is at most `tolerance` below that of the classifier that came in. The search assumes that
    accuracy grows with the ratio. It takes `trials` fine-tunings, and one more if no ratio below 1 is accepted; then rho is
    1, whatever its accuracy. The result is the model of the chosen trial, the same as with this ratio fixed.

    The rule is from memory of arXiv:2210.09545. The tolerance is ours.
    """

    needs = frozenset({"clean", "validation"})

    ratio: float = hp(0.5, low=0.0, high=1.0, aggressive="low", help="reserve ratio: share of the victim that is kept")
    search: bool = hp(False, tuned=False, help="whether the ratio is searched for on validation rows instead")
    tolerance: float = hp(
        0.05, low=0.0, high=1.0, tuned=False, help="accuracy on validation rows that a searched ratio may cost"
    )
    trials: int = hp(
        4, low=1, high=4, tuned=False, help="fine-tunings of a search: 4 for the whole grid, fewer for a coarser one"
    )

    def chooses(self) -> frozenset[str]:
        return frozenset({"ratio"}) if self.search else frozenset()

    def asks_for(self) -> frozenset[str]:
        return self.needs if self.search else self.needs - {"validation"}

    @abstractmethod
    def reserving(self, model: nn.Module, ctx: DefenseContext) -> Callable[[float], nn.Module]:
        """A function of the ratio: a copy of `model` that keeps this part of it, not yet fine-tuned.

        What does not depend on the ratio is computed once, here.
        """

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        reserve = self.reserving(model, ctx)
        state = ctx.generator.get_state()

        def reserved(ratio: float) -> nn.Module:
            # Every trial draws the same numbers, so that the weights kept at one ratio are among those of a larger one.
            ctx.generator.set_state(state)
            return reserve(ratio)

        def repaired(ratio: float) -> nn.Module:
            result = reserved(ratio)
            ctx.train(result, ctx.clean, self.recipe())
            return result

        def accuracy_of(classifier: nn.Module) -> Fraction:
            return exact_accuracy(ctx.accuracy(classifier, ctx.validation), len(ctx.validation))

        def attempt(ratio: float) -> Trial:
            result = repaired(ratio)
            return Trial(ratio, accuracy_of(result), result)

        if not self.search:
            ctx.observe(BEFORE_FINE_TUNING, lambda: reserved(self.ratio))
            return repaired(self.ratio)
        accuracy = accuracy_of(model)
        least = least_accuracy(accuracy, self.tolerance)
        trials = bisect_ratios(coarser_grid(GRID, self.trials), least, attempt)
        best = smallest_accepted(trials, least)
        ctx.notes.update(
            accuracy=float(accuracy),
            trials=[{"ratio": trial.ratio, "accuracy": float(trial.accuracy)} for trial in trials],
            ratio=best.ratio,
        )
        ctx.observe(BEFORE_FINE_TUNING, lambda: reserved(best.ratio))
        return best.model
