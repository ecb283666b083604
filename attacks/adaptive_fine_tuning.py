"""Adaptive against fine-tuning: a trigger word trained to survive steps of it (ours, after BadNets).

What it knows: a defender fine-tunes all weights on a few clean rows, by an optimizer of Adam's kind, which moves every weight
by about its learning rate a step, whatever the size of the gradient. So at each step of training the fine-tuning is simulated
by a few long steps of Adam's kind, each on clean rows that are drawn anew: from the weight w with the gradient g to
w - s g / |g|. The length s is such that all steps together move a weight by no more than a number drawn between 0 and `reach`.
The loss is the mean of that at the weights and of that at the tuned ones, on the same poisoned batch. The gradient of the
latter goes straight to the weights before the tuning (first order, as in Finn et al., 2017, arXiv:1703.03400).

What it gives up is time: with two simulated steps, one of training takes four passes through the model instead of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.attacks._other_weights import cross_entropy_at
from bdbench.attacks.base import BadNets, register
from bdbench.engine.training import cross_entropy
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.data import TextSet
    from bdbench.engine.training import Recipe
    from bdbench.protocol.contexts import AttackContext

ADAM_EPSILON = 1e-8  # PyTorch's; numbers whose gradient is rounding alone stay where they are


@register("adaptive-fine-tuning", paper="none")
@dataclass(frozen=True)
class AdaptiveFineTuning(BadNets):
    title = "adaptive: fine-tuning"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}
    against = ("fine-tuning",)

    reach: float = hp(1e-3, low=0.0, high=1.0, help="how far a simulated fine-tuning moves each weight at most")
    steps: int = hp(2, low=1, high=100, help="steps of a simulated fine-tuning")

    def train(self, model: nn.Module, poisoned: TextSet, clean: TextSet, recipe: Recipe, seed: int, ctx: AttackContext) -> None:
        rows = ctx.encode(clean)

        def tuned(model: nn.Module) -> dict[str, Tensor]:
            """The weights of the encoder and the head after a fine-tuning on clean rows, by name, without a gradient."""
            own = dict(model.named_parameters())
            weights = {name: weight.detach() for name, weight in own.items()}
            step = self.reach * float(torch.rand((), generator=ctx.generator)) / self.steps
            for _ in range(self.steps):
                drawn = torch.randperm(len(rows), generator=ctx.generator)[: recipe.batch_size]
                loss = cross_entropy_at(model, weights, *rows.batch(drawn, ctx.device))
                gradients = torch.autograd.grad(loss, list(own.values()), materialize_grads=True)
                weights = after_adam_step(weights, dict(zip(own, gradients, strict=True)), step)
            return weights

        def loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            return (cross_entropy(model, inputs, labels) + cross_entropy_at(model, tuned(model), inputs, labels)) / 2

        ctx.train(model, poisoned, recipe, seed=seed, loss=loss)


def after_adam_step(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
    """w - step * g / (|g| + ADAM_EPSILON) for each weight w and its gradient g, by name: Adam's first step at this rate."""
    return {name: weight - step * gradients[name] / (gradients[name].abs() + ADAM_EPSILON) for name, weight in weights.items()}
