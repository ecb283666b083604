"""DARE merging (Yu et al., ICML 2024, arXiv:2311.03099) of the suspect with other models of its task.

Of what every model changed in the pre-trained weights a random share is dropped, and the rest is divided by the share that
stays, so that the expected change is the same. The mean over the models is added to the pre-trained weights, times a factor.
Nothing is trained.

The method was made to join models of several tasks. As a defense it is a baseline of guided module substitution (Findings of
EMNLP 2025), and the peers are those of WAG. Its abstract says that 90 % can be dropped. With `elect` the rescaled changes are
merged as in TIES, without its trimming, which the paper also tries (from memory). The head has no pre-trained counterpart and
is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.defenses._merging import disjoint_mean, merged
from bdbench.defenses.base import ModelRepair, register
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("dare", paper="arXiv:2311.03099")
@dataclass(frozen=True)
class Dare(ModelRepair):
    title = "DARE"
    short_forms = {"elect": {False: "", True: "TIES"}}
    needs = frozenset({"peers", "pretrained"})

    drop: float = hp(0.9, low=0.0, high=0.999, search=(0.0, 0.99), help="share of each model's changes that is dropped")
    scale: float = hp(
        1.0, low=0.0, search=(0.3, 2.0), aggressive="low", help="factor of the merged change of the pre-trained weights"
    )
    # a published combination, which tables compare; so a tuner does not choose it
    elect: bool = hp(False, tuned=False, help="whether the models elect a sign for each weight, as in TIES")

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        def merge(changes: Tensor) -> Tensor:
            kept = (torch.rand(changes.shape, generator=ctx.generator) >= self.drop).to(changes.device)
            rest = rescaled(changes, kept, self.drop)
            return self.scale * (disjoint_mean(rest) if self.elect else rest.mean(dim=0))

        return merged(model, ctx, merge)


def rescaled(changes: Tensor, kept: Tensor, drop: float) -> Tensor:
    """The changes where `kept` (bool, same shape) is true, over 1 - `drop`, the probability of that; 0 elsewhere."""
    return changes * kept / (1 - drop)
