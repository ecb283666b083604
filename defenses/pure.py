"""PURE: pruning of attention heads and attention normalization (Zhao et al., ICML 2024).

A copy of the victim is fine-tuned on the clean set. Each head gets the variance of its attention row of the first piece, [CLS],
as a mean over validation rows. The heads of least variance are pruned in groups while the accuracy on validation rows holds; of
the group that breaks it, heads are put back one by one, highest variance first. The same heads are then pruned in the victim
itself, and it is fine-tuned with cross entropy + penalty * the sum over the layers of c_l times the sum, over the heads left,
of the L2 norm of the batch's [CLS] rows. c_l is one over the mean variance of the layer's heads left, scaled to a sum of 1 and
then to [0, 1].

From the authors' code, with these departures. Its stop at an accuracy of 0.85 is here the accuracy before pruning less a
tolerance. It counts padding in the variances; here padding is left out, and every row weighs the same. It takes a suspect
pre-trained encoder and puts a head of its own on [CLS]; here the victim has one. It trains 3 passes at 2e-5; here the recipe
is that of every repair. A pruned head has zeros in its weights, so the classifier keeps its shape.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bdbench.defenses._attention import attention_layers, trained_in, why_no_attention, with_maps
from bdbench.defenses._cls_attention import cls_norms, cls_rows, cls_variances, layer_coefficients
from bdbench.defenses._search import exact_accuracy, least_accuracy
from bdbench.defenses.base import FineTuned, register
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.protocol.contexts import DefenseContext

Head = tuple[int, int]  # the layer, from the lowest, and the head in it


@register("pure", paper="ICML 2024 (Zhao et al.)")
@dataclass(frozen=True)
class Pure(FineTuned):
    title = "PURE"
    needs = frozenset({"clean", "validation"})

    penalty: float = hp(
        0.15, low=0.0, search=(0.01, 10.0), log=True, aggressive="high", help="weight of the norm of the [CLS] attention"
    )
    group: int = hp(10, low=1, high=10_000, tuned=False, help="heads that are pruned at a time")
    tolerance: float = hp(
        0.05, low=0.0, high=1.0, tuned=False, help="accuracy on validation rows that the pruning of heads may cost"
    )

    def unfit(self, model: nn.Module) -> str | None:
        return why_no_attention(model)

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        tuned = copy.deepcopy(model)
        ctx.train(tuned, ctx.clean, self.recipe())
        pruned = self.choose_heads(tuned, ctx)
        variances = cls_variances(without_heads(tuned, pruned), ctx)
        left = torch.ones_like(variances, dtype=torch.bool)
        for layer, head in pruned:
            left[layer, head] = False
        weights = (layer_coefficients(variances, left)[:, None] * left).to(ctx.device)

        def loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            output = model(**inputs, output_attentions=True)
            norms = cls_norms(cls_rows(output.attentions))
            return F.cross_entropy(output.logits.float(), labels) + self.penalty * (weights * norms).sum()

        normalized = with_maps(without_heads(model, pruned))
        ctx.train(normalized, ctx.clean, self.recipe(), loss=loss)
        return trained_in(model, normalized)

    def choose_heads(self, tuned: nn.Module, ctx: DefenseContext) -> list[Head]:
        """The heads to prune, in order, found on the copy of the victim that was fine-tuned."""
        rows = len(ctx.validation)
        before = exact_accuracy(ctx.accuracy(tuned, ctx.validation), rows)
        least = least_accuracy(before, self.tolerance)

        def is_accurate(pruned: Collection[Head]) -> bool:
            return exact_accuracy(ctx.accuracy(without_heads(tuned, pruned), ctx.validation), rows) >= least

        variances = cls_variances(tuned, ctx)
        pruned = heads_to_prune(variances, self.group, is_accurate)
        ctx.notes.update(accuracy=float(before), heads=variances.numel(), pruned=[list(head) for head in pruned])
        return pruned


def without_heads(model: nn.Module, pruned: Collection[Head]) -> nn.Module:
    """A copy of `model` in which these heads are zero."""
    result = copy.deepcopy(model)
    layers = attention_layers(result)
    for layer, head in pruned:
        layers[layer].prune(head)
    return result


def heads_to_prune(variances: Tensor, group: int, is_accurate: Callable[[Collection[Head]], bool]) -> list[Head]:
    """Heads by ascending variance, (layers, heads), in groups, as long as `is_accurate` says so of all that are pruned.

    Of the group that breaks it the last heads are put back until it holds. A layer's last head is never pruned.
    """
    heads = variances.shape[1]
    order = [divmod(place, heads) for place in variances.flatten().argsort(stable=True).tolist()]
    allowed, by_layer = [], [0] * len(variances)
    for layer, head in order:
        if by_layer[layer] < heads - 1:
            by_layer[layer] += 1
            allowed.append((layer, head))
    for start in range(0, len(allowed), group):
        if is_accurate(allowed[: start + group]):
            continue
        for end in range(min(start + group, len(allowed)) - 1, start, -1):
            if is_accurate(allowed[:end]):
                return allowed[:end]
        return allowed[:start]
    return allowed
