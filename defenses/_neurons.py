"""The feed-forward neurons of a transformer and how active they are on clean texts, the criterion of fine-pruning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from bdbench.protocol.contexts import DefenseContext

# The feed-forward block's two matrices in BERT, RoBERTa and ELECTRA, and in DistilBERT.
BLOCKS = (("intermediate.dense", "output.dense"), ("ffn.lin1", "ffn.lin2"))


def feed_forward_blocks(model: nn.Module) -> Iterator[tuple[nn.Linear, nn.Linear]]:
    """The (rising, falling) linear layers of every feed-forward block, first layer first.

    Raises TypeError if the model has no such block.
    """
    modules = dict(model.named_modules())
    count = 0
    for name, module in modules.items():
        for rising, falling in BLOCKS:
            if name.endswith("." + rising):
                count += 1
                yield module, modules[name[: -len(rising)] + falling]
    if not count:
        raise TypeError(f"{type(model).__name__} has no feed-forward block named as in {BLOCKS}")


def mean_activations(model: nn.Module, ctx: DefenseContext) -> list[Tensor]:
    """Per feed-forward block, (neurons,) float32: the mean absolute activation over the clean set's pieces, without padding."""
    rows = ctx.encode(ctx.clean)
    fallings = [falling for _, falling in feed_forward_blocks(model)]
    sums = [torch.zeros(falling.in_features, device=ctx.device) for falling in fallings]
    inputs, _ = rows.batch(torch.arange(len(rows)), ctx.device)
    real = inputs["attention_mask"].unsqueeze(-1)

    def add_to(total: Tensor):
        return lambda module, arguments: total.add_((arguments[0].abs().float() * real).sum(dim=(0, 1)))

    handles = [falling.register_forward_pre_hook(add_to(total)) for falling, total in zip(fallings, sums, strict=True)]
    with torch.inference_mode():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return [total / real.sum() for total in sums]


def most_active(activation: Tensor, ratio: float) -> Tensor:
    """(neurons,) bool: True at the round(ratio * neurons) largest of `activation` (neurons,); of equal ones the later wins."""
    least_active = activation.argsort(stable=True)[: len(activation) - round(ratio * len(activation))]
    return torch.ones_like(activation, dtype=torch.bool).index_fill(0, least_active, False)
