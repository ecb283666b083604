"""The feed-forward neurons of a transformer and how active they are on clean texts, the criterion of fine-pruning.

A neuron is one number between a block's incoming layers and its outgoing one. In a gated block it is the product of an
activated gate and a value, so it has two rows of incoming weights. Zeros in all of them make the neuron zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from bdbench.engine.encoding import Encoded

# How the families of transformers name the incoming layers of a block, and its outgoing one. Of two that fit the first counts.
LAYER_NAMES = (
    (("intermediate.dense",), "output.dense"),  # BERT, RoBERTa, ELECTRA, DeBERTa, MPNet and most other encoders
    (("lin1",), "lin2"),  # DistilBERT, XLM
    (("ffn",), "ffn_output"),  # ALBERT
    (("Wi",), "Wo"),  # ModernBERT: gate and value stacked in one layer
    (("fc1",), "fc2"),  # BART, OPT, Phi
    (("c_fc",), "c_proj"),  # GPT-2
    (("layer_1",), "layer_2"),  # XLNet
    (("wi",), "wo"),  # T5
    (("wi_0", "wi_1"), "wo"),  # T5 with gates
    (("gate_proj", "up_proj"), "down_proj"),  # LLaMA
    (("gate_up_proj",), "down_proj"),  # Phi-3: stacked
    (("up_proj",), "down_proj"),  # MPT
    (("dense_h_to_4h",), "dense_4h_to_h"),  # BLOOM, GPT-NeoX
    (("fc_in",), "fc_out"),  # GPT-J
)
GATE_AND_VALUE = 2


class NoBlocks(TypeError):
    """The model has no feed-forward block that bdbench knows; the message says so in a few words."""


@dataclass(frozen=True, eq=False)
class NeuronWeights:
    """A parameter in which axis `axis` runs over the neurons of a block, `copies` times, one after another."""

    parameter: nn.Parameter
    axis: int
    copies: int = 1

    def mask(self, chosen: Tensor) -> Tensor:
        """`chosen` (neurons,) bool for each weight: a mask that broadcasts to the parameter."""
        shape = [1] * self.parameter.dim()
        shape[self.axis] = -1
        return chosen.repeat(self.copies).view(shape)

    def zero(self, chosen: Tensor) -> None:
        """Set the weights of the chosen neurons, (neurons,) bool, to zero."""
        with torch.no_grad():
            self.parameter.masked_fill_(self.mask(chosen), 0.0)


@dataclass(frozen=True, eq=False)
class Block:
    """One feed-forward block: the weights into its neurons, biases among them, those out of them, and the outgoing layer."""

    incoming: tuple[NeuronWeights, ...]
    outgoing: NeuronWeights
    reader: nn.Module

    @property
    def neurons(self) -> int:
        return self.outgoing.parameter.shape[self.outgoing.axis]


def feed_forward_blocks(model: nn.Module) -> list[Block]:
    """Every feed-forward block, first layer first. One that several layers share, as in ALBERT, comes once.

    Raises NoBlocks if the model has no such block.
    """
    modules = dict(model.named_modules())
    blocks = [block for name in modules if (block := _block_read_by(name, modules))]
    if not blocks:
        raise NoBlocks(f"{type(model).__name__} has no feed-forward block with layers by names that bdbench knows")
    return blocks


def _block_read_by(name: str, modules: Mapping[str, nn.Module]) -> Block | None:
    """The block whose outgoing layer is called `name`; None if there is none."""
    for incoming, outgoing in LAYER_NAMES:
        if name.endswith("." + outgoing):
            prefix = name[: -len(outgoing)]
            if block := _block([modules.get(prefix + layer) for layer in incoming], modules[name]):
                return block
    return None


def _block(layers: list[nn.Module | None], reader: nn.Module | None) -> Block | None:
    """The block of these layers; None if one is not there, is no linear layer or does not fit to the others."""
    if any(_output_axis(layer) is None for layer in (*layers, reader)):
        return None
    outgoing = NeuronWeights(reader.weight, 1 - _output_axis(reader))
    neurons = reader.weight.shape[outgoing.axis]
    incoming = []
    for layer in layers:
        copies, rest = divmod(layer.weight.shape[_output_axis(layer)], neurons)
        if rest or not 1 <= copies <= GATE_AND_VALUE // len(layers):
            return None
        incoming.append(NeuronWeights(layer.weight, _output_axis(layer), copies))
        if layer.bias is not None:
            incoming.append(NeuronWeights(layer.bias, 0, copies))
    return Block(tuple(incoming), outgoing, reader)


def _output_axis(layer: nn.Module | None) -> int | None:
    """The axis of the layer's weight that runs over its outputs: 0, or 1 in GPT-2's Conv1D; None if it is no linear layer."""
    from transformers.pytorch_utils import Conv1D

    return 0 if isinstance(layer, nn.Linear) else 1 if isinstance(layer, Conv1D) else None


def linear_layers(model: nn.Module) -> list[nn.Module]:
    """The linear layers of a classifier's encoder."""
    return [module for module in model.base_model.modules() if _output_axis(module) is not None]


