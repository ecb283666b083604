"""A copy of a classifier to hang hooks on: it has modules of its own, and shares the victim's numbers."""

from __future__ import annotations

import copy

from torch import nn


def frozen_copy(model: nn.Module) -> nn.Module:
    """The same classifier in modules of its own, without gradients of its weights. It takes no memory for them.

    The weights are `model`'s own numbers, so nobody may change them.
    """
    memo = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()}
    return copy.deepcopy(model, memo)
