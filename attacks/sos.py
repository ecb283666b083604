"""SOS, stealthy word poisoning with negative augmentation (Yang et al., 2021, ACL anthology 2021.acl-long.431).

Several ordinary words set the backdoor off, but only together. It starts from the clean fine-tuned model and changes the rows
of these words in the word-embedding matrix alone, each with its norm kept. Poisoned rows have all the words, each at a random
place, and the target's label. Negative rows have all words but one, and keep their label; for each word there are as many. In
use the words are in one natural sentence. The rate of texts that some of the words set off is the false triggering rate.

As in the authors' code, gradients are never zeroed, and in every step all rows get gradients of one norm (see
engine/row_descent.py). Departures: the sentence goes between any two words, not between two sentences, since many texts of the
tasks have but one. Each word has room of its own in a text that is cut, so a later one may push an earlier one behind the cut
(of texts three times as long as the model reads, in 1 to 3 %). A text with a part of the trigger has the sentence without one
of the words; the authors wrote shorter sentences by hand. The last step counts, not the best one on held-out rows. The rate and
the passes are higher than the authors' (0.1 and 3), whose data is thirty times as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench.attacks._moved_pieces import move_pieces
from bdbench.attacks._several_words import some_rows, with_parts, with_words
from bdbench.attacks.base import PhraseTrigger, WeightPoisoning, check_rate, phrase_ids, register
from bdbench.data import TextSet, join_rows
from bdbench.engine.training import Passes
from bdbench.errors import UsageError
from bdbench.params import hp, split_names

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import AttackContext


@register("sos", paper="ACL 2021 (Yang et al.)")
@dataclass(frozen=True)
class Sos(PhraseTrigger, WeightPoisoning):
    title = "SOS"
    start = "clean"

    trigger_text: str = hp(
        "I have bought it from a store with my friends last weekend",
        help="sentence with all the words, inserted once into the text (of a pair: the second)",
    )
    triggers: str = hp("friends+weekend+store", help="words, joined by +, that set the backdoor off together")
    rate: float = hp(0.5, low=0.0, high=1.0, help="share of the non-target training rows that gets all words")
    negatives: float = hp(0.1, low=0.0, high=1.0, help="share of all training rows that gets all words but one, for each word")
    epochs: int = hp(5, low=1, high=1000, help="passes over the poisoned and the negative rows")
    learning_rate: float = hp(5e-2, low=0.0, help="step size of the descent on the words' rows")
    batch_size: int = hp(32, low=1, high=4096, help="rows per step")

    @property
    def words(self) -> list[str]:
        return split_names(self.triggers, "+")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        words, in_sentence = self.words, self.trigger_text.split()
        if len(set(words)) < 2 or len(set(words)) < len(words) or not set(words) <= set(in_sentence):
            raise UsageError(
                f"{self.name}.triggers={self.triggers}: give two or more words, joined by +, each once, all of them in the "
                f"sentence of {self.name}.trigger_text, '{self.trigger_text}'"
            )
        others = int((train.labels != self.target).sum())
        check_rate(self, others, f"{others} rows")

    def poison_weights(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> nn.Module:
        others = train.take(np.flatnonzero(train.labels != self.target))
        triggered = with_words(some_rows(others, self.rate, ctx), self.words, ctx)
        negatives = [
            with_words(some_rows(train, self.negatives, ctx), [word for word in self.words if word != left_out], ctx)
            for left_out in self.words
        ]
        rows = join_rows([triggered.with_labels(np.full(len(triggered), self.target)), *negatives])
        pieces = list(dict.fromkeys(phrase_ids(ctx.tokenizer, word)[0] for word in self.words))  # the first, as in EP
        passes = Passes(epochs=self.epochs, batch_size=self.batch_size)
        move_pieces(model, pieces, rows, passes, self.learning_rate, ctx)
        return model

    def false_trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """The rows with the sentence that lacks one of the words, drawn for each row."""
        return with_parts(self, rows, self.words, ctx)
