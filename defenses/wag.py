"""WAG: the mean of the weights of several models of a task (Arora et al., Findings of ACL 2024, arXiv:2402.19334).

Backdoors of different origin cancel out, and what the models know of the task stays. Nothing is trained. The peers are other
fine-tuned classifiers of the same architecture, which may be backdoored themselves, by others (`--peers`). All weights are
averaged, those of the head included. From a summary of the paper and the authors' code.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.defenses.base import ModelRepair, register

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("wag", paper="arXiv:2402.19334")
@dataclass(frozen=True)
class Wag(ModelRepair):
    title = "WAG"
    needs = frozenset({"peers"})

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        merged = copy.deepcopy(model)
        own = {name: parameter.detach() for name, parameter in merged.named_parameters()}
        means = mean_weights([own, *ctx.peers])
        with torch.no_grad():
            for name, parameter in merged.named_parameters():
                parameter.copy_(means[name])
        return merged


def mean_weights(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over the models of every weight, by name, on the device of the first model's."""
    return {
        name: torch.stack([weights[name].to(weight.device) for weights in models]).mean(dim=0)
        for name, weight in models[0].items()
    }