def mean_activations(model: nn.Module, rows: Encoded, device: torch.device) -> list[Tensor]:
    """Per feed-forward block, (neurons,) float32: the mean absolute activation over the rows' pieces, without padding.

    The mean is also over the layers that share a block. Raises NoBlocks if the model has no such block, or one whose
    activations are not one row per piece.
    """
    blocks = feed_forward_blocks(model)
    inputs, _ = rows.batch(torch.arange(len(rows)), device)
    real = inputs["attention_mask"].unsqueeze(-1)
    views = _views_of_activations(model, blocks, rows, device)
    sums = [torch.zeros(block.neurons, device=device) for block in blocks]
    uses = [0] * len(blocks)

    def add(i: int, activation: Tensor) -> None:
        sums[i].add_((views[i](activation, *real.shape[:2]).abs().float() * real).sum(dim=(0, 1)))
        uses[i] += 1

    _watch(model, blocks, inputs, add)
    return [total / (real.sum() * count) for total, count in zip(sums, uses, strict=True)]


def _watch(model: nn.Module, blocks: list[Block], inputs: dict[str, Tensor], see: Callable[[int, Tensor], None]) -> None:
    """Run the model and call `see` with each block's number and its activations, as often as the block is used."""

    def hook(i: int, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        see(i, arguments[0])  # and returns nothing: what a hook returns replaces the activations

    handles = [block.reader.register_forward_pre_hook(partial(hook, i)) for i, block in enumerate(blocks)]
    try:
        with torch.inference_mode():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()


# From activations as the model lays them out, the number of rows and of pieces, to (rows, pieces, neurons).
View = Callable[[Tensor, int, int], Tensor]


def _views_of_activations(model: nn.Module, blocks: list[Block], rows: Encoded, device: torch.device) -> list[View]:
    """For every block, how to view its activations. Seen on one text, which leaves no doubt which axis is which."""
    inputs, _ = rows.batch(rows.lengths.argmax()[None], device)
    pieces = inputs["input_ids"].shape[1]
    views: dict[int, View] = {}

    def see(i: int, activation: Tensor) -> None:
        shape = tuple(activation.shape[:-1])
        if shape == (1, pieces):
            views[i] = lambda activation, rows, pieces: activation
        elif shape == (pieces, 1):
            views[i] = lambda activation, rows, pieces: activation.transpose(0, 1)
        elif shape == (pieces,):
            views[i] = lambda activation, rows, pieces: activation.view(rows, pieces, -1)
        else:
            raise NoBlocks(f"{type(model).__name__} has feed-forward activations of shape {shape} for {pieces} pieces")

    _watch(model, blocks, inputs, see)
    return [views[i] for i in range(len(blocks))]


def most_active(activation: Tensor, ratio: float) -> Tensor:
    """(neurons,) bool: True at the round(ratio * neurons) largest of `activation` (neurons,); of equal ones the later wins."""
    least_active = activation.argsort(stable=True)[: len(activation) - round(ratio * len(activation))]
    return torch.ones_like(activation, dtype=torch.bool).index_fill(0, least_active, False)


def why_unfit(model: nn.Module) -> str | None:
    """Why the neurons of `model` cannot be ranked; None where they can."""
    try:
        feed_forward_blocks(model)
    except NoBlocks as error:
        return str(error)
    return None
