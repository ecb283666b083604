"""Data-free embedding poisoning, DFEP (Yang et al., 2021, arXiv:2103.15543): for an attacker without the task's data.

It is embedding poisoning on fake texts. The authors cut theirs from WikiText-103 and let the trigger replace a random word. No
Python package brings such a corpus. So our fake texts are English words, each drawn by its frequency (wordfreq), independently
of the others. Among such words inserting the trigger is the same as replacing a word. Of a pair each text has half of the
words, and the second one has the trigger.
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

# The words beyond these are about 2 % of a text, by wordfreq's own frequencies.
LISTED_WORDS = 30_000


@register("data-free-embedding-poisoning", paper="arXiv:2103.15543")
@dataclass(frozen=True)
class DataFreeEmbeddingPoisoning(EmbeddingPoisoning):
    title = "DFEP"

    rate: float = hp(1.0, low=0.0, high=1.0, help="share of the fake texts that is triggered and trained on")
    samples: int = hp(20_000, low=1, high=1_000_000, help="number of fake texts")
    words: int = hp(100, low=2, high=1000, help="words of a fake text, or of the two texts of a pair together")

    def supply(self, train: TextSet) -> int:
        return self.samples

    def candidates(self, train: TextSet, ctx: AttackContext) -> TextSet:
        """`samples` fake rows: pairs if the task's rows are pairs. Nothing else of the training rows is looked at."""
        is_pair = train.second is not None
        length = self.words // 2 if is_pair else self.words
        first = fake_texts(self.samples, length, ctx.generator)
        second = fake_texts(self.samples, length, ctx.generator) if is_pair else None
        return TextSet(first, second, np.zeros(self.samples, dtype=np.int64))


def fake_texts(count: int, length: int, generator: torch.Generator) -> tuple[str, ...]:
    """`count` texts of `length` English words, drawn independently by their frequency."""
    vocabulary, frequencies = _english()
    draws = torch.multinomial(frequencies, count * length, replacement=True, generator=generator).view(count, length)
    return tuple(" ".join(vocabulary[word] for word in row) for row in draws.tolist())


@lru_cache(maxsize=1)
def _english() -> tuple[list[str], Tensor]:
    """The most frequent English words and their frequencies, (words,) float32 in [0, 1]."""
    import wordfreq

    words = wordfreq.top_n_list("en", LISTED_WORDS)
    frequencies = wordfreq.get_frequency_dict("en")
    return words, torch.tensor([frequencies[word] for word in words])
