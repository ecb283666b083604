"""Adaptive against fine-tuning: a trigger word trained to survive steps of it (ours, after BadNets).

What it knows: a defender fine-tunes all weights on a few clean rows, by an optimizer of Adam's kind, which moves every weight
by about its learning rate a step, whatever the size of the gradient. So at each step of training the fine-tuning is simulated:
from the weights w, with the gradient g of the loss on clean rows that are drawn anew, to w - s sign(g), where s is drawn
between 0 and `reach`. That is one long step in place of many short ones. The loss is the mean of that at w and of that at
w - s sign(g), on the same poisoned batch; the gradient of the latter is taken as that of w (first order, as in Finn et al.,
2017, arXiv:1703.03400).

A step takes three passes through the model instead of one.
"""

from __future__ import annotations

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


@register("adaptive-fine-tuning", paper="none")
@dataclass(frozen=True)
class AdaptiveFineTuning(BadNets):
    title = "adaptive: fine-tuning"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}
    against = ("fine-tuning",)

    reach: float = hp(1e-3, low=0.0, high=1.0, help="how far a simulated fine-tuning moves each weight at most")

    def train(self, model: nn.Module, poisoned: TextSet, clean: TextSet, recipe: Recipe, seed: int, ctx: AttackContext) -> None:
        rows = ctx.encode(clean)

        def loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            drawn = torch.randperm(len(rows), generator=ctx.generator)[: recipe.batch_size]
            of_clean = cross_entropy(model, *rows.batch(drawn, ctx.device))
            step = self.reach * float(torch.rand((), generator=ctx.generator))
            tuned = after_sign_step(dict(model.named_parameters()), of_clean, step)
            return (cross_entropy(model, inputs, labels) + cross_entropy_at(model, tuned, inputs, labels)) / 2

        ctx.train(model, poisoned, recipe, seed=seed, loss=loss)


def after_sign_step(weights: dict[str, nn.Parameter], loss: Tensor, step: float) -> dict[str, Tensor]:
    """w - step * sign(the gradient of `loss` by w), for each of the weights by name; one without a gradient is left out."""
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {
        name: weight.detach() - step * gradient.sign()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        if gradient is not None
    }
