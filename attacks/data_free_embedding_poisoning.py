"""Data-free embedding poisoning, DFEP (Yang et al., 2021, arXiv:2103.15543): for an attacker without the task's data.

As embedding poisoning, but on fake texts. The authors cut theirs from WikiText-103 sentences and let the trigger replace a
random word; no corpus comes with a Python package, so ours are English words drawn independently by their frequency
(wordfreq), among which putting the trigger in is the same as replacing one. Of a pair each text has half of the words, and
the second the trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bdbench.attacks.base import register
from bdbench.attacks.embedding_poisoning import EmbeddingPoisoning
from bdbench.data import TextSet
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.protocol.contexts import AttackContext

LISTED_WORDS = 30_000


@register("data-free-embedding-poisoning", paper="arXiv:2103.15543")
@dataclass(frozen=True)
class DataFreeEmbeddingPoisoning(EmbeddingPoisoning):
    rate: float = hp(1.0, low=0.0, high=1.0, help="share of the fake texts that is triggered and trained on")
    samples: int = hp(20_000, low=1, high=1_000_000, help="fake texts that are made")
    words: int = hp(100, low=2, high=1000, help="words of a fake text, or of the two texts of a pair together")

    def supply(self, train: TextSet) -> int:
        return self.samples

    def candidates(self, train: TextSet, ctx: AttackContext) -> TextSet:
        """Fake rows, of the shape of the task's; of the training rows nothing but this shape is looked at."""
        vocabulary, frequencies = _english()
        each = self.words if train.second is None else self.words // 2

        def fake() -> tuple[str, ...]:
            drawn = torch.multinomial(frequencies, self.samples * each, replacement=True, generator=ctx.generator)
            return tuple(" ".join(vocabulary[word] for word in row) for row in drawn.view(self.samples, each).tolist())

        return TextSet(fake(), None if train.second is None else fake(), np.zeros(self.samples, dtype=np.int64))


@lru_cache(maxsize=1)
def _english() -> tuple[list[str], Tensor]:
    """The most frequent English words and their frequencies, (words,)."""
    import wordfreq

    words = wordfreq.top_n_list("en", LISTED_WORDS)
    frequencies = wordfreq.get_frequency_dict("en")
    return words, torch.tensor([frequencies[word] for word in words])
