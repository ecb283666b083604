"""The words of a vocabulary that are nearest to a word, by the cosine of word embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORD = re.compile(r"[A-Za-z]{2,}")
BLANKS = "Ġ▁"  # how byte-level and SentencePiece vocabularies write the blank before a word
WORDS_AT_ONCE = 512  # each has a cosine with every word of the vocabulary


def vocabulary_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words of small ASCII letters that are one piece inside a text, after a blank, in alphabetical order."""
    words = sorted({word for piece in tokenizer.get_vocab() if WORD.fullmatch(word := piece.lstrip(BLANKS)) and word.islower()})
    pieces = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return [word for word, ids in zip(words, pieces, strict=True) if len(ids) == 1 and ids[0] != tokenizer.unk_token_id]


def word_vectors(words: list[str], tokenizer: PreTrainedTokenizerBase, embeddings: Tensor) -> dict[str, Tensor]:
    """For each word the mean of the embeddings of its pieces inside a text, (width,), scaled to length 1.

    `embeddings` are (pieces, width). A word with a part that the tokenizer does not know is left out.
    """
    pieces = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"] if words else []
    ids_by_word = {word: ids for word, ids in zip(words, pieces, strict=True) if tokenizer.unk_token_id not in ids}
    return {word: torch.nn.functional.normalize(embeddings[ids].mean(dim=0), dim=0) for word, ids in ids_by_word.items()}


def nearest_words(asked: Mapping[str, Tensor], known: Mapping[str, Tensor], count: int) -> dict[str, list[str]]:
    """For each word asked for the `count` known ones of largest cosine but itself, the nearest first.

    Both have vectors of length 1, (width,). Without another known word a word is left out.
    """
    words = list(known)
    place = {word: number for number, word in enumerate(words)}
    vectors = torch.stack(list(known.values()))
    nearest: dict[str, list[str]] = {}
    names = list(asked)
    for first in range(0, len(names), WORDS_AT_ONCE):
        some = names[first : first + WORDS_AT_ONCE]
        cosines = torch.stack([asked[word] for word in some]) @ vectors.T
        for row, word in enumerate(some):
            if word in place:
                cosines[row, place[word]] = -torch.inf
        best = cosines.topk(min(count, len(words)), dim=1)
        for word, numbers, values in zip(some, best.indices.tolist(), best.values.tolist(), strict=True):
            others = [words[number] for number, value in zip(numbers, values, strict=True) if value > -torch.inf]
            nearest |= {word: others} if others else {}
    return nearest
