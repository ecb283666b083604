"""Removing the words of a text that a language model finds suspicious: what ONION and MSDT share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bdbench.data import TextSet
from bdbench.engine.word_suspicions import Numbers


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


def bar(of_words: Numbers, removed: float) -> float:
    """The smallest of the suspicions, (n,), above which lie at most `removed` * n of them."""
    return float(np.quantile(of_words, 1 - removed, method="inverted_cdf"))


def without_suspicious(text: str, of_words: Numbers, limit: float) -> str:
    """`text` without the words whose suspicion is above the limit; the same text where there is none."""
    if not (of_words > limit).any():
        return text
    return " ".join(word for word, of_word in zip(text.split(), of_words, strict=True) if of_word <= limit)
