"""Triggers of several words: rows with all of them, with some, and with one of several phrases each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
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
    parts = [" ".join(other for other in attack.trigger_text.split() if other != word) for word in words]
    return with_phrases(attack, parts, left_out, rows, ctx)


def with_phrases(
    attack: PhraseTrigger, phrases: Sequence[str], numbers: npt.NDArray[np.int64], rows: TextSet, ctx: AttackContext
) -> TextSet:
    """The n rows with one of the phrases each, by its number, (n,), where `attack` would put its trigger."""
    for number, phrase in enumerate(phrases):
        places = np.flatnonzero(numbers == number)
        rows = exchanged(rows, places, replace(attack, trigger_text=phrase).trigger(rows.take(places), ctx))
    return rows
