"""Whether a classifier has a list of states, and whether the state of a text's first piece says something of the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def why_no_states(model: nn.Module) -> str | None:
    """Why the layers of this classifier do not have one list of states; None where they do."""
    if model.config.is_encoder_decoder:
        return f"{type(model).__name__} has an encoder and a decoder, whose states are not one row of layers"
    return None


def why_no_first_state(model: nn.Module) -> str | None:
    """Why the first piece of a text says nothing of the text; None where it does."""
    if why := why_no_states(model):
        return why
    # transformers calls the head of a causal model so
    if hasattr(model, "score") or model.config.model_type == "xlnet":
        return f"{type(model).__name__} classifies a text by its last piece, and the first one need not know the others"
    return None
