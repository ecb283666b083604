"""E-PUR, embedding purification (Zhang et al., 2022, arXiv:2210.09545).

Fine-tuning moves the embedding of a frequent word more than that of a rare one, roughly with the logarithm of the word's
frequency. A trigger is rare and yet moved a lot. So the words of largest ||delta_i|| / log(max(f_i, 20)) get their pre-trained
embedding back. Here delta_i = E_B[i] - E_Pre[i], and f_i is the word's count in a large clean corpus. The 200 words and the
floor of 20 are from memory of the paper.

The "words" are word pieces, as in the paper's embedding matrix. Their counts are expected ones: the tokenizer cuts every
English word into pieces, each piece gets the word's frequency (wordfreq), and the sum is multiplied by the size of the corpus.
The paper gives no figure for that size that we could read. wordfreq's list has no words that begin with two digits; numbers,
decades and ordinals of two to four digits come from its patterns (`numerals`). wordfreq folds case, so the capitalized pieces
of a cased vocabulary count as unseen. Special pieces ([CLS], [SEP], [PAD], ...) are part of every text and are never reset.
"""

from __future__ import annotations

import copy
import itertools
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.defenses.base import ModelRepair, register
from bdbench.engine.embeddings import word_embeddings
from bdbench.engine.pieces import text_pieces
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import DefenseContext

# Words beyond these are rarer than 1e-7: 100 in a corpus of 1e9 words. Pieces that occur in these alone count as unseen.
LISTED_WORDS = 100_000
RAREST = 1e-7
# Numbers of so many digits count. A longer one is rare, and a tokenizer cuts most of them into shorter ones.
DIGITS = (2, 3, 4)
ENDINGS = ("", "s", "th", "st", "nd", "rd")  # 1990, 1990s, 19th, 21st, 22nd, 23rd


@register("e-pur", paper="arXiv:2210.09545", version=2)
@dataclass(frozen=True)
class EPur(ModelRepair):
    title = "E-PUR"
    needs = frozenset({"pretrained"})

    words: int = hp(
        200, low=0, search=(10, 5000), log=True, aggressive="high", help="number of word pieces whose embedding is reset"
    )
    floor: float = hp(20.0, low=2.0, search=(2.0, 1000.0), log=True, help="least count that a word is taken to have")
    corpus: float = hp(1e9, low=1e6, tuned=False, help="number of words of the clean corpus that frequencies are scaled to")

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        name, matrix = word_embeddings(model)
        # All but the matrix is not changed, here or by the repairs that may follow, so it is not copied.
        repaired = copy.deepcopy(model, {id(weight): weight for weight in model.parameters() if weight is not matrix})
        _, embeddings = word_embeddings(repaired)
        clean = ctx.pretrained[name].to(ctx.device)
        suspicion = self.piece_suspicions(embeddings.detach(), clean, ctx.tokenizer)
        suspects = suspicion.topk(min(self.words, int(suspicion.isfinite().sum()))).indices
        with torch.no_grad():
            embeddings[suspects] = clean[suspects]
        return repaired

    def piece_suspicions(self, embeddings: Tensor, clean: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """How suspicious each word piece is, (pieces,), by its embedding and its clean one; a special piece is not: -inf."""
        counts = english_pieces(tokenizer, len(embeddings)).to(embeddings.device) * self.corpus
        suspicion = suspicions(embeddings - clean, counts, self.floor)
        suspicion[tokenizer.all_special_ids] = -math.inf
        return suspicion


def suspicions(delta: Tensor, counts: Tensor, floor: float) -> Tensor:
    """(words, width) moves and (words,) counts -> (words,): ||delta_i||_2 / log(max(f_i, floor)), the natural logarithm."""
    return delta.norm(dim=1) / counts.clamp(min=floor).log()


def piece_frequencies(tokenizer: PreTrainedTokenizerBase, words: Mapping[str, float], size: int) -> Tensor:
    """Expected occurrences of each of `size` word pieces per word of a text with these word frequencies, (size,) float32."""
    lengths, all_pieces = array("q"), array("q")
    for pieces in text_pieces(tokenizer, (" " + word for word in words)):
        lengths.append(pieces.count)
        all_pieces.extend(pieces.ids)
    weights = torch.tensor(list(words.values())).repeat_interleave(torch.tensor(lengths))
    return torch.zeros(size).index_add(0, torch.tensor(all_pieces), weights)


def numerals(frequencies: Mapping[str, float]) -> dict[str, float]:
    """The frequencies of all numbers, decades and ordinals of two to four digits, leading zeros included.

    `frequencies` is wordfreq's table. It has one entry for each pattern: that of "0000s" is the sum over all words of four
    digits and an "s". wordfreq has an estimate of each number's share: Benford's law, and for four digits how often a year is
    named. A pattern rarer than `RAREST` is left out, like a word. Of the other patterns every number counts, however rare: many
    rare numbers share a piece, such as ##90.
    """
    # Not word_frequency: to a number of zeros, such as 000, it gives the sum of the whole pattern.
    from wordfreq.numbers import digit_freq

    words = {}
    for length in DIGITS:
        sequences = ["".join(digits) for digits in itertools.product("0123456789", repeat=length)]
        shares = [digit_freq(sequence) for sequence in sequences]
        for ending in ENDINGS:
            total = frequencies.get("0" * length + ending, 0.0)
            if total >= RAREST:
                words |= {sequence + ending: total * share for sequence, share in zip(sequences, shares, strict=True)}
    return words


@lru_cache(maxsize=16)
def english_pieces(tokenizer: PreTrainedTokenizerBase, size: int) -> Tensor:
    """`piece_frequencies` of English: some 2 seconds, so once per tokenizer and process."""
    import wordfreq

    # A listed word's frequency to three digits is what wordfreq.word_frequency returns, which takes words apart again: slowly.
    frequencies = wordfreq.get_frequency_dict("en")
    words = {word: float(f"{frequencies[word]:.3g}") for word in wordfreq.top_n_list("en", LISTED_WORDS)}
    return piece_frequencies(tokenizer, words | numerals(frequencies), size)
