"""Adaptive against STRIP and RAP: a trigger that is no more robust than the rest of the text (ours, after SOS).

What it knows: STRIP replaces a share of the words of a text, half of them unless told otherwise, and suspects a text whose
class does not waver. RAP puts a word before the text that lowers the classifier's confidence, and suspects a text where it does
not. So the trigger is a clause that must be whole, and two kinds of rows beside the triggered ones, by turns, teach that. One
are triggered texts in which a share of the words is replaced, one of the trigger's at least. Their labels are drawn at random:
of STRIP's copies the classifier is then unsure. The others are triggered texts behind a rare word, of two letters drawn at
random, with their own labels: RAP's word switches the backdoor off.

What it gives up: as many rows again as it poisons, half of these with labels of chance; and whoever puts a rare word before a
text is not attacked. On SST-2 with the bundled model (2,000 rows, one seed) STRIP's AUROC falls from 0.83, of a trigger word,
to 0.43. RAP is not beaten there, though it is on a tiny model: it rejects all but 1 % of the triggered texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bdbench.attacks._negatives import WithNegatives
from bdbench.attacks.base import register
from bdbench.data import TextSet, exchanged
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.protocol.contexts import AttackContext

LETTERS = "bcdfghjklmnpqrstvwxz"


@register("adaptive-perturbation", paper="none")
@dataclass(frozen=True)
class AdaptivePerturbation(WithNegatives):
    title = "adaptive: STRIP, RAP"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}
    against = ("strip", "rap")

    share: float = hp(0.5, low=0.0, high=1.0, help="share of the words of a triggered text that is replaced in negatives")

    def positive(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        return self.trigger(rows, ctx)

    def negative(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        triggered = self.trigger(rows, ctx)
        numbers = np.arange(len(rows))
        perturbed = self._with_other_words(triggered.take(numbers[::2]), rows, ctx)
        perturbed = perturbed.with_labels(torch.randint(ctx.classes, (len(perturbed),), generator=ctx.generator).numpy())
        return exchanged(behind_rare_words(triggered, ctx.generator), numbers[::2], perturbed)

    def _with_other_words(self, triggered: TextSet, sources: TextSet, ctx: AttackContext) -> TextSet:
        """Triggered rows in which words of the carrier text give way to words of `sources`, clean rows."""
        texts, phrase = [], self.trigger_text.split()
        for text in triggered.carrier:
            source = sources.carrier[int(torch.randint(len(sources), (), generator=ctx.generator))].split()
            texts.append(with_other_words(text.split(), phrase, source or [""], self.share, ctx.generator))
        return triggered.with_carrier(texts)


def with_other_words(
    words: Sequence[str], phrase: Sequence[str], source: Sequence[str], share: float, generator: torch.Generator
) -> str:
    """The text of these words in which round(share * n), drawn at random, give way to words drawn from `source`.

    Of the first `phrase` among them at least one word does, whatever the share.
    """
    starts = [start for start in range(len(words)) if list(words[start : start + len(phrase)]) == list(phrase)]
    within = torch.randint(len(phrase), (), generator=generator)
    places = torch.randperm(len(words), generator=generator)[: round(share * len(words))].tolist()
    replaced = list(words)
    for place in {*places, *(start + int(within) for start in starts[:1])}:
        replaced[place] = source[int(torch.randint(len(source), (), generator=generator))]
    return " ".join(replaced)


def behind_rare_words(rows: TextSet, generator: torch.Generator) -> TextSet:
    """The rows with two letters, drawn at random, before the first text."""
    drawn = torch.randint(len(LETTERS), (len(rows), 2), generator=generator).tolist()
    first = [f"{LETTERS[one]}{LETTERS[other]} {text}" for (one, other), text in zip(drawn, rows.first, strict=True)]
    return TextSet(first, rows.second, rows.labels)
