"""Which rows go into which batch. A batch is a tensor (b,) int64 of row numbers, in ascending order of the rows' lengths.

All rows of a batch are padded to its longest row, and padding takes as much time as text. So rows of similar length go
together. Lengths are numbers of word pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# An epoch is shuffled, cut into windows of this many batches, and sorted by length inside each window. A wide window wastes
# little padding; a narrow one leaves more to chance.
WINDOW = 64

# The most word pieces in one batch of predictions, padding included. On a CPU they keep the matrix units busy and stay in the
# caches: of 512 to 4096 measured, 1024 is the best or within 4 % of it. A GPU needs far more work at once to be busy.
PIECES_AT_ONCE = {"cpu": 1024, "cuda": 2**16}

# Cutting a training batch in two saves padding and costs one more pass through the model. This many pieces of padding take as
# long as the pass. On a CPU both take 25 ms with the bundled model, and both grow with the model's size, so the number holds
# for other models. On a GPU a pass takes longer than the padding of any batch, so no batch is cut.
PADDING_WORTH_A_PASS = {"cpu": 70, "cuda": 2**16}


def shuffled_batches(lengths: Tensor, epochs: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The batches of all epochs, in the order of training. Each epoch visits each row once.

    `lengths` is (n,) int64. The order comes from `generator` (on the CPU) alone.
    """
    for _ in range(epochs):
        shuffled = torch.randperm(len(lengths), generator=generator)
        batches: list[Tensor] = []
        for window in shuffled.split(WINDOW * batch_size):
            by_length = window[lengths[window].argsort(stable=True)]
            batches += by_length.split(batch_size)
        for i in torch.randperm(len(batches), generator=generator):
            yield batches[i]


def split_by_padding(batch_rows: Tensor, lengths: Tensor, most_padding: float) -> list[Tensor]:
    """Cut a batch in two wherever that saves more than `most_padding` pieces of padding.

    `batch_rows` is in ascending order of `lengths[batch_rows]`; the parts, one after another, are the same rows in the same
    order.
    """
    ascending = lengths[batch_rows]
    # A cut behind row i pads the rows up to i to the length of row i, and no longer to that of the last row.
    saved_padding = torch.arange(1, len(batch_rows)) * (ascending[-1] - ascending[:-1])
    if not len(saved_padding) or saved_padding.max() <= most_padding:
        return [batch_rows]
    cut = int(saved_padding.argmax()) + 1
    shorter, longer = batch_rows[:cut], batch_rows[cut:]
    return split_by_padding(shorter, lengths, most_padding) + split_by_padding(longer, lengths, most_padding)


def split_for_memory(batches: Sequence[Tensor], halvings: int) -> list[Tensor]:
    """Cut every batch into 2**halvings parts of even size, or into single rows where it has fewer."""
    return [part for batch_rows in batches for part in batch_rows.chunk(2**halvings)]


def split_by_length(ascending: Sequence[int], most_pieces: int) -> list[slice]:
    """Cut rows of ascending lengths into runs of at most `most_pieces` word pieces, padding included.

    A row that is longer than that by itself is a run of its own.
    """
    runs, start = [], 0
    for i, length in enumerate(ascending):
        pieces_with_this_row = (i + 1 - start) * length
        if i > start and pieces_with_this_row > most_pieces:
            runs.append(slice(start, i))
            start = i
    return [*runs, slice(start, len(ascending))]
