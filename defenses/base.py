"""The contract of a defense. The one kind so far repairs weights: a suspect classifier in, a repaired one out.

Weight repairs compose: `e-pur+fine-tuning` applies the left one first and hands its result to the right one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bdbench.params import Hyperparameters, hp
from bdbench.registry import DEFENSES

if TYPE_CHECKING:
    from torch import nn

    from bdbench.context import DefenseContext
    from bdbench.loops import Recipe

register = DEFENSES.register

# What a defense may ask for beside the victim itself; the context hands over nothing that is not declared.
RESOURCES = ("clean", "validation", "pretrained")


@dataclass(frozen=True)
class ModelRepair(Hyperparameters, ABC):
    """A defense that turns the victim's weights into repaired ones.

    `needs` lists what it must be given, from `RESOURCES`. `unchanged` is True only for a defense that returns the victim as
    it is; the victim's own evaluation is then reused.
    """

    paper: ClassVar[str]
    version: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    unchanged: ClassVar[bool] = False

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
        from bdbench.loops import Recipe

        return Recipe(epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size)
