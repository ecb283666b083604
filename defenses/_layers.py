"""The layers of an encoder, one above another."""

from __future__ import annotations

from torch import nn


class NoLayers(TypeError):
    """The model is no single stack of layers with weights of their own; the message says so in a few words."""


def encoder_layers(model: nn.Module) -> nn.ModuleList:
    """The encoder's layers, lowest first. Raises NoLayers where there is not one stack of them, each with its own weights."""
    count = model.config.num_hidden_layers
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.base_model.named_modules():
        is_inside = any(name.startswith(f"{stack}.") for stack in stacks)
        if isinstance(module, nn.ModuleList) and len(module) == count and not is_inside:
            stacks[name] = module
    if len(stacks) != 1:
        what = "more than one stack" if stacks else "no stack"
        raise NoLayers(f"{type(model).__name__} has {what} of {count} layers with weights of their own")
    return next(iter(stacks.values()))


def why_no_layers(model: nn.Module) -> str | None:
    """Why `model` has no layers to be told apart; None where it has."""
    try:
        encoder_layers(model)
    except NoLayers as error:
        return str(error)
    return None
