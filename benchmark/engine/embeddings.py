"""The word-embedding matrix of a classifier: one row per word piece of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdbench.engine.encoding import Encoded

ABSENT = -1  # no row of a matrix: looking it up raises


def word_embeddings(model: nn.Module) -> tuple[str, nn.Parameter]:
    """The name and the weights, (pieces, width), of the model's word-embedding matrix."""
    matrix = model.get_input_embeddings().weight
    return next(name for name, parameter in model.named_parameters() if parameter is matrix), matrix


class OccurringPieces(nn.Embedding):
    """An embedding whose `weight` has rows for some pieces alone. It is asked by the numbers that the pieces have elsewhere.

    So nothing around it need know: not a model that looks for the end of a text or for padding, not a hook.

    `row_of_piece` is (pieces,) int64, ABSENT for a piece without a row; `padding_row` is the row without a gradient, or None.
    """

    row_of_piece: Tensor
    padding_row: int | None

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(self.row_of_piece[input], self.weight, self.padding_row)


@contextmanager
def occurring_pieces(model: nn.Module, rows: Encoded) -> Iterator[None]:
    """Inside the block the model's word-embedding matrix has rows for the pieces of `rows` alone, where that is exact.

    An optimizer made inside the block then updates some thousand rows instead of the whole vocabulary. Afterwards the full
    matrix is back, and what the pieces have learned is in it. The model gets the same ids as ever.

    This is exact without weight decay: a piece that does not occur has no gradient, so AdamW leaves it as it is. A model in
    which the matrix may be used for anything else than to look up these pieces is left alone, and so is a frozen matrix.
    """
    embedding = _restrictable_embedding(model)
    if embedding is None:
        yield
        return
    full = embedding.weight
    pieces = _pieces_looked_up(model, embedding, rows).to(full.device)
    embedding.row_of_piece = torch.full((len(full),), ABSENT, device=full.device)
    embedding.row_of_piece[pieces] = torch.arange(len(pieces), device=full.device)
    padding_piece = embedding.padding_idx
    embedding.padding_row = None if padding_piece is None else int(embedding.row_of_piece[padding_piece])
    embedding.weight = nn.Parameter(full.detach()[pieces])
    embedding.__class__ = OccurringPieces
    try:
        yield
    finally:
        with torch.no_grad():
            full[pieces] = embedding.weight
        embedding.__class__ = nn.Embedding
        embedding.weight = full
        del embedding.row_of_piece, embedding.padding_row


def _pieces_looked_up(model: nn.Module, embedding: nn.Embedding, rows: Encoded) -> Tensor:
    """The numbers that `rows` lead the model to look up, in ascending order: the pieces, padding, and token types.

    Some models add padding to fill a window. One without a matrix of its own for token types may look them up here, as GPT-J.
    """
    looked_up = [rows.ids.flatten()]
    if embedding.padding_idx is not None:
        looked_up.append(torch.tensor([embedding.padding_idx]))
    if rows.types is not None and not hasattr(model.config, "type_vocab_size"):
        looked_up.append(rows.types.flatten())
    return torch.cat([numbers.long() for numbers in looked_up]).unique()


def _restrictable_embedding(model: nn.Module) -> nn.Embedding | None:
    """The model's word embedding, if all it does is to hand out the rows of a trained matrix for the ids of a text; else None.

    That is so if it is PyTorch's own in its plain form, if nothing else shares the matrix, and if the text's ids come to it
    through transformers' own code alone: no module of a caller's own around it, no hook that could exchange ids.
    """
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # no model of transformers; no single matrix, as in Canine
        return None
    path = next((name for name, module in model.named_modules() if module is embedding), None)
    if path is None or not _is_plain(embedding) or not _is_trained_alone(embedding.weight, model):
        return None
    names = path.split(".")
    around = [model.get_submodule(".".join(names[:depth])) for depth in range(len(names))]
    is_known = all(type(module).__module__.startswith("transformers.") and not _is_hooked(module) for module in around)
    return embedding if is_known else None


def _is_plain(embedding: nn.Module) -> bool:
    """Whether a row is handed out as it is, and its gradient is the sum of the gradients of the places where it went."""
    if type(embedding) is not nn.Embedding or _is_hooked(embedding):
        return False
    return embedding.max_norm is None and not embedding.scale_grad_by_freq and not embedding.sparse


def _is_trained_alone(matrix: Tensor, model: nn.Module) -> bool:
    """Whether `matrix` is a trained parameter of `model` without hooks, and no other parameter or buffer is in its memory."""
    if not isinstance(matrix, nn.Parameter) or not matrix.requires_grad:
        return False
    if matrix._backward_hooks or matrix._post_accumulate_grad_hooks:
        return False
    memory = matrix.untyped_storage().data_ptr()
    tensors = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return sum(tensor.untyped_storage().data_ptr() == memory for _, tensor in tensors) == 1


def _is_hooked(module: nn.Module) -> bool:
    """Whether a hook, or a forward of this one module's own, is in the way of what goes through it."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks) or "forward" in vars(module)
