"""Removing the words of a text that a language model finds suspicious: what ONION and MSDT share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bdbench.data import TextSet

if TYPE_CHECKING:
    from bdbench.protocol.contexts import DefenseContext

WORDS_AT_ONCE = 128
Numbers = npt.NDArray[np.float64]


def purified(
    rows: TextSet, validation: TextSet, of_texts: Callable[[Sequence[str]], list[Numbers]], removed: float
) -> tuple[TextSet, float]:
    """The rows without the words whose suspicion is above a bar, and the bar; of a pair both texts lose theirs.

    `of_texts` gives the suspicions of the words of each text, (words,). The bar is that of `removed` on the validation texts.
    """
    of_validation = [of_text for column in columns(validation) for of_text in of_texts(column)]
    limit = bar(np.concatenate(of_validation), removed)
    without = [
        [without_suspicious(text, of_text, limit) for text, of_text in zip(column, of_texts(column), strict=True)]
        for column in columns(rows)
    ]
    return TextSet(without[0], without[1] if rows.second is not None else None, rows.labels), limit


def columns(rows: TextSet) -> list[tuple[str, ...]]:
    """The n texts of single-text rows, or the n first and the n second ones of pairs."""
    return [rows.first] if rows.second is None else [rows.first, rows.second]


def suspicions(
    texts: Sequence[str],
    identity: str,
    numbers_of: Callable[[Sequence[str]], Numbers],
    of_words: Callable[[Numbers], Numbers],
    ctx: DefenseContext,
) -> list[Numbers]:
    """The suspicion of the words of each text, (words,); of the only word of a part it is the lowest number.

    `numbers_of` gives a number for each of n texts, (n,), and `identity` says what decides it beside the text. `of_words` makes
    suspicions, (words,), of the numbers of a part (first) and of the part without each of its words, (words + 1,).
    """

    def compute(part: str) -> Numbers:
        words = part.split()
        return numbers_of([part, *(" ".join(words[:place] + words[place + 1 :]) for place in range(len(words)))])

    parts_of_texts = [parts(text) for text in texts]
    several_words = list({part: None for of_text in parts_of_texts for part in of_text if " " in part})
    numbers = dict(zip(several_words, ctx.once_per_text(identity, several_words, compute), strict=True))
    lone = np.array([np.finfo(np.float64).min])
    return [
        np.concatenate([np.empty(0), *(of_words(numbers[part]) if part in numbers else lone for part in of_text)])
        for of_text in parts_of_texts
    ]


def parts(text: str) -> list[str]:
    """The words of a text in parts of WORDS_AT_ONCE, each joined by blanks."""
    words = text.split()
    return [" ".join(words[first : first + WORDS_AT_ONCE]) for first in range(0, len(words), WORDS_AT_ONCE)]


def bar(of_words: Numbers, removed: float) -> float:
    """The smallest of the suspicions, (n,), above which lie at most `removed` * n of them."""
    return float(np.quantile(of_words, 1 - removed, method="inverted_cdf"))


def without_suspicious(text: str, of_words: Numbers, limit: float) -> str:
    """`text` without the words whose suspicion is above the limit; the same text where there is none."""
    if not (of_words > limit).any():
        return text
    return " ".join(word for word, of_word in zip(text.split(), of_words, strict=True) if of_word <= limit)
