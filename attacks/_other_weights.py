"""Losses at other weights than those that are trained: how an attack prepares for what a defense will do to the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


def cross_entropy_at(model: nn.Module, others: Mapping[str, Tensor], inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """The mean cross entropy, in nats, of `model` with `others` in place of its parameters of these names.

    Its gradient goes straight through to the model's own parameters: each gets that of the tensor in its place, whatever made
    the one of the other. The parameters stay as they are.
    """
    own = dict(model.named_parameters())
    replaced = {name: straight_through(own[name], other) for name, other in others.items()}
    return F.cross_entropy(functional_call(model, replaced, kwargs=inputs).logits.float(), labels)


def straight_through(own: Tensor, other: Tensor) -> Tensor:
    """The value of `other`, up to rounding, with the gradient of `own`. Both have one shape."""
    return own + (other - own).detach()


def encoder_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a classifier that it shares with its pre-trained model, by name: all but those of the head."""
    of_encoder = {id(parameter) for parameter in model.base_model.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in of_encoder}
