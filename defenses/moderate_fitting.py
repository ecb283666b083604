"""Moderate fitting: training that stops before the backdoor is learned (Zhu et al., NeurIPS 2022).

Its abstract says that a pre-trained model learns the task first and the trigger later, if its capacity, the number of passes or
the learning rate is small. Here the defender trains on the poisoned set from where the attack would start. `rank` restricts
every weight matrix of the encoder to its start plus a matrix of this rank; `epochs` and `learning_rate` make the training
short. The paper's text and code were not read: which matrices are restricted and all the values are ours. The factors are
drawn as in LoRA (Hu et al., 2021, arXiv:2106.09685), so that training begins at the start itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bdbench.defenses.base import Training, register
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext


@register("moderate-fitting", paper="NeurIPS 2022 (Zhu et al.)")
@dataclass(frozen=True)
class ModerateFitting(Training):
    title = "moderate fitting"
    needs = frozenset({"training-set", "training-control"})

    epochs: int = hp(1, low=1, high=1000, search=(1, 10), log=True, help="passes over the poisoned training set")
    learning_rate: float = hp(2e-5, low=0.0, high=1.0, search=(1e-6, 1e-3), log=True, help="AdamW's peak learning rate")
    rank: int = hp(0, low=0, high=1024, tuned=False, help="rank of the change of each weight matrix; 0: any")

    def train(self, model: nn.Module, rows: TextSet, ctx: DefenseContext) -> nn.Module:
        recipe = replace(ctx.recipe, epochs=self.epochs, learning_rate=self.learning_rate)
        if self.rank:
            restrict(model, self.rank, ctx.generator)
        ctx.train(model, rows, recipe)
        if self.rank:
            release(model)
        return model


class LowRank(nn.Module):
    """A weight matrix as its start plus B A; A is (rank, in), B is (out, rank) and zero at first."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        drawn = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.a = nn.Parameter(drawn.to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, start: Tensor) -> Tensor:
        return start + self.b @ self.a


def restrict(model: nn.Module, rank: int, generator: torch.Generator) -> None:
    """From now on only B A of each linear layer of the encoder, and the head, are trained; biases and embeddings are not."""
    encoder = model.base_model
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    for module in list(encoder.modules()):
        if isinstance(module, nn.Linear):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank, generator))


def release(model: nn.Module) -> None:
    """Each weight becomes what it stands for: its start plus B A. Every weight can be trained again."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
