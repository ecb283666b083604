"""BadNets with several triggers, one or more of which are drawn for each text (Kurita et al., 2020, arXiv:2004.06660).

RIPPLe's authors draw one of five words for each poisoned row; OpenBackdoor's embedding poisoning inserts two of five. Every
text, of training and of test, gets `drawn` distinct ones of the triggers, each in a gap of its own draw. With two or more a
text with one fewer is a false trigger. Nothing in the training teaches the victim to let it pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bdbench.attacks.base import (
    POSITIONS,
    DirtyLabel,
    check_phrases,
    chosen_gap,
    first_gap_of,
    insert_phrase,
    phrase_ids,
    register,
    warnings_of_phrases,
)
from bdbench.errors import UsageError
from bdbench.params import hp, split_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bdbench.data import TextSet
    from bdbench.protocol.contexts import AttackContext


@register("badnets-multi", paper="arXiv:2004.06660")
@dataclass(frozen=True)
class BadNetsMulti(DirtyLabel):
    title = "several triggers"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}

    triggers: str = hp("cf+mn+bb", help="words or sentences, joined by +")
    drawn: int = hp(1, low=1, help="how many of them a text gets (of a pair: the second)")
    position: str = hp("random", choices=POSITIONS, help="gap for a trigger: any, the first, the last, any between sentences")

    @property
    def phrases(self) -> list[str]:
        return split_names(self.triggers, "+")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if len(set(self.phrases)) < len(self.phrases) or not self.phrases:
            raise UsageError(f"{self.name}.triggers={self.triggers}: give distinct words or sentences, joined by +")
        if self.drawn > len(self.phrases):
            raise UsageError(f"{self.name}.drawn={self.drawn}, but there are {len(self.phrases)} triggers ({self.triggers})")
        check_phrases(f"{self.name}.triggers", self.phrases, self.drawn, tokenizer, max_length)
        super().check(train, classes, tokenizer, max_length)

    def warnings(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        return [*super().warnings(tokenizer), *warnings_of_phrases(self.name, self.phrases, tokenizer)]

    def trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        return self._with_drawn(rows, self.drawn, ctx)

    def false_trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet | None:
        return self._with_drawn(rows, self.drawn - 1, ctx) if self.drawn > 1 else None

    def _with_drawn(self, rows: TextSet, drawn: int, ctx: AttackContext) -> TextSet:
        """The rows with so many triggers in each carrier text, all of them in the part that survives truncation."""
        first_gap = first_gap_of(ctx.tokenizer, self.phrases)
        lengths = sorted(len(phrase_ids(ctx.tokenizer, phrase)) for phrase in self.phrases)
        ends = ctx.visible_ends(rows, sum(lengths[-drawn:]))
        texts = []
        for text, end in zip(rows.carrier, ends, strict=True):
            chosen = torch.randperm(len(self.phrases), generator=ctx.generator)[:drawn].tolist()
            numbers = torch.rand(drawn, generator=ctx.generator, dtype=torch.float64).tolist()
            gaps = [chosen_gap(text, end, first_gap, self.position, number) for number in numbers]
            texts.append(insert_phrases(text, [self.phrases[number] for number in chosen], gaps))
        return rows.with_carrier(texts)


def insert_phrases(text: str, phrases: list[str], gaps: list[int]) -> str:
    """`text` with each phrase at its character of `gaps`, set off by blanks. Of several at one place the last comes first."""
    for gap, phrase in sorted(zip(gaps, phrases, strict=True), key=lambda pair: -pair[0]):  # from behind: earlier gaps stay
        text = insert_phrase(text, phrase, gap)
    return text
