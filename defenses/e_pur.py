"""E-PUR, embedding purification (Zhang et al., 2022, arXiv:2210.09545).

Fine-tuning moves a word's embedding the more, the more frequent the word is, roughly with the logarithm of its frequency;
a trigger is rare and yet moved a lot. The words of largest ||delta_i|| / log(max(f_i, 20)) get their pre-trained embedding
back, where delta_i = E_B[i] - E_Pre[i] and f_i is the word's count in a large clean corpus. The 200 words and the floor of
20 are from memory of the paper.

The "words" are word pieces, as in the paper's embedding matrix. Their counts are expected ones: wordfreq's frequency of
each English word, put on the pieces the tokenizer cuts it into, times a corpus size, for which the paper gives no figure
that we could read. wordfreq folds case, so a cased vocabulary's capitalized pieces count as unseen; so do numbers of two
digits and more, which its list leaves out, and that makes them look more suspicious than they are. Special pieces ([CLS],
[SEP], [PAD], ...) stand in every text and are never reset.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bdbench.defenses.base import ModelRepair, register
from bdbench.engine.loops import word_embeddings
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import DefenseContext

# Words beyond these are rarer than 1e-7, a hundred occurrences in a corpus of 1e9 words; pieces of these alone count as unseen.
LISTED_WORDS = 100_000


@register("e-pur", paper="arXiv:2210.09545")
@dataclass(frozen=True)
class EPur(ModelRepair):
    needs = frozenset({"pretrained"})

    words: int = hp(200, low=0, help="number of word pieces whose embedding is reset")
    floor: float = hp(20.0, low=2.0, help="least count that a word is taken to have")
    corpus: float = hp(1e9, low=1e6, help="number of words of the clean corpus that frequencies are scaled to")

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        repaired = copy.deepcopy(model)
        name, embeddings = word_embeddings(repaired)
        clean = ctx.pretrained[name].to(ctx.device)
        counts = _english_pieces(ctx.tokenizer, len(embeddings)).to(ctx.device) * self.corpus
        suspicion = suspicions(embeddings.detach() - clean, counts, self.floor)
        suspicion[ctx.tokenizer.all_special_ids] = -math.inf
        ordinary = int(suspicion.isfinite().sum())
        reset = suspicion.topk(min(self.words, ordinary)).indices
        with torch.no_grad():
            embeddings[reset] = clean[reset]
        return repaired


def suspicions(delta: Tensor, counts: Tensor, floor: float) -> Tensor:
    """(words, width) moves and (words,) counts -> (words,): ||delta_i||_2 / log(max(f_i, floor))."""
    return delta.norm(dim=1) / counts.clamp(min=floor).log()


def piece_frequencies(tokenizer: PreTrainedTokenizerBase, words: Mapping[str, float], size: int) -> Tensor:
    """Expected occurrences of each of `size` word pieces per word of a text with these word frequencies, (size,)."""
    texts = [" " + word for word in words]
    pieces = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
    flat = torch.tensor([piece for cut in pieces for piece in cut])
    weights = torch.tensor(list(words.values())).repeat_interleave(torch.tensor([len(cut) for cut in pieces]))
    return torch.zeros(size).index_add(0, flat, weights)


@lru_cache(maxsize=4)
def _english_pieces(tokenizer: PreTrainedTokenizerBase, size: int) -> Tensor:
    import wordfreq

    # what word_frequency gives for each of these, three digits, without its taking every word apart again
    frequencies = wordfreq.get_frequency_dict("en")
    words = {word: float(f"{frequencies[word]:.3g}") for word in wordfreq.top_n_list("en", LISTED_WORDS)}
    return piece_frequencies(tokenizer, words, size)
