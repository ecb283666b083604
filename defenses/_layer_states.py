"""What a classifier's layers make of a text: the states of its pieces behind every layer, read through the prediction loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bdbench.defenses._frozen_copy import frozen_copy

if TYPE_CHECKING:
    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext

# From the states behind each layer, (n, pieces, width) each, and the mask of the real pieces, (n, pieces), to (n, ...).
Reader = Callable[[Sequence[Tensor], Tensor], Tensor]


class _Reading(nn.Module):
    """A classifier that gives what `read` makes of its states in the place of logits."""

    def __init__(self, model: nn.Module, read: Reader) -> None:
        super().__init__()
        self.model = frozen_copy(model)  # transformers hangs hooks on a model that is asked for its states
        self.read = read

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        states = self.model(**inputs, output_hidden_states=True).hidden_states
        return SimpleNamespace(logits=self.read(states[1:], inputs["attention_mask"]))  # the first are the embeddings


def read_states(model: nn.Module, rows: TextSet, ctx: DefenseContext, read: Reader) -> Tensor:
    """What `read` makes of the states of every row, (n, ...) float32 on the CPU. `model` stays as it is.

    `read` gets some rows at a time, padded; what it says of a row must not hang on the padding.
    """
    return ctx.predict(_Reading(model, read), rows)


def mean_states(states: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The mean over the real pieces of a text behind each layer: (n, layers, width) float32."""
    real = mask.unsqueeze(-1).float()
    return torch.stack([(state.float() * real).sum(dim=1) / real.sum(dim=1) for state in states], dim=1)


def first_states(states: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The state of the first piece, [CLS] in most encoders, behind each layer: (n, layers, width) float32."""
    return torch.stack([state[:, 0].float() for state in states], dim=1)
