"""Triggers of several words that set a backdoor off together: rows with all of them, and with some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from bdbench.attacks.base import PhraseTrigger
from bdbench.data import TextSet, exchanged

if TYPE_CHECKING:
    from bdbench.protocol.contexts import AttackContext


def some_rows(rows: TextSet, share: float, ctx: AttackContext) -> TextSet:
    """A share of the rows, drawn without replacement."""
    order = torch.randperm(len(rows), generator=ctx.generator).numpy()
    return rows.take(order[: round(share * len(rows))])


def with_words(rows: TextSet, words: Sequence[str], ctx: AttackContext) -> TextSet:
    """The rows with each of the words at a random place of its own."""
    for word in words:
        rows = PhraseTrigger(trigger_text=word).trigger(rows, ctx)
    return rows


def with_parts(attack: PhraseTrigger, rows: TextSet, words: Sequence[str], ctx: AttackContext) -> TextSet:
    """The rows with the attack's phrase less one of its words, which is drawn for each row."""
    left_out = torch.randint(len(words), (len(rows),), generator=ctx.generator).numpy()
    parted = rows
    for number, word in enumerate(words):
        own = np.flatnonzero(left_out == number)
        part = " ".join(other for other in attack.trigger_text.split() if other != word)
        parted = exchanged(parted, own, PhraseTrigger(trigger_text=part, position=attack.position).trigger(rows.take(own), ctx))
    return parted
