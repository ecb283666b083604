"""Fine-pruning (Liu et al., 2018, arXiv:1805.12185) for transformers.

Prunes in every layer the neurons of the feed-forward block that are least active on clean texts, then fine-tunes on the
clean set. A pruned neuron's incoming weights are zero, so its activation is zero; fine-tuning may revive it unless
`frozen`, the variant (F) of arXiv:2210.09545 (from memory of the paper).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bdbench.defenses.base import FineTuned, register
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.context import DefenseContext

# The feed-forward block's two matrices in BERT, RoBERTa and ELECTRA, and in DistilBERT.
BLOCKS = (("intermediate.dense", "output.dense"), ("ffn.lin1", "ffn.lin2"))


@register("fine-pruning", paper="arXiv:1805.12185")
@dataclass(frozen=True)
class FinePruning(FineTuned):
    fraction: float = hp(0.5, low=0.0, high=1.0, help="share of the feed-forward neurons pruned in every layer")
    frozen: bool = hp(False, help="whether pruned neurons stay at zero while fine-tuning")

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        repaired = copy.deepcopy(model)
        blocks = list(feed_forward_blocks(repaired))
        for (rising, falling), activation in zip(blocks, self._activations(repaired, blocks, ctx), strict=True):
            dead = least_active(activation, self.fraction)
            with torch.no_grad():
                rising.weight[dead], rising.bias[dead] = 0.0, 0.0
                if self.frozen:  # with both sides at zero neither gets a gradient
                    falling.weight[:, dead] = 0.0
        ctx.train(repaired, ctx.clean, self.recipe())
        return repaired

    def _activations(self, model: nn.Module, blocks: list[tuple[nn.Linear, nn.Linear]], ctx: DefenseContext) -> list[Tensor]:
        """Per block, (neurons,): the mean absolute activation over the real pieces of the clean set."""
        rows = ctx.encode(ctx.clean)
        sums = [torch.zeros(falling.in_features, device=ctx.device) for _, falling in blocks]
        inputs, _ = rows.batch(torch.arange(len(rows)), ctx.device)
        real = inputs["attention_mask"].unsqueeze(-1)

        def adding(total: Tensor):
            return lambda module, given: total.add_((given[0].abs().float() * real).sum(dim=(0, 1)))

        handles = [falling.register_forward_pre_hook(adding(total)) for (_, falling), total in zip(blocks, sums, strict=True)]
        with torch.inference_mode():
            model(**inputs)
        for handle in handles:
            handle.remove()
        return [total / real.sum() for total in sums]


def least_active(activation: Tensor, fraction: float) -> Tensor:
    """Indices of the floor(fraction * neurons) smallest of `activation` (neurons,); ties go to the earlier neuron."""
    return activation.argsort(stable=True)[: int(fraction * len(activation))]


def feed_forward_blocks(model: nn.Module) -> Iterator[tuple[nn.Linear, nn.Linear]]:
    """The (rising, falling) linear layers of every feed-forward block, first layer first. Raises TypeError on none."""
    modules = dict(model.named_modules())
    found = 0
    for name, module in modules.items():
        for rising, falling in BLOCKS:
            if name.endswith("." + rising):
                found += 1
                yield module, modules[name[: -len(rising)] + falling]
    if not found:
        raise TypeError(f"{type(model).__name__} has no feed-forward block named as in {BLOCKS}")
