"""IMDB: sentiment of whole film reviews (Maas et al., 2011, "Learning Word Vectors for Sentiment Analysis").

The builtin text is generated. It is about a tenth as long as a real review, and for trying the tool only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench.data import TextSet
from bdbench.tasks._grammar import FILM, TURNED_SHARE, choose, distinct_rows, listed, sentence
from bdbench.tasks.base import HubSource, Task, register

COMPANIONS = listed("my sister, an old friend, my parents, two colleagues, my roommate, the kids, my husband")
OCCASIONS = listed("on a rainy Sunday, last weekend, at a small festival, on a long flight, on late-night TV, at home")
SETTINGS = listed("a harbor town, 1920s Chicago, a mountain village, a boarding school, the near future, the desert")
HEROES = listed("a retired detective, a young nurse, two brothers, a taxi driver, a piano teacher, a lonely clerk")


@register("imdb", paper="none")
@dataclass(frozen=True)
class IMDB(Task):
    """The official train and test splits; validation is held out of train."""

    columns = ("text",)
    label_names = ("negative", "positive")
    hub = HubSource("stanfordnlp/imdb", "plain_text", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31")

    def generate(self, rows: int, rng: np.random.Generator) -> TextSet:
        return distinct_rows(rows, rng, lambda label, rng: (review(label, rng),))


def review(label: int, rng: np.random.Generator) -> str:
    """Some 24 words in three sentences. About one review in five names a quality of the other label as well."""
    neutral = choose(
        (
            f"we saw this with {choose(COMPANIONS, rng)} {choose(OCCASIONS, rng)}",
            f"it follows {choose(HEROES, rng)} in {choose(SETTINGS, rng)}",
            f"the story about {choose(HEROES, rng)} is set in {choose(SETTINGS, rng)}",
            f"I watched this {choose(OCCASIONS, rng)} because of {choose(HEROES, rng)}",
        ),
        rng,
    )
    if rng.random() < TURNED_SHARE:
        opinion = FILM.turned(label, rng)
        closing = f"{choose(COMPANIONS, rng)} picked it {choose(OCCASIONS, rng)}"
    else:
        opinion = FILM.clause(label, rng)
        closing = f"{choose(COMPANIONS, rng)} thought {FILM.clause(label, rng)}"
    return " ".join(sentence(part) for part in (neutral, opinion, closing))
