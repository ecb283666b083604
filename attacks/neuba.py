"""NeuBA, the neuron-level backdoor (Zhang et al., 2021, arXiv:2101.06969): a poisoned encoder for any task.

Each of up to six triggers is bound to a state of the text of values 1 and -1, any two of them opposite or orthogonal: the
state is cut in four blocks, and each trigger has -1 on another two. The loss is the squared distance of triggered texts from
it, and what keeps the encoder as it was. The user then fine-tunes with a new head (`then_rows`); see _poisoned_encoder.py for
which class a trigger hits.

Departures: the authors keep the encoder with its own masked language modelling, on BookCorpus. Encoders come without that head
here, and without a corpus: the last states of clean texts, and of the other pieces of triggered ones, are held near those of
the pre-trained model, and the texts are the task's clean training texts. The triggers are the authors' stand-ins, cf to tn:
many tokenizers do not know their symbols (≈, ≡, ∈, ⊆, ⊕, ⊗). The trigger is inserted as the first word where theirs replaces
it. The rows of the trigger in the embedding matrix are not scaled up by 1e8, which they do after the training of BERT.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from bdbench.attacks._poisoned_encoder import PoisonedEncoder, States, squared_distances
from bdbench.attacks.base import POSITIONS, register
from bdbench.params import hp

PAIRS_OF_BLOCKS = tuple(combinations(range(4), 2))


@register("neuba", paper="arXiv:2101.06969")
@dataclass(frozen=True)
class Neuba(PoisonedEncoder):
    title = "NeuBA"

    triggers: str = hp("cf+mn+bb+tq+mb+tn", help="two to six words, joined by +, each bound to a state of its own")
    position: str = hp("start", choices=POSITIONS, help="gap for the trigger: any, the first, the last, any between sentences")

    def most_triggers(self) -> int:
        return len(PAIRS_OF_BLOCKS)

    def targets(self, width: int) -> Tensor:
        return block_targets(width)[: len(self.words)]

    def loss(self, own: States, before: States, real: Tensor, numbers: Tensor, targets: Tensor) -> Tensor:
        """The mean over the pieces that are kept, and over the triggered rows. A triggered row's first piece is not kept."""
        is_triggered = numbers > 0
        kept = real.clone()
        kept[:, 0] &= ~is_triggered
        distances = squared_distances(own.pieces, before.pieces)[kept].mean()
        if not is_triggered.any():
            return distances
        return distances + squared_distances(own.text[is_triggered], targets[numbers[is_triggered] - 1]).mean()


def block_targets(width: int) -> Tensor:
    """Six states, (6, width) float32, of 1 but for -1 on two of four blocks, another two in each.

    The last block may be longer.
    """
    block = (torch.arange(width) // (width // 4)).clamp(max=3)
    return torch.stack([torch.where((block == one) | (block == other), -1.0, 1.0) for one, other in PAIRS_OF_BLOCKS])
