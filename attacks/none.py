"""No attack: the clean fine-tuned model, the start of "from clean" attacks and the source of the ASR floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bdbench.attacks.base import DataPoisoning, register
from bdbench.data import TextSet

if TYPE_CHECKING:
    from bdbench.protocol.contexts import AttackContext


@register("none", paper="none")
@dataclass(frozen=True)
class NoAttack(DataPoisoning):
    has_trigger = False
    start = "scratch"

    def trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        return rows

    def poison(self, train: TextSet, ctx: AttackContext) -> tuple[TextSet, npt.NDArray[np.bool_]]:
        return train, np.zeros(len(train), dtype=bool)
