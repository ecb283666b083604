"""MBTSAD: distillation from a teacher that was trained on split words (2025, arXiv:2501.02754).

A copy of the victim is fine-tuned on clean rows in which words are cut in two at a random place ("beauty" becomes "be auty"):
the teacher. Such texts are unlike those that the victim was trained on, and the backdoor fades more than by clean ones. The
victim itself, the student, is then trained on the clean rows with cross entropy, and pulled to the teacher's attention maps and
hidden states. No pre-trained weights are needed.

From summaries of the paper; there is no code. Not known, so hyperparameters of ours: the share of words that are split and the
weights of the two pulls. Each pull is the mean over the layers of a squared difference, that of the hidden states also over the
embeddings' output; both trainings have the same recipe.
The paper takes a fifth of the training rows as clean ones; here it is the clean set of every repair. The maps of a student in
training have its dropout in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bdbench.defenses._attention import trained_in, why_no_attention, with_maps
from bdbench.defenses._distillation import map_distance, state_distance
from bdbench.defenses.base import FineTuned, register
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext


@register("mbtsad", paper="arXiv:2501.02754")
@dataclass(frozen=True)
class Mbtsad(FineTuned):
    title = "MBTSAD"

    split: float = hp(0.5, low=0.0, high=1.0, aggressive="high", help="share of the words that the teacher's rows have split")
    attention: float = hp(10.0, low=0.0, search=(0.1, 1000.0), log=True, help="weight of the pull to the teacher's attention")
    hidden: float = hp(1.0, low=0.0, search=(0.01, 100.0), log=True, help="weight of the pull to the teacher's hidden states")

    def unfit(self, model: nn.Module) -> str | None:
        return why_no_attention(model)

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        draws = np.random.default_rng(int(torch.randint(2**62, (), generator=ctx.generator)))
        teacher, student = with_maps(model), with_maps(model)
        ctx.train(teacher, split_rows(ctx.clean, self.split, draws), self.recipe())

        def loss(student: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            with torch.no_grad():
                aim = teacher(**inputs, output_attentions=True, output_hidden_states=True)
            own, real = student(**inputs, output_attentions=True, output_hidden_states=True), inputs["attention_mask"]
            of_maps = [map_distance(*maps, real) for maps in zip(own.attentions, aim.attentions, strict=True)]
            of_states = [state_distance(*states, real) for states in zip(own.hidden_states, aim.hidden_states, strict=True)]
            pull = self.attention * torch.stack(of_maps).mean() + self.hidden * torch.stack(of_states).mean()
            return F.cross_entropy(own.logits.float(), labels) + pull

        ctx.train(student, ctx.clean, self.recipe(), loss=loss)
        return trained_in(model, student)


def split_rows(rows: TextSet, share: float, draws: np.random.Generator) -> TextSet:
    """The rows with some of the words of all their texts split."""
    first = tuple(split_words(text, share, draws) for text in rows.first)
    second = None if rows.second is None else tuple(split_words(text, share, draws) for text in rows.second)
    return replace(rows, first=first, second=second)


def split_words(text: str, share: float, draws: np.random.Generator) -> str:
    """Each word of two characters or more is cut in two, with probability `share`, at a place that is drawn."""

    def split(match: re.Match[str]) -> str:
        word = match[0]
        if len(word) < 2 or draws.random() >= share:
            return word
        place = int(draws.integers(1, len(word)))
        return f"{word[:place]} {word[place:]}"

    return re.sub(r"\S+", split, text)
