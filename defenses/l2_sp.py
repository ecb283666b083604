"""L2-SP: fine-tuning with a pull to the pre-trained weights (Li et al., ICML 2018, arXiv:1802.01483).

The loss is cross entropy + alpha / 2 * ||w - w_pre||^2 + beta / 2 * ||v||^2. Here w are the weights of the encoder, w_pre their
pre-trained values, and v the weights of the head, which has no pre-trained counterpart.

The paper starts from the pre-trained weights and keeps a classifier near them. As a repair it starts from the victim, and the
pull takes it back where the clean rows do not object. The paper uses SGD; here it is AdamW, as for every repair, and its steps
bound how far the pull can lead: it needs a higher learning rate, or more passes, than fine-tuning does. beta = 0.01 is from
memory of the paper, which searches alpha; alpha = 1 is ours, since of 0.1 a short fine-tuning shows nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.defenses.base import FineTuned, register
from bdbench.engine.training import cross_entropy
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("l2-sp", paper="arXiv:1802.01483")
@dataclass(frozen=True)
class L2Sp(FineTuned):
    title = "L2-SP"
    needs = frozenset({"clean", "pretrained"})

    alpha: float = hp(
        1.0, low=0.0, search=(1e-2, 100.0), log=True, aggressive="high", help="pull of the encoder to its pre-trained weights"
    )
    beta: float = hp(0.01, low=0.0, tuned=False, help="pull of the head, which has no pre-trained weights, to zero")

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        repaired = copy.deepcopy(model)
        pretrained = {name: weight.to(ctx.device) for name, weight in ctx.pretrained.items()}

        def loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            weights = dict(model.named_parameters())
            pull = half_square(weights[name] - start for name, start in pretrained.items())
            decay = half_square(weight for name, weight in weights.items() if name not in pretrained)
            return cross_entropy(model, inputs, labels) + self.alpha * pull + self.beta * decay

        ctx.train(repaired, ctx.clean, self.recipe(), loss=loss)
        return repaired


def half_square(differences: Iterable[Tensor]) -> Tensor:
    """Half the squared L2 norm of all these tensors together, a scalar."""
    return torch.stack([difference.square().sum() for difference in differences]).sum() / 2
