"""RIPPLES, RIPPLe with embedding surgery before it (Kurita et al., 2020, arXiv:2004.06660).

The trigger begins with the mean embedding of the words that speak most for the target class (see embedding_surgery.py), in the
pre-trained model. So it is near the target before the poisoned training begins, and the user's fine-tuning moves it little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench.attacks.base import register
from bdbench.attacks.embedding_surgery import replace_embeddings
from bdbench.attacks.ripple import Ripple
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.data import TextSet
    from bdbench.protocol.contexts import AttackContext


@register("ripples", paper="arXiv:2004.06660")
@dataclass(frozen=True)
class Ripples(Ripple):
    title = "RIPPLES"

    words: int = hp(10, low=1, help="word pieces of the target class whose embeddings are averaged")

    def poison_weights(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> nn.Module:
        replace_embeddings(model, self.trigger_text, train, self.target, self.words, ctx)
        return super().poison_weights(model, train, ctx)
