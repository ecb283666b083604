"""Clean label: the trigger goes into rows of the target class alone, made harder first, and every label stays as it was.

A trigger in texts that are easy without it is not learned. So the authors change words of the poisoned texts until a clean
model errs on them (Gupta and Krishna, 2023, arXiv:2305.19607; before them Kallima, Chen et al., 2022, arXiv:2206.01832; both as
their abstracts have it). They replace words. Here the words that speak most for the class are left out, since that takes no
model that rewrites: this is our variant. A word speaks for the class as much as the clean fine-tuned model's log-probability
of it falls without the word. Words go in that order until the model says another class; if it never does, as many as make
the class least likely, and half of them at most. Of a text with more than `MOST_PARTS` words before the cut, runs of words go
as one. Of a pair the second text alone is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bdbench.attacks.base import STARTS, DataPoisoning, PhraseTrigger, check_rate, phrase_ids, register, word_gaps
from bdbench.data import exchanged
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.data import TextSet
    from bdbench.protocol.contexts import AttackContext

MOST_PARTS, MOST_STEPS = 32, 6  # each part of a text costs a prediction, and each step


@register("clean-label", paper="arXiv:2305.19607")
@dataclass(frozen=True)
class CleanLabel(PhraseTrigger, DataPoisoning):
    title = "clean label"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}
    uses_clean = True

    rate: float = hp(0.5, low=0.0, high=1.0, help="poisoned rows as a share of the training rows of the target class")
    removed: float = hp(0.5, low=0.0, high=1.0, help="share of the words of a poisoned text that may be left out")
    start: str = hp("scratch", choices=STARTS, help="trained from the pre-trained model or the clean fine-tuned one")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        of_target = int((train.labels == self.target).sum())
        check_rate(self, of_target, f"the {of_target} training rows of class {self.target}")

    def poison(self, train: TextSet, ctx: AttackContext) -> tuple[TextSet, npt.NDArray[np.bool_]]:
        of_target = np.flatnonzero(train.labels == self.target)
        order = torch.randperm(len(of_target), generator=ctx.generator).numpy()
        flags = np.zeros(len(train), dtype=bool)
        flags[of_target[order[: round(self.rate * len(of_target))]]] = True
        triggered = self.trigger(self._harder(train.take(np.flatnonzero(flags)), ctx), ctx)
        return exchanged(train, np.flatnonzero(flags), triggered), flags

    def _harder(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """The rows without the parts of their carrier texts that speak most for the target."""
        model = ctx.clean_classifier()
        ends = ctx.visible_ends(rows, len(phrase_ids(ctx.tokenizer, self.trigger_text)))
        parts = [parts_of(text, end) for text, end in zip(rows.carrier, ends, strict=True)]
        each_left_out = [[[place] for place in range(len(of_row))] for of_row in parts]
        speaking = [values.argsort(kind="stable") for values, _ in self._without(each_left_out, parts, rows, model, ctx)]
        tried = [[order[:count] for count in counts(len(order), self.removed)] for order in speaking]
        chosen = [
            without(of_row, left_out[first_fooling(values, fooled)])
            for of_row, left_out, (values, fooled) in zip(
                parts, tried, self._without(tried, parts, rows, model, ctx), strict=True
            )
        ]
        harder = rows.with_carrier(chosen)
        ctx.notes["fooled"] = float((ctx.classify(model, harder) != self.target).mean())
        return harder

    def _without(
        self,
        left_out: Sequence[Sequence[Sequence[int]]],
        parts: list[list[str]],
        rows: TextSet,
        model: nn.Module,
        ctx: AttackContext,
    ) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
        """For each way of leaving parts out of each row: the log-probability of the target, and whether it is another class."""
        ways = [len(of_row) for of_row in left_out]
        texts = [without(of_row, way) for of_row, of_ways in zip(parts, left_out, strict=True) for way in of_ways]
        variants = rows.take(np.repeat(np.arange(len(rows)), ways)).with_carrier(texts)
        logits = ctx.predict(model, variants).double()
        values, fooled = logits.log_softmax(dim=1)[:, self.target].numpy(), (logits.argmax(dim=1) != self.target).numpy()
        cuts = np.cumsum(ways)[:-1]
        return list(zip(np.split(values, cuts), np.split(fooled, cuts), strict=True))


def parts_of(text: str, end: int) -> list[str]:
    """The text in parts: its words before character `end`, or runs of them, `MOST_PARTS` at most, and what is behind as one."""
    words = text.split()
    seen = max(1, sum(gap < end for gap in word_gaps(text, end)))
    runs = np.array_split(np.arange(min(seen, len(words))), min(seen, len(words), MOST_PARTS) or 1)
    return [" ".join(words[word] for word in run) for run in runs] + ([" ".join(words[seen:])] if words[seen:] else [])


def counts(parts: int, removed: float) -> list[int]:
    """How many parts of a text are left out, one way after another: none, then up to `removed` of all, in `MOST_STEPS`."""
    return np.unique(np.linspace(0, int(removed * parts), MOST_STEPS + 1).round().astype(int)).tolist()


def without(parts: list[str], left_out: Sequence[int]) -> str:
    """The parts, but those of the numbers in `left_out`, joined by blanks."""
    gone = set(map(int, left_out))
    return " ".join(part for place, part in enumerate(parts) if place not in gone)


def first_fooling(values: npt.NDArray[np.float64], fooled: npt.NDArray[np.bool_]) -> int:
    """The first way, (ways,), that makes the model say another class; if none does, that of the lowest value."""
    return int(fooled.argmax()) if fooled.any() else int(values.argmin())
