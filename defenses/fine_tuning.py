"""Fine-tuning of all the victim's weights on the clean set (a baseline of Zhang et al., 2022, arXiv:2210.09545)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench.defenses.base import FineTuned, register

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("fine-tuning", paper="arXiv:2210.09545")
@dataclass(frozen=True)
class FineTuning(FineTuned):
    title = "fine-tuning"

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        repaired = copy.deepcopy(model)
        ctx.train(repaired, ctx.clean, self.recipe())
        return repaired
