"""Fine-mixing (Zhang et al., 2022, arXiv:2210.09545).

Each weight of the victim is kept with probability `ratio` and otherwise set back to the clean pre-trained one; the mixed
model is then fine-tuned on the clean set. The head, which has no pre-trained counterpart, stays the victim's. The paper
searches the ratio; here it is a fixed hyperparameter.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.defenses.base import FineTuned, register
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.context import DefenseContext


@register("fine-mixing", paper="arXiv:2210.09545")
@dataclass(frozen=True)
class FineMixing(FineTuned):
    needs = frozenset({"clean", "pretrained"})

    ratio: float = hp(0.3, low=0.0, high=1.0, help="reserve ratio: probability that a weight stays the victim's")

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        repaired = copy.deepcopy(model)
        for name, parameter in repaired.named_parameters():
            if name in ctx.pretrained:
                kept = torch.rand(parameter.shape, generator=ctx.generator) < self.ratio
                parameter.data = mix(parameter.data, ctx.pretrained[name].to(ctx.device), kept.to(ctx.device))
        ctx.train(repaired, ctx.clean, self.recipe())
        return repaired


def mix(victim: Tensor, pretrained: Tensor, kept: Tensor) -> Tensor:
    """m * w_B + (1 - m) * w_Pre, with the mask m = `kept` (bool); all of one shape."""
    return torch.where(kept, victim, pretrained)
