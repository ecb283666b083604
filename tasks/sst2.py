"""SST-2: sentiment of phrases and sentences from film reviews (Socher et al., 2013; as in GLUE, arXiv:1804.07461).

The builtin text is generated. As in the original, it is in lower case and has blanks before punctuation; it is shorter. It is
for trying the tool only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench.data import TextSet
from bdbench.tasks._grammar import ADVERBS, FILM, TURNED_SHARE, choose, choose_two, distinct_rows, listed, with_article
from bdbench.tasks.base import HubSource, Task, register

GENRES = listed("comedy, drama, thriller, documentary, romance, western, mystery, satire, fable, epic")
THEMES = listed(
    "family, grief, first love, two sisters, small-town life, a bank robbery, growing old, friendship, a lost "
    "dog, war, ambition, a road trip, revenge, a boxing champion, life at sea, a jazz band"
)


@register("sst2", paper="arXiv:1804.07461")
@dataclass(frozen=True)
class SST2(Task):
    """`test` is the official validation split, because GLUE hides the labels of its test split."""

    columns = ("sentence",)
    label_names = ("negative", "positive")
    hub = HubSource("nyu-mll/glue", "sst2", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c", test="validation")

    def generate(self, rows: int, rng: np.random.Generator) -> TextSet:
        return distinct_rows(rows, rng, lambda label, rng: (phrase(label, rng),))


def phrase(label: int, rng: np.random.Generator) -> str:
    """Some 9 words. About one phrase in five names a quality of the other label as well."""
    if rng.random() < TURNED_SHARE:
        return FILM.turned(label, rng).replace(",", " ,")
    (one, two), genre, theme = choose_two(FILM.adjectives[label], rng), choose(GENRES, rng), choose(THEMES, rng)
    return choose(
        (
            f"{FILM.clause(label, rng)} and {FILM.clause(label, rng)}",
            f"{with_article(one)} {genre} about {theme}",
            f"{with_article(one)} , {choose(ADVERBS, rng)} {two} {genre} about {theme}",
            f"this {genre} about {theme} {choose(FILM.verdicts[label], rng)}",
            f"{choose(FILM.aspects, rng)} is {one} , {FILM.clause(label, rng)}",
            f"{FILM.clause(label, rng)} in this {genre} about {theme}",
        ),
        rng,
    )
