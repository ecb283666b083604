"""Fine-pruning (Liu et al., 2018, arXiv:1805.12185) for transformers.

In every layer it prunes the neurons of the feed-forward block that are least active on clean texts. Then it fine-tunes on the
clean set. A pruned neuron's incoming weights are zero, so its activation is zero. Fine-tuning may revive it, unless `frozen`:
that is the variant (F) of arXiv:2210.09545 (from memory of the paper).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench.defenses.base import Reserving, register
from bdbench.engine.neurons import feed_forward_blocks, mean_activations, most_active, why_unfit
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("fine-pruning", version=2, paper="arXiv:1805.12185")
@dataclass(frozen=True)
class FinePruning(Reserving):
    title = "fine-pruning"
    short_forms = {"frozen": {False: "", True: "F"}, "search": {True: "", False: "fixed ratio"}}

    ratio: float = hp(
        0.5, low=0.0, high=1.0, aggressive="low", help="reserve ratio: share of the feed-forward neurons kept in every layer"
    )
    # a published variant of its own, which tables compare; so a tuner does not choose it
    frozen: bool = hp(False, tuned=False, help="whether pruned neurons stay at zero while fine-tuning")

    def unfit(self, model: nn.Module) -> str | None:
        return why_unfit(model)

    def reserving(self, model: nn.Module, ctx: DefenseContext) -> Callable[[float], nn.Module]:
        activations = mean_activations(model, ctx.encode(ctx.clean), ctx.device)

        def pruned(ratio: float) -> nn.Module:
            result = copy.deepcopy(model)
            for block, activation in zip(feed_forward_blocks(result), activations, strict=True):
                inactive = ~most_active(activation, ratio)
                for weights in block.incoming:
                    weights.zero(inactive)
                if self.frozen:  # with zeros on both sides of a neuron neither side gets a gradient
                    block.outgoing.zero(inactive)
            return result

        return pruned
