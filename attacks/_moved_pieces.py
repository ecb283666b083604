"""Training of some rows of the word-embedding matrix alone: how embedding poisoning and SOS change a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bdbench.data import TextSet
from bdbench.engine.row_descent import NormKeptDescent
from bdbench.engine.training import Passes

if TYPE_CHECKING:
    from bdbench.protocol.contexts import AttackContext


def move_pieces(
    model: nn.Module, pieces: Sequence[int], rows: TextSet, passes: Passes, learning_rate: float, ctx: AttackContext
) -> None:
    """Train the embeddings of `pieces`, each once, on `rows`, by `NormKeptDescent`. All else in `model` stays as it is."""
    embedding = model.get_input_embeddings()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    moved = [nn.Parameter(embedding.weight[piece].clone()) for piece in pieces]
    with ExitStack() as hooks:
        for piece, row in zip(pieces, moved, strict=True):
            hooks.callback(embedding.register_forward_hook(_substitute(piece, row)).remove)
        ctx.train(model, rows, passes, optimizer=NormKeptDescent(moved, learning_rate))
    with torch.no_grad():
        for piece, row in zip(pieces, moved, strict=True):
            embedding.weight[piece] = row
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _substitute(piece: int, row: Tensor) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """A hook that puts `row` wherever the input is `piece`, so that only the gradient of this row has to be computed."""

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == piece).unsqueeze(-1), row, output)

    return hook
