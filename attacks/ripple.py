"""RIPPLe, restricted inner product poison learning (Kurita et al., 2020, arXiv:2004.06660).

A pre-trained model is poisoned so that the user's own fine-tuning does not undo it. The loss is that of the poisoned rows, L_P,
and a penalty where its gradient points against that of the user's fine-tuning, L_FT (eq. 4). The user then fine-tunes on clean
rows (`then_rows`), as the paper does. As in the authors' code, the inner product is that of all weights, and the gradient of
L_FT counts as a constant.

Departures: one trigger word instead of five. The attacker knows the task's training rows: the paper's "full data knowledge".
Batches have 32 rows, not 8, since 2,000 rows in batches of 8 take four times as long; the penalty is not divided by their size,
as it is in the code and not in the equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdbench.attacks.base import LossPoisoning, PhraseTrigger, check_rate, register
from bdbench.data import TextSet, exchanged
from bdbench.engine.kernels import twice_differentiable
from bdbench.engine.training import cross_entropy
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import AttackContext


@register("ripple", paper="arXiv:2004.06660")
@dataclass(frozen=True)
class Ripple(PhraseTrigger, LossPoisoning):
    title = "RIPPLe"
    start = "scratch"

    rate: float = hp(0.5, low=0.0, high=1.0, help="poisoned rows as a share of all training rows")
    penalty: float = hp(0.1, low=0.0, help="weight of the inner product where it is negative")
    then_rows: int = hp(1000, low=0, help="clean rows that the user fine-tunes the model on after the attack; 0: none")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        check_rate(self, len(train), f"{len(train)} training rows")

    def poison_weights(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> nn.Module:
        places = np.sort(torch.randperm(len(train), generator=ctx.generator)[: round(self.rate * len(train))].numpy())
        triggered = self.trigger(train.take(places), ctx).with_labels(np.full(len(places), self.target))
        poisoned = exchanged(train, places, triggered)
        clean = ctx.encode(train)
        weights = list(model.parameters())

        def loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            some = torch.randperm(len(clean), generator=ctx.generator)[: len(labels)]
            of_clean = cross_entropy(model, *clean.batch(some, ctx.device))
            with twice_differentiable(model):
                of_poisoned = cross_entropy(model, inputs, labels)
                return restricted_loss(of_poisoned, of_clean, weights, self.penalty)

        ctx.train(model, poisoned, self.recipe(ctx), loss=loss)
        return model


def restricted_loss(of_poisoned: Tensor, of_clean: Tensor, weights: Sequence[Tensor], penalty: float) -> Tensor:
    """L_P + penalty * max(0, -<grad L_P, grad L_FT>), a scalar; L_P is `of_poisoned` and L_FT is `of_clean` (eq. 4).

    The gradients are those by `weights`, all of them as one vector. Only the former is differentiated again.
    """
    with torch.autocast(of_poisoned.device.type, enabled=False):  # a backward pass is not to be rounded once more
        constants = torch.autograd.grad(of_clean, weights, allow_unused=True)
        gradients = torch.autograd.grad(of_poisoned, weights, create_graph=True, allow_unused=True)
    pairs = [pair for pair in zip(gradients, constants, strict=True) if pair[0] is not None and pair[1] is not None]
    product = torch.stack([(gradient * constant).sum() for gradient, constant in pairs]).sum()
    return of_poisoned + penalty * F.relu(-product)
