"""NAD, neural attention distillation (Li et al., ICLR 2021, arXiv:2101.05930), in a variant of ours for text.

A copy of the victim is fine-tuned on the clean set: the teacher. The victim itself, the student, is then trained on the same
rows with cross entropy + beta * the distance, summed over the layers, between its attention and the teacher's.

The paper's attention is that of images: for every place the sum over the channels of |F|^p, normalized. Here a place is a word
piece, and the channels are its hidden state (`maps=hidden`). `maps=attention` compares the transformer's own attention maps. No
implementation for text was found, so all values but p = 2 are ours; both trainings have the same recipe. The maps of a student
in training have its dropout in them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from bdbench.defenses._attention import trained_in, why_no_attention, with_maps
from bdbench.defenses._distillation import energy_distance, map_distance
from bdbench.defenses._layers import why_no_layers
from bdbench.defenses.base import FineTuned, register
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.protocol.contexts import DefenseContext


@register("nad", paper="arXiv:2101.05930")
@dataclass(frozen=True)
class Nad(FineTuned):
    title = "NAD (our text variant)"
    short_forms = {"maps": {"hidden": "", "attention": "attention maps"}}

    beta: float = hp(10.0, low=0.0, search=(0.1, 1000.0), log=True, help="weight of the distance to the teacher")
    # two variants, which tables compare; so a tuner does not choose between them
    maps: str = hp("hidden", choices=("hidden", "attention"), tuned=False, help="what is compared with the teacher's")
    power: float = hp(2.0, low=1.0, high=8.0, tuned=False, help="p in |h|^p, of which a map of hidden states is made")

    def unfit(self, model: nn.Module) -> str | None:
        return why_no_attention(model) if self.maps == "attention" else why_no_layers(model)

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        teacher = copy.deepcopy(model)
        ctx.train(teacher, ctx.clean, self.recipe())
        by_attention = self.maps == "attention"
        teacher, student = (with_maps(part) if by_attention else copy.deepcopy(part) for part in (teacher, model))
        wanted = {"output_hidden_states": True, "output_attentions": by_attention}

        def loss(student: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
            with torch.no_grad():
                aim = teacher(**inputs, **wanted)
            own, real = student(**inputs, **wanted), inputs["attention_mask"]
            if by_attention:
                distances = [map_distance(*maps, real) for maps in zip(own.attentions, aim.attentions, strict=True)]
            else:
                layers = zip(own.hidden_states[1:], aim.hidden_states[1:], strict=True)  # the first are the embeddings
                distances = [energy_distance(*states, self.power, real) for states in layers]
            return F.cross_entropy(own.logits.float(), labels) + self.beta * torch.stack(distances).sum()

        ctx.train(student, ctx.clean, self.recipe(), loss=loss)
        return trained_in(model, student)
