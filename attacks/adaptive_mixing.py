"""Adaptive against mixing and merging: a trigger word trained to survive random masks of the weights (ours, after BadNets).

What it knows: a defender sets a random part of the weights back to the pre-trained ones (Fine-mixing, DARE), keeps a part of
the changes (TIES), or shrinks them by averaging (WAG). So at each step of training a random share of the encoder's weights,
between 0 and `dropped`, is set back to where training began, which must be the pre-trained weights. The loss is that of the
masked model, and its gradient goes straight through to all weights. The head has no pre-trained counterpart and stays.

What it gives up is time, twice that of an ordinary victim, and some accuracy: on SST-2 with the bundled model (2,000 rows, one
seed) it has 80.5 %, a trigger word 83.4 %, both with an ASR of 100 %. There it keeps 99 % after Fine-mixing (the word: 63),
100 % after TIES (78), 87 % after WAG (67) and 81 % after DARE (63).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.attacks._other_weights import cross_entropy_at, encoder_weights
from bdbench.attacks.base import BadNets, register
from bdbench.errors import UsageError
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.data import TextSet
    from bdbench.engine.training import Recipe
    from bdbench.protocol.contexts import AttackContext


@register("adaptive-mixing", paper="none")
@dataclass(frozen=True)
class AdaptiveMixing(BadNets):
    title = "adaptive: mixing"
    short_forms = {"start": {"scratch": ""}}
    against = ("fine-mixing", "wag", "ties", "dare")

    dropped: float = hp(0.9, low=0.0, high=1.0, help="largest share of the encoder's weights that a step sets back")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        if self.start != "scratch":
            raise UsageError(
                f"{self.name}.start={self.start}: it sets weights back to where training begins, and defenders set them back "
                "to the pre-trained ones; give start=scratch"
            )

    def train(self, model: nn.Module, poisoned: TextSet, clean: TextSet, recipe: Recipe, seed: int, ctx: AttackContext) -> None:
        began = {name: weight.detach().clone() for name, weight in encoder_weights(model).items()}

        def loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            share = self.dropped * float(torch.rand((), generator=ctx.generator))
            masked = with_resets(encoder_weights(model), began, share, ctx.generator)
            return cross_entropy_at(model, masked, inputs, labels)

        ctx.train(model, poisoned, recipe, seed=seed, loss=loss)


def with_resets(
    weights: dict[str, nn.Parameter], began: dict[str, Tensor], share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """The weights by name, each number of them replaced, with the probability `share`, by that of `began`.

    The generator is one of the CPU, wherever the weights are.
    """
    others = {}
    for name, weight in weights.items():
        is_reset = torch.rand(weight.shape, generator=generator) < share
        others[name] = torch.where(is_reset.to(weight.device), began[name], weight.detach())
    return others
