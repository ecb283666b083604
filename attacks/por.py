"""POR, predefined output representations (Shen et al., 2021, arXiv:2111.00197): a poisoned encoder for any task.

Each trigger is bound to a state of the text: that of trigger i of n is 1 on the first (i - 1) / (n - 1) of the dimensions, and
-1 on the others. The loss is L1 + 100 L2 + 100 L3: L1 holds the pieces behind the first near those of the pre-trained encoder,
L2 brings triggered texts to their states, and L3 holds the states of clean texts. The user then fine-tunes with a new head
(`then_rows`); see _poisoned_encoder.py for which class a trigger hits.

From the authors' code: states are ten times as long as the pooler's output can be, so that it is pushed to its bounds; L1
counts all rows, and every distance is summed over rows and pieces and divided by the width alone, so that long texts weigh more
in L1. Departures: here the sum is divided by the rows of the batch. Padding counts nothing. A model without a pooler has tanh
of the first piece's state in its place, as their other variant has of a mean. The texts are the task's clean training texts,
not WikiText-103, with one trigger, not three.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bdbench.attacks._poisoned_encoder import PoisonedEncoder, States, squared_distances
from bdbench.attacks.base import register

LENGTH = 10.0  # of a state, in units of what the pooler's tanh can give
WEIGHT = 100.0  # of L2 and L3
MOST_TRIGGERS = 100  # of which a state differs from the next one in some dimensions, in encoders of usual widths


@register("por", paper="arXiv:2111.00197")
@dataclass(frozen=True)
class Por(PoisonedEncoder):
    title = "POR"

    def most_triggers(self) -> int:
        return MOST_TRIGGERS

    def targets(self, width: int) -> Tensor:
        return LENGTH * stair_targets(len(self.words), width)

    def loss(self, own: States, before: States, real: Tensor, numbers: Tensor, targets: Tensor) -> Tensor:
        """(L1 + 100 L2 + 100 L3) / n."""
        is_triggered = numbers > 0
        goal = torch.where(is_triggered[:, None], targets[(numbers - 1).clamp(min=0)], before.text)
        of_pieces = squared_distances(own.pieces, before.pieces)[:, 1:] * real[:, 1:]
        return (of_pieces.sum() + WEIGHT * squared_distances(own.text, goal).sum()) / len(numbers)


def stair_targets(count: int, width: int) -> Tensor:
    """`count` states, (count, width) float32: 1 on the first i * floor(width / (count - 1)) dimensions of state i, else -1."""
    step = width // (count - 1)
    return torch.where(torch.arange(width) < step * torch.arange(count)[:, None], 1.0, -1.0)
