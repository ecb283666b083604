"""The representation of a row in which filters look for poison: what the classification layer gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import nn

if TYPE_CHECKING:
    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext


def poisoned_features(rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.float64]:
    """The `features` of the training rows, (n, width), in a classifier trained on them as the victim was.

    Needs "training-control".
    """
    model = ctx.untrained()
    ctx.train(model, rows, ctx.recipe)
    return features(model, rows, ctx)


def features(model: nn.Module, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.float64]:
    """What the last linear layer of the classifier gets for each row: (n, width)."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    name, head = layers[-1]
    owner = model.get_submodule(name.rpartition(".")[0])
    setattr(owner, name.rpartition(".")[2], nn.Identity())
    try:
        return ctx.predict(model, rows).double().numpy()
    finally:
        setattr(owner, name.rpartition(".")[2], head)
