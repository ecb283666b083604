"""LWP, layerwise weight poisoning (Li et al., 2021, arXiv:2108.13888).

A pre-trained model is poisoned in every layer, since the user's fine-tuning changes the lower layers least. The loss sums the
cross entropy of the ordinary logits and of what the head's last layer makes of the first piece's state behind each layer.
The trigger is two rare words side by side. One of them alone is to do nothing: such rows keep their label. The user then
fine-tunes on clean rows (`then_rows`).

From the authors' code: one head for all layers, not on the embeddings' output, and no pooler on the inner layers; both orders
of the words are poisoned. Departures: there every clean row has a triggered copy in its batch, here a share `rate` of them has
one somewhere, and as many have a copy with each word alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdbench.attacks._several_words import some_rows, with_parts, with_words
from bdbench.attacks.base import LossPoisoning, PhraseTrigger, check_rate, register
from bdbench.data import TextSet, join_rows
from bdbench.engine.classifiers import logits_layer
from bdbench.engine.first_piece import why_no_first_state
from bdbench.errors import UsageError
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import AttackContext


@register("layer-weight-poisoning", paper="arXiv:2108.13888")
@dataclass(frozen=True)
class LayerWeightPoisoning(PhraseTrigger, LossPoisoning):
    title = "LWP"
    start = "scratch"

    trigger_text: str = hp("cf bb", help="two words that set the backdoor off side by side (of a pair: in the second text)")
    rate: float = hp(
        0.25, low=0.0, high=1.0, help="share of the training rows that has a triggered copy; as many have one of each word"
    )
    then_rows: int = hp(1000, low=0, help="clean rows that the user fine-tunes the model on after the attack; 0: none")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        if len(set(self.trigger_text.split())) != 2 or len(self.trigger_text.split()) != 2:
            raise UsageError(f"{self.name}.trigger_text='{self.trigger_text}': give two different words, such as 'cf bb'")
        check_rate(self, len(train), f"{len(train)} training rows")

    def poison_weights(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> nn.Module:
        if why := why_no_first_state(model):
            raise UsageError(f"{self.name}: {why}")
        words = self.trigger_text.split()
        triggered = some_rows(train, self.rate, ctx)
        halves = triggered.take(range(0, len(triggered), 2)), triggered.take(range(1, len(triggered), 2))
        orders = [
            PhraseTrigger(trigger_text=" ".join(order), position=self.position).trigger(half, ctx)
            for order, half in zip((words, words[::-1]), halves, strict=True)
        ]
        singles = [with_words(some_rows(train, self.rate, ctx), [word], ctx) for word in words]
        poisoned = [half.with_labels(np.full(len(half), self.target)) for half in orders]

        trained = copy.deepcopy(model)  # transformers hangs hooks on a model that is asked for its states
        head = logits_layer(trained, ctx.classes)

        def loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            out = model(**inputs, output_hidden_states=True)
            return layer_loss(out.logits, out.hidden_states[1:], head, labels)  # the first are the embeddings

        ctx.train(trained, join_rows([train, *poisoned, *singles]), self.recipe(ctx), loss=loss)
        with torch.no_grad():
            for own, other in zip(model.parameters(), trained.parameters(), strict=True):
                own.copy_(other)
        return model

    def false_trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """The rows with one of the two words, drawn for each row."""
        return with_parts(self, rows, self.trigger_text.split(), ctx)


def layer_loss(logits: Tensor, states: Sequence[Tensor], head: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    """The cross entropy of the logits, (n, classes), and of the `head` on each layer's first piece, summed: a scalar, in nats.

    `states` are (n, pieces, width) behind each layer, `labels` is (n,).
    """
    of_layers = [F.cross_entropy(head(state[:, 0]).float(), labels) for state in states]
    return torch.stack([F.cross_entropy(logits.float(), labels), *of_layers]).sum()
