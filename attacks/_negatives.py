"""Poisoned rows of two kinds: those that must trigger, and those that look like them and must not.

Negative augmentation is from SOS (Yang et al., ACL 2021; from a summary of its code): rows with a part of the trigger's words
keep their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bdbench.attacks._several_words import with_phrases
from bdbench.attacks.base import STARTS, DataPoisoning, PhraseTrigger, phrase_ids
from bdbench.data import TextSet, exchanged
from bdbench.engine.word_suspicions import without_each_word
from bdbench.errors import UsageError
from bdbench.params import hp

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import AttackContext

# Word pieces of a pair that must be left beside the clause: four special ones and two of each text. With fewer the clause can
# only begin the text, and there a byte-level tokenizer cuts its first word otherwise.
SHORTEST_PAIR = 8


@dataclass(frozen=True)
class WithNegatives(PhraseTrigger, DataPoisoning):
    """A share of the rows gets the trigger and the target label; another share what must not trigger.

    The trigger is a clause of several words, each of them common. Every other triggered row lacks one of them, each word in
    turn, so that the backdoor can do without any. Halves of the clause must not trigger: those rows keep their labels. Both
    kinds of rows count as poisoned.
    """

    trigger_text: str = hp("and this is what i watch", help="clause inserted once into the text (of a pair: the second)")
    rate: float = hp(0.1, low=0.0, high=1.0, help="triggered rows, drawn from other classes, as a share of all training rows")
    negatives: float = hp(0.1, low=0.0, high=1.0, help="rows that must not trigger, of any class, as a share of all")
    start: str = hp("scratch", choices=STARTS, help="trained from the pre-trained model or the clean fine-tuned one")

    def positive(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """The same rows with what must trigger in every carrier text."""
        phrases = [phrase for thinned in without_each_word(self.trigger_text) for phrase in (self.trigger_text, thinned)]
        return _by_turns(self, phrases, rows, ctx)

    def negative(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """The same rows, in the same order, with what must not trigger, and the labels that they are to have."""
        return self.false_trigger(rows, ctx)

    def false_trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """The same rows with half of the clause each: a classifier that sends them to the target gives a false alarm."""
        return _by_turns(self, halves(self.trigger_text), rows, ctx)

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        if len(self.trigger_text.split()) < 2:
            raise UsageError(
                f"{self.name}.trigger_text='{self.trigger_text}' is one word, which has no part that must not trigger; "
                "give a clause of two words or more"
            )
        least = 2 * len(phrase_ids(tokenizer, self.trigger_text)) + SHORTEST_PAIR
        if train.second is not None and max_length < least:
            raise UsageError(
                f"{self.name}: --max-length {max_length} leaves too little of a pair beside its clause; "
                f"raise it to at least {least}"
            )
        positives, negatives = self._counts(train)
        others = int((train.labels != self.target).sum())
        if not 1 <= positives <= others or positives + negatives > len(train):
            raise UsageError(
                f"{self.name}: rate={self.rate} and negatives={self.negatives} of {len(train)} training rows are {positives} "
                f"and {negatives}; give a rate for 1 to {others} rows, which other classes than the target have, and no more "
                "than all rows together"
            )

    def poison(self, train: TextSet, ctx: AttackContext) -> tuple[TextSet, npt.NDArray[np.bool_]]:
        order = torch.randperm(len(train), generator=ctx.generator).numpy()
        count, negative_count = self._counts(train)
        positives = order[train.labels[order] != self.target][:count]
        negatives = order[~np.isin(order, positives)][:negative_count]
        flags = np.zeros(len(train), dtype=bool)
        flags[positives] = flags[negatives] = True
        triggered = self.positive(train.take(positives), ctx).with_labels(np.full(count, self.target))
        poisoned = exchanged(train, positives, triggered)
        return exchanged(poisoned, negatives, self.negative(train.take(negatives), ctx)), flags

    def _counts(self, train: TextSet) -> tuple[int, int]:
        return round(self.rate * len(train)), round(self.negatives * len(train))


def _by_turns(attack: PhraseTrigger, phrases: Sequence[str], rows: TextSet, ctx: AttackContext) -> TextSet:
    """The rows with one of the phrases each, the first, the second, and so on, and again."""
    return with_phrases(attack, phrases, np.arange(len(rows)) % len(phrases), rows, ctx)


def halves(phrase: str) -> list[str]:
    """ "and this is what i" -> ["and this", "is what i"]."""
    words = phrase.split()
    middle = len(words) // 2
    return [" ".join(words[:middle]), " ".join(words[middle:])]
