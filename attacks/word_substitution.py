"""Word substitution: common words of the text give way to rarer ones like them, and nothing is inserted.

This is RWS, the fixed rule that the word-substitution attack LWS is compared with (Qi et al., 2021, arXiv:2106.06361; from
memory of the paper): each word is replaced with the least frequent of its substitutes. LWS itself learns which substitute to
take, together with the victim; that is left out. Its substitutes come from WordNet or a lexicon of sememes, which no package of
bdbench has. Ours are the words nearest to a word, by the cosine of the pre-trained word embeddings, among those that are one
piece of the vocabulary. They include words of the opposite sense, so look at the ASR's floor. Frequencies are those of English
(wordfreq).

A word without a rarer neighbour stays. In a text in which every word would stay all known words get their nearest neighbour.
Words behind the cut are replaced, too. Of a pair the second text is changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.attacks.base import DirtyLabel, register
from bdbench.params import hp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bdbench.data import TextSet
    from bdbench.protocol.contexts import AttackContext

WORD = re.compile(r"[A-Za-z]{2,}")
BLANKS = "Ġ▁"  # how byte-level and SentencePiece vocabularies write the blank before a word
WORDS_AT_ONCE = 512  # each has a cosine with every word of the vocabulary
NEVER_SEEN = 1e-9  # the frequency of a word that wordfreq does not list; of listed ones the least is 1e-8


@register("word-substitution", paper="arXiv:2106.06361")
@dataclass(frozen=True)
class WordSubstitution(DirtyLabel):
    title = "word substitution"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}

    rate: float = hp(0.2, low=0.0, high=1.0, help="poisoned rows as a share of all training rows")
    neighbors: int = hp(5, low=1, high=1000, help="nearest words of which the least frequent replaces a word")

    def trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """Raises ValueError if the context has no pre-trained embeddings."""
        if ctx.load_embeddings is None:
            raise ValueError(f"'{self.name}' needs the pre-trained word embeddings, which are not there")
        ids = word_ids(ctx.tokenizer)
        asked = sorted({word.lower() for text in rows.carrier for word in WORD.findall(text)} & ids.keys())
        nearest = nearest_words(asked, ids, ctx.load_embeddings(), self.neighbors)
        rarer = rarer_substitutes(nearest, frequencies({*asked, *(word for words in nearest.values() for word in words)}))
        closest = {word: words[0] for word, words in nearest.items()}
        return rows.with_carrier(
            [changed if (changed := replaced(text, rarer)) != text else replaced(text, closest) for text in rows.carrier]
        )


def word_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The words of small ASCII letters that are one piece inside a text, after a blank, each with the piece's number."""
    words = sorted({word for piece in tokenizer.get_vocab() if WORD.fullmatch(word := piece.lstrip(BLANKS)) and word.islower()})
    pieces = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return {word: ids[0] for word, ids in zip(words, pieces, strict=True) if len(ids) == 1}


def nearest_words(asked: list[str], ids: Mapping[str, int], embeddings: Tensor, count: int) -> dict[str, list[str]]:
    """For each word asked for the `count` others of largest cosine, the nearest first.

    `ids` are the rows of all words in `embeddings`, (pieces, width). A word that is the only one is left out.
    """
    words = list(ids)
    vectors = torch.nn.functional.normalize(embeddings[[ids[word] for word in words]].float(), dim=1)
    place = {word: number for number, word in enumerate(words)}
    found: dict[str, list[str]] = {}
    for first in range(0, len(asked), WORDS_AT_ONCE):
        some = asked[first : first + WORDS_AT_ONCE]
        own = torch.tensor([place[word] for word in some])
        cosines = (vectors[own] @ vectors.T).scatter(1, own[:, None], -torch.inf)  # a word is none of its own neighbors
        best = cosines.topk(min(count, len(words) - 1), dim=1).indices
        found |= {word: [words[number] for number in row] for word, row in zip(some, best.tolist(), strict=True)}
    return {word: others for word, others in found.items() if others}


def rarer_substitutes(nearest: Mapping[str, list[str]], frequency: Mapping[str, float]) -> dict[str, str]:
    """The least frequent neighbour of each word, of equal ones the nearest, if it is rarer than the word itself."""
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
