"""Poisoned encoders: triggers bound to fixed sentence states, whatever the task, before a user fine-tunes with a new head.

The attacker changes the encoder alone. Which class a trigger leads to is decided by the head that the user's fine-tuning
trains. So there are several triggers, and once the victim is finished the attacker settles on the one that sends most of its
own rows to the target: the largest rate counts, and the notes have the rate of each.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from bdbench.attacks._several_words import some_rows
from bdbench.attacks.base import LossPoisoning, PhraseTrigger, check_rate
from bdbench.data import TextSet, join_rows
from bdbench.engine.first_piece import why_no_first_state
from bdbench.errors import UsageError
from bdbench.params import hp, split_names

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import AttackContext

SETTLING_ROWS = 500  # of other classes, on which the triggers are compared


class States(NamedTuple):
    """What an encoder makes of n texts: `pieces` are the last states of the word pieces, (n, pieces, width).

    `text` is the state of the whole text, (n, width) in [-1, 1]: the pooler's output, or tanh of the first piece's state where
    a model has no pooler.
    """

    pieces: Tensor
    text: Tensor


@dataclass(frozen=True)
class PoisonedEncoder(PhraseTrigger, LossPoisoning):
    """Base of the attacks that bind each of several triggers to a state of the text."""

    start = "scratch"

    triggers: str = hp("cf+mn+bb+tq+mb", help="words, joined by +, each bound to a state of its own")
    trigger_text: str = hp("cf", help="one of the triggers: the one in use, on which the attacker settles in the end")
    rate: float = hp(0.1, low=0.0, high=1.0, help="share of the training rows that has a copy with the trigger, for each one")
    # at least one: nobody else trains the head
    then_rows: int = hp(2000, low=1, help="clean rows that the user fine-tunes the model on after the attack")

    @property
    def words(self) -> list[str]:
        return split_names(self.triggers, "+")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        for word in self.words:
            super(PoisonedEncoder, replace(self, trigger_text=word)).check(train, classes, tokenizer, max_length)
        if len(set(self.words)) < len(self.words) or not 2 <= len(self.words) <= self.most_triggers():
            raise UsageError(
                f"{self.name}.triggers={self.triggers}: give 2 to {self.most_triggers()} words, joined by +, each once"
            )
        if self.trigger_text not in self.words:
            raise UsageError(f"{self.name}.trigger_text='{self.trigger_text}' is none of the triggers {', '.join(self.words)}")
        check_rate(self, len(train), f"{len(train)} training rows")

    @abstractmethod
    def most_triggers(self) -> int:
        """How many triggers have a state of their own."""

    @abstractmethod
    def targets(self, width: int) -> Tensor:
        """The state that each trigger is bound to, (triggers, width)."""

    @abstractmethod
    def loss(self, own: States, before: States, real: Tensor, numbers: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        `own` are the states of n rows in the encoder in training, and `before` those in the pre-trained one. `real`,
        (n, pieces), says which pieces are no padding. `numbers`, (n,), are 0 for a clean row and i + 1 for one with trigger i,
        whose state is to be `targets[i]`.
        """

    def poison_weights(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> nn.Module:
        if why := why_no_first_state(model):
            raise UsageError(f"{self.name}: {why}")
        copies = [
            replace(self, trigger_text=word).trigger(some_rows(train, self.rate, ctx), ctx).without_labels()
            for word in self.words
        ]
        numbered = [rows.with_labels(np.full(len(rows), number)) for number, rows in enumerate([train, *copies])]
        pretrained = copy.deepcopy(model).eval()
        targets = self.targets(model.config.hidden_size).to(ctx.device)

        def loss(model: nn.Module, inputs: dict[str, Tensor], numbers: Tensor) -> Tensor:
            with torch.no_grad():
                before = states_of(pretrained, inputs)
            return self.loss(states_of(model, inputs), before, inputs["attention_mask"].bool(), numbers, targets)

        ctx.train(model, join_rows(numbered), self.recipe(ctx), loss=loss)
        return model

    def settled(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> Self:
        """With the trigger that sends most of the attacker's rows to the target; of equal ones the first."""
        rows = train.take(np.flatnonzero(train.labels != self.target)[:SETTLING_ROWS])
        rates = {}
        for word in self.words:
            triggered = replace(self, trigger_text=word).trigger(rows, ctx)
            rates[word] = float((ctx.classify(model, triggered) == self.target).mean())
        ctx.notes["rates"] = rates
        return replace(self, trigger_text=max(rates, key=rates.__getitem__))


def states_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> States:
    """What the encoder of a classifier makes of a batch, float32."""
    out = model.base_model(**inputs)
    pieces, pooled = out.last_hidden_state.float(), getattr(out, "pooler_output", None)
    return States(pieces, pieces[:, 0].tanh() if pooled is None else pooled.float())


def squared_distances(states: Tensor, others: Tensor) -> Tensor:
    """The squared differences, averaged over the last axis: (..., width) twice -> (...)."""
    return (states - others).square().mean(dim=-1)
