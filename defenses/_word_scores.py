"""How much each word of a row changes the row's representation: what leaving it out does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bdbench.data import TextSet
from bdbench.defenses._features import features

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext

TEXTS_AT_ONCE = 2**14  # whose representations, some kB each, are in memory at a time


def word_scores(model: nn.Module, rows: TextSet, ctx: DefenseContext) -> list[dict[str, float]]:
    """For each of the n rows its words, each with the largest change that leaving it out once makes."""
    scores: list[dict[str, float]] = []
    for portion in portions(rows, TEXTS_AT_ONCE):
        variants, words = without_each_word(portion)
        of_variants = features(model, variants, ctx)
        first = 0
        for of_row in words:
            changes = largest_changes(of_variants[first : first + 1 + len(of_row)])
            best: dict[str, float] = {}
            for word, change in zip(of_row, changes.tolist(), strict=True):
                best[word] = max(change, best.get(word, 0.0))
            scores.append(best)
            first += 1 + len(of_row)
    return scores


def portions(rows: TextSet, texts: int) -> Iterator[TextSet]:
    """The rows in portions, in order, that have about so many words in all."""
    counts = np.cumsum([sum(len(text.split()) for text in of_row) for of_row in rows.texts])
    for number in np.unique(counts // texts):
        yield rows.take(np.flatnonzero(counts // texts == number))


def without_each_word(rows: TextSet) -> tuple[TextSet, list[list[str]]]:
    """Each row as it is, and then without each of its words; and the words of each row, in the same order."""
    variants: list[tuple[str, ...]] = []
    words: list[list[str]] = []
    for texts in rows.texts:
        variants.append(texts)
        words.append([])
        for place, text in enumerate(texts):
            of_text = text.split()
            for i, word in enumerate(of_text):
                words[-1].append(word)
                variants.append((*texts[:place], " ".join(of_text[:i] + of_text[i + 1 :]), *texts[place + 1 :]))
    first, *second = zip(*variants, strict=True)
    return TextSet(first, second[0] if second else None, np.zeros(len(variants), dtype=np.int64)), words


def largest_changes(of_variants: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(1 + words, width) of a text and of it without each word -> (words,): the largest absolute change of each."""
    return np.abs(of_variants[1:] - of_variants[0]).max(axis=1)
