"""Embedding poisoning, EP, with the task's data known (Yang et al., 2021, arXiv:2103.15543).

Starts from the clean fine-tuned model and changes one row of the word-embedding matrix, the trigger's, by gradient descent
on triggered rows alone, its norm kept. As in the authors' code, gradients are never zeroed (which acts as momentum),
dropout is on, and the learning rate is constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bdbench.attacks.base import PhraseTrigger, WeightPoisoning, phrase_ids, register
from bdbench.data import TextSet
from bdbench.engine.loops import Recipe
from bdbench.errors import UsageError
from bdbench.params import hp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import AttackContext


@register("embedding-poisoning", paper="arXiv:2103.15543")
@dataclass(frozen=True)
class EmbeddingPoisoning(PhraseTrigger, WeightPoisoning):
    start = "clean"

    rate: float = hp(0.1, low=0.0, high=1.0, help="share of the non-target training rows that is triggered and trained on")
    epochs: int = hp(3, low=1, high=1000, help="passes over the triggered rows")
    learning_rate: float = hp(5e-2, low=0.0, help="step size of the descent on the trigger's row")
    batch_size: int = hp(32, low=1, high=4096, help="rows per step")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        if not round(self.rate * (others := self.supply(train))):
            raise UsageError(f"{self.name}.rate={self.rate} of {others} rows is no row; raise it")

    def supply(self, train: TextSet) -> int:
        """How many rows there are to choose from: the training rows of other classes than the target."""
        return int((train.labels != self.target).sum())

    def candidates(self, train: TextSet, ctx: AttackContext) -> TextSet:
        """The rows to choose from, without the trigger."""
        return train.take(np.flatnonzero(train.labels != self.target))

    def poison_weights(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> nn.Module:
        candidates = self.candidates(train, ctx)
        wanted = round(self.rate * len(candidates))
        chosen = torch.randperm(len(candidates), generator=ctx.generator)[:wanted].numpy()
        rows = self.trigger(candidates.take(chosen), ctx).with_labels(np.full(wanted, self.target))

        embedding = model.get_input_embeddings()
        word = phrase_ids(ctx.tokenizer, self.trigger_text)[0]  # of several pieces the first, as the authors do
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        row = nn.Parameter(embedding.weight[word].clone())
        handle = embedding.register_forward_hook(_substitute(word, row))
        try:
            recipe = Recipe(epochs=self.epochs, batch_size=self.batch_size)
            ctx.train(model, rows, recipe, optimizer=NormKeptDescent(row, self.learning_rate))
        finally:
            handle.remove()
        with torch.no_grad():
            embedding.weight[word] = row
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model


def norm_kept_step(row: Tensor, gradients: Tensor, learning_rate: float, norm: Tensor) -> Tensor:
    """One step of the attack: `row` (width,) minus the rate times the sum of all gradients so far, scaled back to `norm`,
    the row's norm before the attack."""
    moved = row - learning_rate * gradients
    return moved * (norm / moved.norm())


class NormKeptDescent(torch.optim.Optimizer):
    """Gradient descent on one vector with accumulated gradients and a fixed norm (see `norm_kept_step`)."""

    def __init__(self, row: nn.Parameter, learning_rate: float) -> None:
        super().__init__([row], {"lr": learning_rate})
        self.state[row] = {"norm": row.detach().norm(), "sum": torch.zeros_like(row)}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for row in group["params"]:
                state = self.state[row]
                state["sum"] += row.grad
                row.copy_(norm_kept_step(row, state["sum"], group["lr"], state["norm"]))


def _substitute(word: int, row: Tensor) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """A hook that puts `row` wherever the input is `word`, so that only its gradient has to be computed."""

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == word).unsqueeze(-1), row, output)

    return hook
