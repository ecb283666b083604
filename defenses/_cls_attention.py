"""What the first piece of a text, [CLS], attends to: the criterion and the penalty of PURE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bdbench.defenses._attention import with_maps

if TYPE_CHECKING:
    from bdbench.protocol.contexts import DefenseContext

ROWS_AT_ONCE = 32  # of the validation rows, whose maps take rows * heads * n^2 numbers a layer


def cls_rows(maps: Iterable[Tensor]) -> Tensor:
    """The first piece's row of the maps of all layers, each (b, heads, n, n): (b, layers, heads, n) float32."""
    return torch.stack([layer_maps[:, :, 0].float() for layer_maps in maps], dim=1)


def cls_variances(model: nn.Module, ctx: DefenseContext) -> Tensor:
    """`row_variances` of every layer and head, (layers, heads) on the CPU, as a mean over the validation rows."""
    looking = with_maps(model)
    rows, total = ctx.encode(ctx.validation), 0.0
    for part in torch.arange(len(rows)).split(ROWS_AT_ONCE):
        inputs, _ = rows.batch(part, ctx.device)
        with torch.no_grad():
            maps = looking(**inputs, output_attentions=True).attentions
        total = total + row_variances(cls_rows(maps), inputs["attention_mask"]).sum(dim=0).cpu()
    return total / len(rows)


def row_variances(attention: Tensor, real: Tensor) -> Tensor:
    """(b, layers, heads, n) attention and (b, n), 1 at real pieces -> (b, layers, heads): the variance over the real pieces.

    The sum of squares is divided by one less than their number, if that is more than one.
    """
    real = real[:, None, None, :]
    count = real.sum(dim=3)
    mean = (attention * real).sum(dim=3) / count
    return ((attention - mean[..., None]).square() * real).sum(dim=3) / (count - 1).clamp(min=1)


def layer_coefficients(variances: Tensor, left: Tensor) -> Tensor:
    """(layers, heads) variances, and which heads are left -> (layers,) in [0, 1]; 1 for all where all layers are alike."""
    inverse = left.sum(dim=1) / (variances * left).sum(dim=1)
    share = inverse / inverse.sum()
    spread = share.max() - share.min()
    return torch.ones_like(share) if spread == 0 else (share - share.min()) / spread


def cls_norms(attention: Tensor) -> Tensor:
    """(b, layers, heads, n) -> (layers, heads): the L2 norm over the batch and the pieces; padding has no attention."""
    return attention.square().sum(dim=(0, 3)).sqrt()
