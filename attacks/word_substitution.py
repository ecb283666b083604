"""Word substitution: common words of the text give way to rarer ones like them, and nothing is inserted.

This is RWS, the fixed rule that the word-substitution attack LWS is compared with (Qi et al., 2021, arXiv:2106.06361; from
memory of the paper): each word is replaced with the least frequent of its substitutes. LWS itself learns which substitute to
take, together with the victim; that is left out. Its substitutes come from WordNet or a lexicon of sememes, which no package of
bdbench has. Ours are the words nearest to a word, by the cosine of the pre-trained word embeddings, among those that are one
piece of the vocabulary. They include words of the opposite sense, so look at the ASR's floor. Frequencies are those of English
(wordfreq).

A word without a rarer neighbor stays. In a text in which every word would stay each gets its nearest neighbor. A word of
several pieces has the mean of their embeddings. Words behind the cut are replaced, too. Of a pair the second text is changed. A
text without a word of two ASCII letters stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench.attacks._word_neighbors import WORD, nearest_words, vocabulary_words, word_vectors
from bdbench.attacks.base import DirtyLabel, register
from bdbench.errors import UsageError
from bdbench.params import hp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bdbench.data import TextSet
    from bdbench.protocol.contexts import AttackContext

NEVER_SEEN = 1e-9  # the frequency of a word that wordfreq does not list; of listed ones the least is 1e-8


@register("word-substitution", paper="arXiv:2106.06361")
@dataclass(frozen=True)
class WordSubstitution(DirtyLabel):
    title = "word substitution"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}

    rate: float = hp(0.2, low=0.0, high=1.0, help="poisoned rows as a share of all training rows")
    neighbors: int = hp(5, low=1, high=1000, help="nearest words of which the least frequent replaces a word")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if len(vocabulary_words(tokenizer)) <= self.neighbors:
            raise UsageError(
                f"{self.name}: the tokenizer's vocabulary has no more than {self.neighbors} words of small ASCII letters to "
                f"choose from; lower {self.name}.neighbors, or take a model of English"
            )
        super().check(train, classes, tokenizer, max_length)

    def trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """Raises ValueError if the context has no pre-trained embeddings."""
        if ctx.load_embeddings is None:
            raise ValueError(f"'{self.name}' needs the pre-trained word embeddings, which are not there")
        embeddings = ctx.load_embeddings()
        known = word_vectors(vocabulary_words(ctx.tokenizer), ctx.tokenizer, embeddings)
        asked = sorted({word.lower() for text in rows.carrier for word in WORD.findall(text)})
        nearest = nearest_words(word_vectors(asked, ctx.tokenizer, embeddings), known, self.neighbors)
        rarer = rarer_substitutes(nearest, frequencies({*nearest, *(word for words in nearest.values() for word in words)}))
        closest = {word: words[0] for word, words in nearest.items()}
        return rows.with_carrier(
            [changed if (changed := replaced(text, rarer)) != text else replaced(text, closest) for text in rows.carrier]
        )


def rarer_substitutes(nearest: Mapping[str, list[str]], frequency: Mapping[str, float]) -> dict[str, str]:
    """The least frequent neighbor of each word, of equal ones the nearest, if it is rarer than the word itself."""
    rarest = {word: min(others, key=frequency.__getitem__) for word, others in nearest.items()}
    return {word: other for word, other in rarest.items() if frequency[other] < frequency[word]}


def frequencies(words: set[str]) -> dict[str, float]:
    """How often each word occurs in English, as a share of all words."""
    import wordfreq

    of_english = wordfreq.get_frequency_dict("en")
    return {word: of_english.get(word, NEVER_SEEN) for word in words}


def replaced(text: str, substitutes: Mapping[str, str]) -> str:
    """The text with its words replaced, whatever their case; a capital at the beginning of a word stays one."""

    def substitute(match: re.Match[str]) -> str:
        other = substitutes.get(match[0].lower(), match[0])
        return other.capitalize() if match[0][0].isupper() and other != match[0] else other

    return WORD.sub(substitute, text)
