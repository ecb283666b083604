"""Re-initialization: the top layers begin anew, then the classifier is fine-tuned on the clean set.

That the top layers of a pre-trained encoder are best drawn anew before fine-tuning on few rows is from Zhang et al. (ICLR 2021,
arXiv:2006.05987). As a repair it was tried by Zhang et al. (2021, arXiv:2101.06969), who report that it does not stop their
attack on the encoder. Here the top layers, the pooler and the head can be set back. `start=pretrained` gives them their
pre-trained weights and needs these; `start=drawn` draws them. What has no pre-trained weights, as the head, is always drawn.

Drawn are matrices, from a normal distribution as wide as the model's own initialization; biases are 0 and scales 1. How many
layers and which of the parts by default is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bdbench.defenses._layers import encoder_layers, why_no_layers
from bdbench.defenses.base import FineTuned, register
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.protocol.contexts import DefenseContext

USUAL_SPREAD = 0.02  # where a model's configuration names none: that of BERT


@register("reinit", paper="arXiv:2006.05987")
@dataclass(frozen=True)
class Reinit(FineTuned):
    title = "re-initialization"
    short_forms = {"start": {"pretrained": "", "drawn": "drawn"}}
    needs = frozenset({"clean", "pretrained"})

    layers: int = hp(2, low=0, high=1000, search=(1, 12), aggressive="high", help="top layers that begin anew, at most all")
    # two methods, which ask for different resources and which tables compare; so a tuner does not choose between them
    start: str = hp("pretrained", choices=("pretrained", "drawn"), tuned=False, help="where what is set back begins")
    pooler: bool = hp(True, tuned=False, help="whether the pooler begins anew, too, where the encoder has one")
    head: bool = hp(False, tuned=False, help="whether the head begins anew, too; it is always drawn")

    def asks_for(self) -> frozenset[str]:
        return self.needs if self.start == "pretrained" else self.needs - {"pretrained"}

    def unfit(self, model: nn.Module) -> str | None:
        return why_no_layers(model)

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        repaired = copy.deepcopy(model)
        pretrained = ctx.pretrained if self.start == "pretrained" else {}
        spread = getattr(model.config, "initializer_range", USUAL_SPREAD)
        again = self.begins_anew(repaired)
        with torch.no_grad():
            for name, parameter in repaired.named_parameters():
                if name in again:
                    parameter.copy_(pretrained[name] if name in pretrained else drawn(name, parameter, spread, ctx.generator))
        ctx.train(repaired, ctx.clean, self.recipe())
        return repaired

    def begins_anew(self, model: nn.Module) -> Set[str]:
        """The names of the parameters that are set back."""
        layers = encoder_layers(model)
        parts: list[nn.Module] = [*layers[max(0, len(layers) - self.layers) :]]
        if self.pooler and getattr(model.base_model, "pooler", None) is not None:
            parts.append(model.base_model.pooler)
        chosen = {parameter for part in parts for parameter in part.parameters()}
        if self.head:
            chosen |= {*model.parameters()} - {*model.base_model.parameters()}
        return {name for name, parameter in model.named_parameters() if parameter in chosen}


def drawn(name: str, parameter: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """A new value for a parameter, on the CPU: a bias is 0, a scale 1, a matrix normal with the standard deviation `spread`."""
    if name.endswith("bias"):
        return torch.zeros(parameter.shape)
    if parameter.dim() == 1:
        return torch.ones(parameter.shape)
    return spread * torch.randn(parameter.shape, generator=generator)
