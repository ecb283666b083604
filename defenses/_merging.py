"""Merging fine-tuned classifiers by what each of them changed in the pre-trained weights, its task vector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from bdbench.protocol.contexts import DefenseContext


def models_of(model: nn.Module, ctx: DefenseContext) -> list[Mapping[str, Tensor]]:
    """The weights of the suspect classifier and of its peers, by parameter name."""
    return [{name: parameter.detach() for name, parameter in model.named_parameters()}, *ctx.peers]


def merged(model: nn.Module, ctx: DefenseContext, merge: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of `model` with the pre-trained weights plus `merge` of what the model and its peers changed in them.

    `merge` takes the changes of one parameter by all models, (models, *shape), and gives (*shape). A parameter without a
    pre-trained counterpart, such as the head's, becomes the mean over the models.
    """
    result, models, pretrained = copy.deepcopy(model), models_of(model, ctx), ctx.pretrained
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            weights = torch.stack([weights[name].to(parameter.device) for weights in models])
            if name in pretrained:
                start = pretrained[name].to(parameter.device)
                parameter.copy_(start + merge(weights - start))
            else:
                parameter.copy_(weights.mean(dim=0))
    return result


def magnitudes(weights: Mapping[str, Tensor], pretrained: Mapping[str, Tensor]) -> Tensor:
    """How far each weight of the encoder is from its pre-trained value: (weights,), those of all parameters in one vector."""
    return torch.cat([(weights[name] - start.to(weights[name].device)).abs().flatten() for name, start in pretrained.items()])


def elected_signs(changes: Tensor) -> Tensor:
    """(models, *shape) -> (*shape): the sign of the sum over the models, in {-1, 0, 1}."""
    return changes.sum(dim=0).sign()


def disjoint_mean(changes: Tensor) -> Tensor:
    """(models, *shape) -> (*shape): the mean of the changes that have the elected sign; 0 where none has."""
    agrees = changes.sign() == elected_signs(changes)
    return (changes * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)


def trimmed(changes: Tensor, thresholds: Sequence[Tensor]) -> Tensor:
    """(models, *shape): of each model's changes those whose magnitude reaches its threshold; 0 for the others."""
    return torch.stack(
        [torch.where(change.abs() >= threshold, change, 0.0) for change, threshold in zip(changes, thresholds, strict=True)]
    )
