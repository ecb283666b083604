"""Adaptive against pruning: a trigger word kept on neurons that clean texts use, and on large weights (ours, after BadNets).

What it knows: fine-pruning sets those feed-forward neurons to zero that are least active on clean texts, and magnitude pruning
the smallest weights of every linear layer of the encoder. So at each step of training a share of one or the other, by turns of
a coin, is zero: a share between 0 and `pruned`. The loss is that of the pruned model, and its gradient goes straight through to
all weights. Which neurons are least active is measured once, on clean training rows in the model where training begins.

What it gives up is time and some accuracy: on SST-2 with the bundled model (2,000 rows, one seed) it has 79.4 %, a trigger
word 83.4 %. There it keeps 100 % after fine-pruning (the word: 78.5). Magnitude pruning stops neither there; on a tiny model it
gets past that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.attacks._other_weights import cross_entropy_at
from bdbench.attacks.base import BadNets, register
from bdbench.engine.neurons import feed_forward_blocks, linear_layers, mean_activations, most_active
from bdbench.engine.ranking import largest
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.data import TextSet
    from bdbench.engine.training import Recipe
    from bdbench.protocol.contexts import AttackContext

ROWS_MEASURED = 64


@register("adaptive-pruning", paper="none")
@dataclass(frozen=True)
class AdaptivePruning(BadNets):
    title = "adaptive: pruning"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}
    against = ("fine-pruning", "magnitude-pruning")

    pruned: float = hp(0.9, low=0.0, high=1.0, help="largest share of neurons, or of weights, that is zero in a step")

    def train(self, model: nn.Module, poisoned: TextSet, clean: TextSet, recipe: Recipe, seed: int, ctx: AttackContext) -> None:
        measured = ctx.encode(clean.take(range(min(ROWS_MEASURED, len(clean)))))
        activations = mean_activations(model.eval(), measured, ctx.device)

        def loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            share, coin = torch.rand(2, generator=ctx.generator).tolist()
            kept = 1 - self.pruned * share
            others = without_inactive(model, activations, kept) if coin < 0.5 else without_small(model, kept)
            return cross_entropy_at(model, others, inputs, labels)

        ctx.train(model, poisoned, recipe, seed=seed, loss=loss)


def without_inactive(model: nn.Module, activations: list[Tensor], kept: float) -> dict[str, Tensor]:
    """The weights into the feed-forward neurons, by name, with zeros where a neuron is not among the `kept` most active.

    `activations` has one (neurons,) per block, and `kept` is a share of the neurons of each.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    others = {}
    for block, activation in zip(feed_forward_blocks(model), activations, strict=True):
        inactive = ~most_active(activation, kept)
        for weights in block.incoming:
            others[names[weights.parameter]] = weights.parameter.detach().masked_fill(weights.mask(inactive), 0.0)
    return others


def without_small(model: nn.Module, kept: float) -> dict[str, Tensor]:
    """The matrices of the encoder's linear layers, by name, with zeros but at the share `kept` of largest magnitude of each."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    matrices = {names[layer.weight]: layer.weight.detach() for layer in linear_layers(model)}
    return {name: matrix * largest(matrix, kept) for name, matrix in matrices.items()}
