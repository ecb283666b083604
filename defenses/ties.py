"""TIES merging (Yadav et al., NeurIPS 2023, arXiv:2306.01708) of the suspect with other models of its task.

Of what every model changed in the pre-trained weights only the largest changes stay (trim). For each weight the models elect a
sign, that of the sum of their changes; the merged change is the mean of those that have it. It is added to the pre-trained
weights, times a factor. A backdoor that one model alone has is outvoted where the others changed the same weights more. Nothing
is trained.

The method was made to join models of several tasks. As a defense it is a baseline of guided module substitution (Findings of
EMNLP 2025), and the peers are those of WAG. From memory of the paper: 20 % of the changes, ranked over all weights of a model
at once, and the factor 1. A change of exactly the threshold stays. The head has no pre-trained counterpart and is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench.defenses._merging import disjoint_mean, magnitudes, merged, models_of, trimmed
from bdbench.defenses.base import ModelRepair, register
from bdbench.engine.ranking import threshold_of_largest
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("ties", paper="arXiv:2306.01708")
@dataclass(frozen=True)
class Ties(ModelRepair):
    title = "TIES"
    needs = frozenset({"peers", "pretrained"})

    share: float = hp(
        0.2, low=0.0, high=1.0, search=(0.05, 1.0), aggressive="low", help="share of each model's changes that stays"
    )
    scale: float = hp(
        1.0, low=0.0, search=(0.3, 2.0), aggressive="low", help="factor of the merged change of the pre-trained weights"
    )

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        pretrained = ctx.pretrained
        changed = [magnitudes(weights, pretrained) for weights in models_of(model, ctx)]
        thresholds = [threshold_of_largest(of_model, self.share).to(ctx.device) for of_model in changed]
        return merged(model, ctx, lambda changes: self.scale * disjoint_mean(trimmed(changes, thresholds)))
