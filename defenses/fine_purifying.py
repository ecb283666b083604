"""Fine-purifying (Zhang et al., Findings of ACL 2023, arXiv:2305.04547).

Weights that moved far although the loss is flat there have abnormal dynamics. So each weight of the encoder gets the indicator
delta_i^2 / H_i: its move from the pre-trained value, squared, over the curvature of the loss in this direction. The weights of
largest indicator get their pre-trained value back, then the model is fine-tuned on the clean set.

The paper's abstract says that drifts and Hessians are compared; the indicator, and that the Fisher information stands for the
Hessian, are from memory. The Fisher information is here the mean over the clean rows of the squared gradient, at the victim and
with the rows' own labels. A piece that no clean row has got no gradient at all, so a small share of the mean Fisher information
is added to each (`damping`, ours): among such weights the move alone decides. All weights of the encoder that moved are ranked
together. Those of a word piece that no training row has did not move. They are pre-trained already, and of a small encoder half
of all weights: if they counted, a small ratio would keep none of the others. The share that is kept is searched by the rule of
Fine-mixing, by the same authors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.defenses.base import Reserving, register
from bdbench.defenses.fine_mixing import mix
from bdbench.engine.ranking import threshold_of_largest
from bdbench.engine.training import cross_entropy
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("fine-purifying", version=2, paper="arXiv:2305.04547")
@dataclass(frozen=True)
class FinePurifying(Reserving):
    title = "Fine-purifying"
    short_forms = {"search": {True: "", False: "fixed ratio"}}
    needs = frozenset({"clean", "validation", "pretrained"})

    ratio: float = hp(
        0.3, low=0.0, high=1.0, aggressive="low", help="reserve ratio: share of the encoder's weights that moved which stay"
    )
    damping: float = hp(
        0.01, low=1e-9, search=(1e-4, 1.0), log=True, help="added to each curvature, as a share of the mean curvature"
    )

    def reserving(self, model: nn.Module, ctx: DefenseContext) -> Callable[[float], nn.Module]:
        suspicion = self.indicators(model, ctx)
        of_moved = torch.cat([indicator[indicator > 0] for indicator in suspicion.values()])
        ctx.notes["moved"] = len(of_moved) / sum(indicator.numel() for indicator in suspicion.values())

        def purified(ratio: float) -> nn.Module:
            pretrained = ctx.pretrained  # not kept while the purified model is trained
            result = copy.deepcopy(model)
            threshold = threshold_of_largest(of_moved, 1 - ratio)
            for name, weight in result.named_parameters():
                if name in suspicion:
                    weight.data = mix(weight.data, pretrained[name].to(ctx.device), suspicion[name] < threshold)
            return result

        return purified

    def indicators(self, model: nn.Module, ctx: DefenseContext) -> dict[str, Tensor]:
        """The indicator of every weight that has a pre-trained value, by parameter name."""
        pretrained, fisher = ctx.pretrained, fisher_information(model, ctx)
        weights = dict(model.named_parameters())
        mean = sum(fisher[name].sum() for name in pretrained) / sum(start.numel() for start in pretrained.values())
        return {
            name: indicator(weights[name].detach() - start.to(ctx.device), fisher[name], self.damping * mean)
            for name, start in pretrained.items()
        }


def fisher_information(model: nn.Module, ctx: DefenseContext) -> dict[str, Tensor]:
    """The mean over the clean rows of the squared gradient of each row's own loss, by parameter name. The model stays as it is.

    It is in evaluation mode, so that nothing is drawn.
    """
    rows = ctx.encode(ctx.clean)
    names, parameters = zip(*model.named_parameters(), strict=True)
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    for row in range(len(rows)):
        inputs, labels = rows.batch(torch.tensor([row]), ctx.device)
        loss = cross_entropy(model, inputs, labels)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        for square, gradient in zip(squares, gradients, strict=True):
            square.addcmul_(gradient, gradient, value=1 / len(rows))
    return dict(zip(names, squares, strict=True))


def indicator(delta: Tensor, curvature: Tensor, damping: Tensor | float) -> Tensor:
    """delta_i^2 / (H_i + damping), all of one shape but `damping`, a scalar; 0 where nothing moved."""
    return torch.where(delta == 0, 0.0, delta.square() / (curvature + damping))
