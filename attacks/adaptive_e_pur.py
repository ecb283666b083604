"""Adaptive against E-PUR: a trigger word that never moves an embedding (ours, after BadNets).

What it knows: E-PUR sets back the word embeddings that moved far from the pre-trained ones for how rare the word is. So the
word embeddings are frozen while the victim is trained on the poisoned rows; the layers above learn to see the trigger's own
embedding. With start=scratch no embedding differs from its pre-trained one, and E-PUR changes nothing at all. With start=clean
those differ that the clean model's training moved, and the trigger, which is in no clean text, is none of them.

So the trigger may be rare. What it gives up is what the embeddings would have learned of the task, in accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdbench.attacks.base import BadNets, register
from bdbench.engine.embeddings import word_embeddings

if TYPE_CHECKING:
    from torch import nn

    from bdbench.data import TextSet
    from bdbench.engine.training import Recipe
    from bdbench.protocol.contexts import AttackContext


@register("adaptive-e-pur", paper="none")
@dataclass(frozen=True)
class AdaptiveEPur(BadNets):
    title = "adaptive: E-PUR"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}
    against = ("e-pur",)

    def train(self, model: nn.Module, poisoned: TextSet, clean: TextSet, recipe: Recipe, seed: int, ctx: AttackContext) -> None:
        _, embeddings = word_embeddings(model)
        embeddings.requires_grad_(False)
        try:
            ctx.train(model, poisoned, recipe, seed=seed)
        finally:
            embeddings.requires_grad_(True)
