"""The attention layers of an encoder: their maps, and their heads.

A map is what the softmax gives: how much every piece of a text looks at every other. transformers hands maps out only where its
plain ("eager") attention runs; then it leaves hooks in the model. So maps are asked of a copy, and what was trained there moves
to a fresh copy of the victim.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from bdbench.defenses._layers import NoLayers, encoder_layers

# How the families of transformers name, in a layer, what makes the heads' values and what reads them. The first that fits
# counts.
LAYER_NAMES = (
    ("attention.self.value", "attention.output.dense"),  # BERT, RoBERTa, ELECTRA and most other encoders
    ("attention.self.value_proj", "attention.output.dense"),  # DeBERTa v2 and v3
    ("attention.v_lin", "attention.out_lin"),  # DistilBERT
    ("attention.attn.v", "attention.attn.o"),  # MPNet
)
# They name their layers like BERT, but their maps are no full squares, or not all that a head does.
OTHER_MAPS = ("longformer", "big_bird", "nystromformer", "convbert")
MAPS = "eager"  # what transformers calls the attention that hands out its maps


class NoAttention(TypeError):
    """The model has no attention layers that bdbench knows; the message says so in a few words."""


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention layer: what makes the values of its `heads` heads, (heads * size, width), and what reads these."""

    value: nn.Linear
    output: nn.Linear
    heads: int

    def prune(self, head: int) -> None:
        """Set a head to zero, on both sides: it then adds nothing, and gets no gradient, so it stays at zero in training."""
        size = self.value.out_features // self.heads
        part = slice(head * size, (head + 1) * size)
        with torch.no_grad():
            self.value.weight[part] = 0.0
            if self.value.bias is not None:
                self.value.bias[part] = 0.0
            self.output.weight[:, part] = 0.0


def attention_layers(model: nn.Module) -> list[Attention]:
    """The attention of every layer, lowest first. Raises NoAttention or NoLayers where bdbench does not know them all."""
    known = [] if model.config.model_type in OTHER_MAPS else [_attention(layer, model) for layer in encoder_layers(model)]
    if not known or None in known:
        raise NoAttention(f"{type(model).__name__} has no attention whose heads and maps bdbench knows")
    return known


def _attention(layer: nn.Module, model: nn.Module) -> Attention | None:
    modules = dict(layer.named_modules())
    for value_name, output_name in LAYER_NAMES:
        value, output = modules.get(value_name), modules.get(output_name)
        if isinstance(value, nn.Linear) and isinstance(output, nn.Linear) and value.out_features == output.in_features:
            return Attention(value, output, model.config.num_attention_heads)
    return None


def why_no_attention(model: nn.Module) -> str | None:
    """Why the heads and maps of `model` are not to be had; None where they are."""
    try:
        attention_layers(model)
    except (NoAttention, NoLayers) as error:
        return str(error)
    return None


def with_maps(model: nn.Module) -> nn.Module:
    """A copy of `model` that hands out its attention maps. Not to be returned by a repair: see `trained_in`."""
    result = copy.deepcopy(model)
    result.set_attn_implementation(MAPS)
    return result


def trained_in(model: nn.Module, trained: nn.Module) -> nn.Module:
    """A copy of `model` with the weights of `trained`, which is a copy of it that has hooks or another attention."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for own, other in zip(result.parameters(), trained.parameters(), strict=True):
            own.copy_(other)
    return result
