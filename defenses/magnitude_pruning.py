"""Magnitude pruning: the smallest weights of every matrix are set to zero, then the rest is fine-tuned on the clean set.

From Han et al. (NeurIPS 2015, arXiv:1506.02626), where pruned weights stay at zero while the others are trained. The seed
paper's fine-pruning has a variant for single weights (from memory); this is its usual criterion. Unlike fine-pruning it asks no
clean text which weights matter. Pruned are the matrices of the encoder's linear layers, each to the same share; embeddings,
biases, norms and the head stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import prune

from bdbench.defenses.base import Reserving, register
from bdbench.engine.neurons import linear_layers
from bdbench.engine.ranking import largest
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.protocol.contexts import DefenseContext


@register("magnitude-pruning", paper="arXiv:1506.02626")
@dataclass(frozen=True)
class MagnitudePruning(Reserving):
    title = "magnitude pruning"
    short_forms = {"frozen": {True: "", False: "revived"}, "search": {True: "", False: "fixed ratio"}}

    ratio: float = hp(
        0.5, low=0.0, high=1.0, aggressive="low", help="reserve ratio: share of each matrix's weights that is not pruned"
    )
    # a variant of its own, which tables compare; so a tuner does not choose it
    frozen: bool = hp(True, tuned=False, help="whether pruned weights stay at zero while fine-tuning")

    def reserving(self, model: nn.Module, ctx: DefenseContext) -> Callable[[float], nn.Module]:
        def pruned(ratio: float) -> nn.Module:
            result = copy.deepcopy(model)
            with torch.no_grad():
                for layer in linear_layers(result):
                    layer.weight.mul_(largest(layer.weight, ratio))
            return result

        return pruned

    def fine_tune(self, model: nn.Module, ctx: DefenseContext) -> None:
        layers = linear_layers(model) if self.frozen else []
        for layer in layers:
            prune.custom_from_mask(layer, "weight", layer.weight != 0)
        super().fine_tune(model, ctx)
        for layer in layers:
            prune.remove(layer, "weight")
