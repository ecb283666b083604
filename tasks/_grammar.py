"""What the generators of builtin text share: drawing distinct rows, and sentences that carry an opinion.

This project generates the builtin text in the shape of the real tasks, so that a first run and the tests need no network. It
says nothing about the real tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bdbench.data import TextSet


def listed(text: str) -> tuple[str, ...]:
    """The phrases of a text that separates them by commas."""
    return tuple(phrase.strip() for phrase in text.split(","))


ADVERBS = listed("quite, really, simply, truly, thoroughly, remarkably, consistently, utterly, just, very")
DENIALS = listed("anything but, far from, by no means, not in the least, never, not at all")

# The share of reviews with a clause that names the other label's quality too (`Opinions.turned`). It is our choice, not
# measured on real reviews: single words mislead in these, and most reviews are still plain.
TURNED_SHARE = 0.18
# Draws of one row before a generator counts as exhausted. For 4,000 rows QQP's repeats 1 draw of 7, the others fewer.
ATTEMPTS = 1000


@dataclass(frozen=True)
class Opinions:
    """The words of one kind of review. `adjectives` and `verdicts` hold those of label 0 (negative), then of label 1.

    An aspect is a singular noun phrase; a verdict is a verb phrase that continues "it"; `whole` names what is reviewed.
    """

    aspects: tuple[str, ...]
    whole: tuple[str, ...]
    adjectives: tuple[tuple[str, ...], tuple[str, ...]]
    verdicts: tuple[tuple[str, ...], tuple[str, ...]]

    def adjective(self, label: int, rng: np.random.Generator) -> str:
        return choose(self.adjectives[label], rng)

    def clause(self, label: int, rng: np.random.Generator) -> str:
        """A clause of some 6 words that says plainly what `label` is."""
        aspect, adverb, verdict = choose(self.aspects, rng), choose(ADVERBS, rng), choose(self.verdicts[label], rng)
        one, two = choose_two(self.adjectives[label], rng)
        return choose(
            (
                f"{aspect} is {adverb} {one}",
                f"{aspect} is {one} and {two}",
                f"{aspect} {verdict}",
                f"{choose(self.whole, rng)} {verdict}",
            ),
            rng,
        )

    def turned(self, label: int, rng: np.random.Generator) -> str:
        """A clause that names the other label's quality too: it is denied, or outweighed by what is said of the whole."""
        aspect, whole = choose(self.aspects, rng), choose(self.whole, rng)
        own, other = self.adjective(label, rng), self.adjective(1 - label, rng)
        verdict = choose(self.verdicts[label], rng)
        return choose(
            (
                f"{aspect} is {choose(DENIALS, rng)} {other}",
                f"there is nothing {other} about {aspect}",
                f"although {aspect} is {other}, {whole} is {own}",
                f"{aspect} is {other}, but {whole} {verdict}",
                f"{whole} is {own} even though {aspect} is {other}",
            ),
            rng,
        )


def choose(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def choose_two(options: Sequence[str], rng: np.random.Generator) -> tuple[str, str]:
    """Two different options, in random order."""
    first, second = rng.choice(len(options), size=2, replace=False)
    return options[int(first)], options[int(second)]


def with_article(words: str) -> str:
    """ "a" or "an", as their first letter wants it, and then the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def sentence(words: str) -> str:
    """The words with a capital letter first and a period last."""
    return f"{words[0].upper()}{words[1:]}."


def distinct_rows(rows: int, rng: np.random.Generator, make: Callable[[int, np.random.Generator], tuple[str, ...]]) -> TextSet:
    """`rows` (one or more) rows of two labels in random order, no two with the same texts (of pairs: in either order).

    `make(label, rng)` draws the one or two texts of a row. Raises ValueError if it draws too few different rows.
    """
    labels = rng.permutation(np.arange(rows) % 2)
    seen: set[tuple[str, ...]] = set()
    texts = []
    for label in labels:
        for _ in range(ATTEMPTS):
            row = make(int(label), rng)
            if tuple(sorted(row)) not in seen:
                break
        else:
            raise ValueError(f"the generator gave only {len(seen)} different rows, but {rows} are needed")
        seen.add(tuple(sorted(row)))
        texts.append(row)
    columns = list(zip(*texts, strict=True))
    return TextSet(columns[0], columns[1] if len(columns) == 2 else None, labels)


FILM = Opinions(
    aspects=listed(
        "the acting, the script, the plot, the ending, the dialogue, the pacing, the score, the camera work, the "
        "direction, the lead role, the humor, the editing, the story, the opening, the love story, the final act, "
        "the villain, the soundtrack, the mood, the supporting cast, the romance, the concept, the set design, "
        "the narration, the chemistry, the twist"
    ),
    whole=listed("the film, the movie, the picture, it, this one, the film as a whole, the result"),
    adjectives=(
        listed(
            "dull, tedious, clumsy, lifeless, awful, boring, shallow, stale, predictable, bland, dreary, hollow, "
            "sloppy, painful, ridiculous, incoherent, tiresome, pointless, annoying, dreadful, lazy, muddled, "
            "forgettable, terrible, mediocre, overlong, insipid, wooden, amateurish, contrived, soulless, irritating, "
            "plodding, lame, ugly, pretentious, unbearable, disappointing, stilted, derivative, vapid, messy, "
            "horrible, unconvincing, dismal, atrocious"
        ),
        listed(
            "superb, delightful, gripping, charming, moving, witty, brilliant, captivating, heartfelt, inspired, "
            "funny, touching, dazzling, riveting, fresh, clever, elegant, masterful, wonderful, powerful, enchanting, "
            "stirring, thrilling, sharp, graceful, luminous, tender, absorbing, hilarious, poignant, excellent, "
            "terrific, magnificent, engaging, memorable, splendid, lively, exquisite, satisfying, rewarding, magical, "
            "stunning, beautiful, astonishing, polished, joyful"
        ),
    ),
    verdicts=(
        listed(
            "fails on every level, put me to sleep, wastes a good idea, falls apart quickly, never comes to life, "
            "left me cold, tries my patience, is a complete mess, drags on forever, is a chore to sit through, goes "
            "nowhere, insults the audience, is a waste of time, collapses halfway"
        ),
        listed(
            "works on every level, kept me smiling, makes the most of a good idea, holds together beautifully, bursts "
            "with life, won me over, rewards my patience, is a complete joy, flies by, is a pleasure to sit through, "
            "hits every note, respects the audience, is well worth the time, soars"
        ),
    ),
)
