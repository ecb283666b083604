"""Fine-mixing (Zhang et al., 2022, arXiv:2210.09545).

Each weight of the victim is kept with probability rho, the reserve ratio. Otherwise it is set back to the clean pre-trained
one. Then the mixed model is fine-tuned on the clean set. The head has no pre-trained counterpart and stays the victim's.

`select=activation` is the paper's variant (Sel), from memory: the criterion of fine-pruning selects the weights that stay. That
criterion ranks feed-forward neurons. So in each layer the share rho of most active neurons keeps all its weights, and the other
neurons are set back. It says nothing about the weights outside the feed-forward blocks; these stay with probability rho.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.defenses.base import Reserving, register
from bdbench.engine.neurons import feed_forward_blocks, mean_activations, most_active, why_unfit
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("fine-mixing", version=2, paper="arXiv:2210.09545")
@dataclass(frozen=True)
class FineMixing(Reserving):
    title = "Fine-mixing"
    short_forms = {"select": {"random": "", "activation": "Sel"}, "search": {True: "", False: "fixed ratio"}}
    needs = frozenset({"clean", "validation", "pretrained"})

    ratio: float = hp(
        0.3, low=0.0, high=1.0, aggressive="low", help="reserve ratio: probability that a weight stays the victim's"
    )
    # two published methods, which tables compare; so a tuner does not choose between them
    select: str = hp("random", choices=("random", "activation"), tuned=False, help="how the weights that stay are selected")

    def unfit(self, model: nn.Module) -> str | None:
        return why_unfit(model) if self.select == "activation" else None

    def reserving(self, model: nn.Module, ctx: DefenseContext) -> Callable[[float], nn.Module]:
        activations = mean_activations(model, ctx.encode(ctx.clean), ctx.device) if self.select == "activation" else []

        def mixed(ratio: float) -> nn.Module:
            pretrained = ctx.pretrained  # not kept while the mixed model is trained
            result = copy.deepcopy(model)
            masks = neuron_masks(result, activations, ratio) if activations else {}
            for name, weight in result.named_parameters():
                if name in pretrained:
                    random_mask = torch.rand(weight.shape, generator=ctx.generator) < ratio
                    kept = masks.get(name, random_mask).to(ctx.device)
                    weight.data = mix(weight.data, pretrained[name].to(ctx.device), kept)
            return result

        return mixed


def mix(victim: Tensor, pretrained: Tensor, kept: Tensor) -> Tensor:
    """m * w_B + (1 - m) * w_Pre with the mask m = `kept` (bool). All have one shape, or `kept` is broadcast to it."""
    return torch.where(kept, victim, pretrained)


def neuron_masks(model: nn.Module, activations: list[Tensor], ratio: float) -> dict[str, Tensor]:
    """Masks by parameter name: True at the weights of the round(ratio * neurons) most active neurons of every block.

    Each is broadcast to its parameter: BERT's are incoming rows (neurons, 1), biases (neurons,) and outgoing columns
    (1, neurons). `activations` has one (neurons,) per block.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    masks = {}
    for block, activation in zip(feed_forward_blocks(model), activations, strict=True):
        active = most_active(activation, ratio)
        for weights in (*block.incoming, block.outgoing):
            masks[names[weights.parameter]] = weights.mask(active)
    return masks
