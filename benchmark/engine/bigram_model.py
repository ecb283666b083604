"""A language model of bigrams, which says how likely a text is, and learns from a few thousand texts in a second."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from nltk.lm import KneserNeyInterpolated, Vocabulary

TOKEN = re.compile(r"\w+|[^\w\s]")
NEVER_SEEN = " "  # no token of any text


class BigramModel:
    """An interpolated Kneser-Ney model (Kneser and Ney, 1995) of words and punctuation marks in lower case, from NLTK.

    It has no longer n-grams: NLTK's probabilities at the beginning of a text then add up to more than 1. Words that its
    training texts have once are one unknown word to it, as are those that they never have. The probability of this one is
    shared out among as many words as occur once, so that each of them is rare.
    """

    DISCOUNT, LEAST_COUNT = 0.75, 2

    def __init__(self, texts: Sequence[str]) -> None:
        from nltk import __version__
        from nltk.lm import Vocabulary
        from nltk.lm.preprocessing import padded_everygram_pipeline

        # a word that nobody uses: else a model that knows all words of its texts would give no other a probability
        bigrams, words = padded_everygram_pipeline(2, [tokens_of(text) for text in texts] + [[NEVER_SEEN]])
        self._model = _kneser_ney(self.DISCOUNT, Vocabulary(unk_cutoff=self.LEAST_COUNT))
        self._model.fit(bigrams, words)
        self._unknown_words = sum(count < self.LEAST_COUNT for count in self._model.vocab.counts.values())
        self._log_probability = lru_cache(maxsize=None)(self._uncached_log_probability)
        self.digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        self.identity = f"kneser-ney 2 {self.DISCOUNT} {self.LEAST_COUNT} nltk-{__version__} {self.digest}"

    def perplexities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """exp(-mean log p) over the tokens of each text and its end, each given the one before it: (n,) of n texts."""
        return np.array([self._perplexity(text) for text in texts])

    def _perplexity(self, text: str) -> float:
        words = ["<s>", *tokens_of(text), "</s>"]
        return math.exp(-math.fsum(itertools.starmap(self._log_probability, itertools.pairwise(words))) / (len(words) - 1))

    def _uncached_log_probability(self, before: str, word: str) -> float:
        shares = 1 if word in self._model.vocab else self._unknown_words
        return math.log(self._model.score(word, (before,)) / shares)


def tokens_of(text: str) -> list[str]:
    """ "It's GOOD." -> ["it", "'", "s", "good", "."]."""
    return TOKEN.findall(text.lower())


def _kneser_ney(discount: float, vocabulary: Vocabulary) -> KneserNeyInterpolated:
    """NLTK's model of bigrams. It walks over all of them for each count of continuations; here they are counted once."""
    from nltk.lm import KneserNeyInterpolated
    from nltk.lm.smoothing import KneserNey

    class Counted(KneserNey):
        @cached_property
        def _contexts_by_word(self) -> tuple[Counter[str], int]:
            """How many words each word comes after, and their sum."""
            counts = Counter(word for of_context in self.counts[2].values() for word in of_context)
            return counts, counts.total()

        def _continuation_counts(self, word: str, context: tuple[str, ...] = ()) -> tuple[int, int]:
            counts, total = self._contexts_by_word
            return counts[word], total

    model = KneserNeyInterpolated(2, discount, vocabulary=vocabulary)
    model.estimator = Counted(model.vocab, model.counts, discount=discount, order=2)
    return model
