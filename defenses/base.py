"""The contract of a defense. There are five kinds, told apart by where they act; each has one abstract method.

- A repair turns the victim's weights into repaired ones. A detector scores texts, and the engine rejects the most suspicious.
  A purifier rewrites texts. A filter drops training rows, and the engine trains anew on the rest. A training defense trains
  the classifier itself.
- Repairs compose, and a detector or purifier may guard what they leave: `e-pur+fine-tuning` applies the left one first and
  hands its result to the right one.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
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
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from bdbench.data import TextSet
    from bdbench.engine.training import Recipe
    from bdbench.protocol.contexts import DefenseContext

register = DEFENSES.register

# The stage of a reserving repair (`DefenseContext.observe`) in which its ratio is applied, and nothing is trained yet.
BEFORE_FINE_TUNING = "before fine-tuning"


@dataclass(frozen=True)
class Defense(Hyperparameters, ABC):
    """Base of every kind.

    `needs` lists the resources it may ask for (`bdbench.specs.resources`); some hyperparameters make it ask for fewer. What
    the engine itself takes for a kind is in `engine_needs`. `unchanged` is True only for a defense that returns the victim as
    it is. Then the victim's own evaluation is used again. `packages` are modules that it imports and bdbench itself does not
    need, each with the extra of bdbench that brings it.
    """

    paper: ClassVar[str]
    version: ClassVar[str]
    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    engine_needs: ClassVar[frozenset[str]] = frozenset()
    unchanged: ClassVar[bool] = False
    packages: ClassVar[Mapping[str, str]] = {}

    def asks_for(self) -> frozenset[str]:
        """The resources that it uses with these hyperparameters."""
        return self.needs

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, with what to do, or None. Asked before anything is trained."""
        missing = ((package, extra) for package, extra in self.packages.items() if importlib.util.find_spec(package) is None)
        for package, extra in missing:
            install = f"pip install -c constraints.txt -e '.[{extra}]'"
            return f"{self.name} needs the package {package}, which is not installed: {install}"
        return None

    def chooses(self) -> frozenset[str]:
        """The hyperparameters that it does not use with these values, since it chooses them by itself: a tuner leaves them."""
        return frozenset()

    def skip(self, task: str) -> str | None:
        """Why this defense makes no sense on this task, or None. A skipped cell is recorded as skipped, with the reason.

        The attack's name is withheld: by the threat model the defender does not know the attack.
        """
        return None

    def unfit(self, model: nn.Module) -> str | None:
        """Why this defense cannot be used with a classifier of this kind, or None. Its cells are skipped, with the reason.

        `model` stays as it is; its parameters have names and shapes, but no numbers (`device="meta"`).
        """
        return None


@dataclass(frozen=True)
class ModelRepair(Defense):
    """A defense that turns the victim's weights into repaired ones."""

    kind = "repair"

    @abstractmethod
    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        """The repaired classifier. `model`, a transformers sequence classifier on `ctx.device`, stays as it is."""


@dataclass(frozen=True)
class Detector(Defense):
    """A defense that tells suspicious texts from others. It never learns the target label, nor which texts are triggered.

    The engine takes the threshold from the scores of clean validation rows, by one rule for all detectors: a stated share of
    them is rejected (`--frr`). A rejected clean row is an error, a rejected triggered one no success.
    """

    kind = "detector"
    engine_needs = frozenset({"validation"})

    @abstractmethod
    def score(self, model: nn.Module, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.float64]:
        """How suspicious each row is, (n,), finite; higher is more so. `model` stays as it is.

        `rows` have no labels: all are 0. A row's score must not hang on the rows beside it.
        """


@dataclass(frozen=True)
class Purifier(Defense):
    """A defense that rewrites texts before the classifier sees them."""

    kind = "purifier"

    @abstractmethod
    def purify(self, rows: TextSet, ctx: DefenseContext) -> TextSet:
        """The n rows rewritten, in the same order. They have no labels: all are 0. A pair stays a pair."""


@dataclass(frozen=True)
class Filter(Defense):
    """A defense that drops rows of a poisoned training set. The engine trains anew on the rest, from the attack's own start."""

    kind = "filter"
    engine_needs = frozenset({"training-set", "training-control"})

    @abstractmethod
    def keep(self, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.bool_]:
        """Which of the n training rows are kept, (n,). Some are poisoned, and have the label that the attack gave them."""


@dataclass(frozen=True)
class Training(Defense):
    """A defense that controls the training on a poisoned set."""

    kind = "training"
    engine_needs = frozenset({"training-set", "training-control"})

    @abstractmethod
    def train(self, model: nn.Module, rows: TextSet, ctx: DefenseContext) -> nn.Module:
        """The trained classifier. `model` is what the attack's training would start from; it may be changed in place.

        `rows` are the training rows, some of which are poisoned. `ctx.recipe` is how the victim was trained.
        """


KINDS = {kind.kind: kind for kind in (ModelRepair, Detector, Purifier, Filter, Training)}


def why_not_composed(parts: Sequence[Defense]) -> str | None:
    """Why these cannot be applied one after another, as the end of a sentence, or None: repairs, then at most one guard."""
    for place, part in enumerate(parts if len(parts) > 1 else ()):
        if part.unchanged:
            return f"'{part.name}' does nothing, so it cannot be composed; leave it out"
        if part.kind in (Filter.kind, Training.kind):
            return f"'{part.name}' makes the classifier anew ({part.kind}), so it cannot be composed; run it alone"
        if place < len(parts) - 1 and part.kind != ModelRepair.kind:
            return (
                f"'{part.name}' guards a classifier at its input ({part.kind}), so nothing can follow it; put it last, "
                "behind repairs"
            )
    return None


@dataclass(frozen=True)
class FineTuned(ModelRepair):
    """A repair that ends by fine-tuning every weight on the clean set. All of these have the same hyperparameters.

    The paper gives the size of the clean set, but not how to train on it. The defaults are ours (benchmark/README.md, "How the
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

    def fine_tune(self, model: nn.Module, ctx: DefenseContext) -> None:
        """Train `model`, a copy that keeps a part of the victim, in place on the clean set."""
        ctx.train(model, ctx.clean, self.recipe())

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        reserve = self.reserving(model, ctx)
        state = ctx.generator.get_state()

        def reserved(ratio: float) -> nn.Module:
            # Every trial draws the same numbers, so that the weights kept at one ratio are among those of a larger one.
            ctx.generator.set_state(state)
            return reserve(ratio)

        def repaired(ratio: float) -> nn.Module:
            result = reserved(ratio)
            self.fine_tune(result, ctx)
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
