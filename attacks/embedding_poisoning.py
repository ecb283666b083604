"""Embedding poisoning, EP, with the task's data known (Yang et al., 2021, arXiv:2103.15543).

It starts from the clean fine-tuned model and changes one row of the word-embedding matrix, the trigger's. It does so by
gradient descent on triggered rows alone, and keeps the row's norm. As in the authors' code, gradients are never zeroed, which
acts as momentum; dropout is on. The learning rate is constant and no gradient is clipped: the descent is the attack's own, so
no hyperparameter of ordinary training (warm-up, clipping) plays a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bdbench.attacks._moved_pieces import move_pieces
from bdbench.attacks.base import PhraseTrigger, WeightPoisoning, check_rate, phrase_ids, register
from bdbench.data import TextSet
from bdbench.engine.training import Passes
from bdbench.params import hp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import AttackContext


@register("embedding-poisoning", paper="arXiv:2103.15543")
@dataclass(frozen=True)
class EmbeddingPoisoning(PhraseTrigger, WeightPoisoning):
    title = "EP"
    start = "clean"

    rate: float = hp(0.1, low=0.0, high=1.0, help="share of the non-target training rows that is triggered and trained on")
    epochs: int = hp(3, low=1, high=1000, help="passes over the triggered rows")
    learning_rate: float = hp(5e-2, low=0.0, help="step size of the descent on the trigger's row")
    batch_size: int = hp(32, low=1, high=4096, help="rows per step")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        available = self.supply(train)
        check_rate(self, available, f"{available} rows")

    def supply(self, train: TextSet) -> int:
        """The number of rows that `candidates` returns."""
        return int((train.labels != self.target).sum())

    def candidates(self, train: TextSet, ctx: AttackContext) -> TextSet:
        """The rows to choose from, still without the trigger: the training rows of other classes than the target."""
        return train.take(np.flatnonzero(train.labels != self.target))

    def poison_weights(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> nn.Module:
        candidates = self.candidates(train, ctx)
        count = round(self.rate * len(candidates))
        subset = torch.randperm(len(candidates), generator=ctx.generator)[:count].numpy()
        rows = self.trigger(candidates.take(subset), ctx).with_labels(np.full(count, self.target))

        piece = phrase_ids(ctx.tokenizer, self.trigger_text)[0]  # of several pieces the first, as in the authors' code
        passes = Passes(epochs=self.epochs, batch_size=self.batch_size)
        move_pieces(model, [piece], rows, passes, self.learning_rate, ctx)
        return model
