"""The word-embedding matrix of a classifier: one row per word piece of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from bdbench.engine.encoding import Encoded


def word_embeddings(model: nn.Module) -> tuple[str, nn.Parameter]:
    """The name and the weights, (pieces, width), of the model's word-embedding matrix."""
    matrix = model.get_input_embeddings().weight
    return next(name for name, parameter in model.named_parameters() if parameter is matrix), matrix


@contextmanager
def occurring_pieces(model: nn.Module, rows: Encoded) -> Iterator[Encoded]:
    """Inside the block the model's word-embedding matrix has only the pieces that occur in `rows`.

    Yields the rows with their pieces numbered accordingly. Afterwards the full matrix is back, and what the pieces have learned
    is in it. An optimizer then updates some thousand rows instead of the whole vocabulary.

    This is exact without weight decay: a piece that does not occur has no gradient, so AdamW leaves it as it is.
    """
    full = model.get_input_embeddings()
    kept_pieces = _kept_pieces(rows, full.padding_idx or 0)
    on_device = kept_pieces.to(full.weight.device)
    small_weight = full.weight.detach()[on_device]
    small = nn.Embedding(len(kept_pieces), full.embedding_dim, full.padding_idx, _weight=small_weight)
    model.set_input_embeddings(small)
    try:
        yield replace(rows, ids=torch.searchsorted(kept_pieces, rows.ids).to(rows.ids.dtype))
    finally:
        model.set_input_embeddings(full)
        with torch.no_grad():
            full.weight[on_device] = small.weight


def _kept_pieces(rows: Encoded, padding_piece: int) -> Tensor:
    """The pieces that occur and all up to the padding piece, in ascending order.

    So the padding piece keeps its number, by which RoBERTa counts positions.
    """
    up_to_padding = torch.arange(padding_piece + 1, dtype=rows.ids.dtype)
    return torch.cat([rows.ids.flatten(), up_to_padding]).unique()
