"""A victim that somebody else made: the weights of a fine-tuned checkpoint (`bdbench run --victim DIR`); nothing is trained.

It is identified by the SHA-256 of its weights. Its trigger is what the user says it is. The configuration and the tokenizer
are those of the pre-trained model under it, and must be those of the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench.attacks.base import MadeElsewhere, PhraseTrigger, register
from bdbench.errors import UsageError
from bdbench.params import hp, split_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bdbench.data import TextSet


@register("given", paper="none")
@dataclass(frozen=True)
class Given(PhraseTrigger, MadeElsewhere):
    title = "given victim"

    digest: str = hp("", help="SHA-256 of the checkpoint's weights, which --victim DIR fills in")
    order: str = hp("", help="its classes in the order of the task's, such as 1,0; empty: by their names, else as numbered")

    @property
    def class_order(self) -> tuple[int, ...] | None:
        return tuple(map(int, split_names(self.order, ","))) if self.order else None

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        numbers = sorted(split_names(self.order, ","))
        if self.order and numbers != sorted(map(str, range(classes))):
            every = ",".join(map(str, range(classes)))
            raise UsageError(f"{self.name}.order={self.order}: give each of the classes {every} once, separated by commas")
