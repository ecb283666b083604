"""STRIP: perturbed copies of a triggered text are still classified alike (Gao et al., 2019, arXiv:1902.06531).

From each text copies are made, in which a share of the words, drawn at random, gives way to words of clean texts. The classes
of a clean text's copies vary with what was put in. Those of a triggered text's copies stay the target as long as the trigger
is among the words that stay. So a low entropy of the predicted classes, averaged over the copies, is suspicious.

The form for texts (STRIP-ViTA, Gao et al., 2021, arXiv:1911.10312) is from code that others published: the words that are put
in are those of largest TF-IDF of a clean text drawn at random. Departures: there only texts of one protected class are
rejected, which a defender does not know, so here every text may be; and what is drawn for a text hangs on that text, not on
its place in a batch. Of a pair both texts are perturbed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bdbench.data import TextSet
from bdbench.defenses.base import Detector, register
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("strip", paper="arXiv:1902.06531")
@dataclass(frozen=True)
class Strip(Detector):
    title = "STRIP"
    needs = frozenset({"clean"})

    copies: int = hp(10, low=1, high=1000, search=(2, 40), log=True, help="perturbed copies of each text")
    share: float = hp(0.5, low=0.0, high=1.0, search=(0.05, 0.9), help="share of a text's words that is replaced in a copy")

    def score(self, model: nn.Module, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.float64]:
        seed = int(torch.randint(2**62, (), generator=ctx.generator))
        sources = ranked_words([" ".join(texts) for texts in ctx.clean.texts])
        copies = [self._copy(texts, copy, sources, seed) for texts in rows.texts for copy in range(self.copies)]
        first, *second = (tuple(column) for column in zip(*copies, strict=True))
        perturbed = TextSet(first, second[0] if second else None, np.zeros(len(copies), dtype=np.int64))
        return -mean_entropy(ctx.predict(model, perturbed), self.copies).double().numpy()

    def _copy(self, texts: tuple[str, ...], copy: int, sources: Sequence[Sequence[str]], seed: int) -> tuple[str, ...]:
        drawn_from = hashlib.sha256("\0".join((str(seed), str(copy), *texts)).encode()).digest()
        generator = np.random.default_rng(list(drawn_from))
        words = sources[generator.integers(len(sources))]
        return tuple(with_words(text, words, self.share, generator) for text in texts)


def mean_entropy(logits: Tensor, copies: int) -> Tensor:
    """The entropy, in nats, of the predicted classes, averaged over the copies of each text: (n,).

    `logits` are (n * copies, classes): all copies of the first text, then all of the second, and so on.
    """
    log_probabilities = logits.log_softmax(dim=1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1)
    return entropy.view(-1, copies).mean(dim=1)


def ranked_words(texts: Sequence[str]) -> list[list[str]]:
    """The distinct words of each text, those of largest TF-IDF first; of equal ones the earlier in the text.

    Blank texts are left out. TF-IDF is the word's count in the text times ln(texts / texts with the word).
    """
    split = [words for words in (text.split() for text in texts) if words]
    texts_with = Counter(word for words in split for word in set(words))
    ranked = []
    for words in split:
        weight = {word: count * math.log(len(split) / texts_with[word]) for word, count in Counter(words).items()}
        ranked.append(sorted(weight, key=lambda word: -weight[word]))
    return ranked


def with_words(text: str, words: Sequence[str], share: float, generator: np.random.Generator) -> str:
    """`text` with round(share * its words) words, drawn at random, replaced by the first of `words`, in turn."""
    own = text.split()
    places = np.sort(generator.permutation(len(own))[: round(share * len(own))])
    for number, place in enumerate(places):
        own[place] = words[number % len(words)]
    return " ".join(own)
