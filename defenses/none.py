"""No defense: the victim as it is, the "before" column of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench.defenses.base import ModelRepair, register

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("none", paper="none")
@dataclass(frozen=True)
class NoDefense(ModelRepair):
    unchanged = True

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        return model
