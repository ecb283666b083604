"""BKI, backdoor keyword identification: rows with a word that decides too much in too many rows are dropped (Chen and Dai,
2020, arXiv:2007.12070).

The defender trains on the poisoned set. In every row each word is left out in turn; a word's score is the largest change, over
the numbers that the classification layer gets, that this makes. The 5 words of largest score are the row's keywords. A word's
suspicion over all rows is the logarithm (base 10) of the number of rows whose keyword it is, times its mean score in them. All
rows that have the most suspicious word as a keyword are dropped.

The paper's text was not read; this is the form that OpenBackdoor publishes for transformers. It drops the rows of one word,
whether or not there is poison, and so leaves all but one of several triggers. Here that is done again on the rows that are
left, without a new training, until no word stands out: until the largest suspicion is no more than `outstanding` times the
median of the 100 largest. That rule and its bound are ours. In 1,000 rows of SST-2 with one trigger in 100 of them, the trigger
has 6.5 times the median, and then "not" 3.2 (after another training above 4: then its 17 rows go, too). Had there been four
triggers in 25 rows each, all would be found, and of eight three.

The bound was set by looking at SST-2. It was then tried on 1,000 training rows of other tasks, with the bundled model. Of QQP,
100 rows with the trigger: the trigger has 8.0 times the median, then no word more than 3.3, so that its rows go and no others.
Of QNLI without poison: no word more than 2.1, so that no row goes. Rules for outliers that ask for no look at a task drop rows
of clean words there: a modified z-score of 3.5 those of four words of QNLI, Tukey's outer fence those of three of QQP.

No class is dropped whole: a word without which a class would have no row ends the search, too.

Of a pair the words of both texts are left out. It takes as many predictions as there are words.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bdbench.defenses._word_scores import word_scores
from bdbench.defenses.base import Filter, register
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext

WORDS_COMPARED = 100  # more of them are words of a row or two, and the median would say how long the tail is


@register("bki", paper="arXiv:2007.12070")
@dataclass(frozen=True)
class Bki(Filter):
    title = "BKI"
    needs = frozenset({"training-control"})

    keywords: int = hp(5, low=1, high=1000, tuned=False, help="words of a row that may be its keywords")
    outstanding: float = hp(
        3.5,
        low=1.0,
        search=(1.5, 10.0),
        log=True,
        aggressive="low",
        help="suspicion over that of the 100 most suspicious words' median above which a word's rows are dropped",
    )

    def keep(self, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.bool_]:
        model = ctx.untrained()
        ctx.train(model, rows, ctx.recipe)
        keywords = [keywords_of(scores, self.keywords) for scores in word_scores(model, rows, ctx)]
        words, kept = outstanding_words(keywords, rows.labels, self.outstanding)
        ctx.notes["words"] = words
        return kept


def keywords_of(scores: Mapping[str, float], most: int) -> dict[str, float]:
    """The `most` words of largest score; of equal ones the first."""
    return dict(sorted(scores.items(), key=lambda item: -item[1])[:most])


def suspicions(keywords: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """log10(rows) * mean score of each word over the rows whose keyword it is."""
    of_words: dict[str, list[float]] = defaultdict(list)
    for of_row in keywords:
        for word, score in of_row.items():
            of_words[word].append(score)
    return {word: math.log10(len(scores)) * math.fsum(scores) / len(scores) for word, scores in of_words.items()}


def outstanding_words(
    keywords: Sequence[Mapping[str, float]], labels: npt.NDArray[np.int64], outstanding: float
) -> tuple[list[str], npt.NDArray[np.bool_]]:
    """The words that stand out, one after another, from n rows' keywords and labels; and which rows have none of them, (n,)."""
    words: list[str] = []
    kept = np.ones(len(labels), dtype=bool)
    while of_words := suspicions([keywords[row] for row in np.flatnonzero(kept)]):
        word = max(of_words, key=lambda word: of_words[word])
        left = kept & np.array([word not in of_row for of_row in keywords])
        if not stands_out([*of_words.values()], outstanding) or len(np.unique(labels[left])) < len(np.unique(labels)):
            break
        words.append(word)
        kept = left
    return words, kept


def stands_out(of_words: Sequence[float], outstanding: float) -> bool:
    """Whether the largest of the suspicions is more than `outstanding` times the median of the WORDS_COMPARED largest."""
    largest = sorted(of_words, reverse=True)[:WORDS_COMPARED]
    return largest[0] > outstanding * float(np.median(largest))
