"""From texts to word pieces: every row is tokenized once, and all rows lie in one block."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bdbench.data import TextSet
from bdbench.engine.pieces import TextPieces, cut_off, longest_first, template, text_pieces


@dataclass(frozen=True, eq=False)
class Encoded:
    """n tokenized rows in one block, on the CPU, padded on the right to the longest of all.

    - `ids` is (n, longest) int32: the numbers of the word pieces.
    - `types` is (n, longest) int32: 0 for the first text of a pair, 1 for the second; None for a model without token types.
    - `lengths` is (n,) int64: how many pieces of a row are no padding.
    - `labels` is (n,) int64.
    """

    ids: Tensor
    types: Tensor | None
    lengths: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, batch_rows: Tensor, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        """The model's inputs and the labels of some rows, on `device`.

        `batch_rows` is (b,) int64, the numbers of the rows. The inputs are (b, longest of these rows) int64, the labels
        (b,) int64.
        """
        longest = int(self.lengths[batch_rows].max())
        inputs = {
            "input_ids": self.ids[batch_rows, :longest].long(),
            "attention_mask": (torch.arange(longest) < self.lengths[batch_rows, None]).long(),
        }
        if self.types is not None:
            inputs["token_type_ids"] = self.types[batch_rows, :longest].long()
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
        return inputs, self.labels[batch_rows].to(device, non_blocking=True)


def encode(tokenizer: PreTrainedTokenizerBase, rows: TextSet, max_length: int) -> Encoded:
    """Tokenize every row, cut at `max_length` word pieces. Of a pair the longer text is cut first.

    Raises ValueError if the special pieces alone are more than that.
    """
    row_template = template(tokenizer, 1 if rows.second is None else 2, max_length)
    has_types = "token_type_ids" in tokenizer.model_input_names
    ids, types, row_lengths = array("i"), array("i"), array("q")
    for texts in _cut_rows(tokenizer, rows, row_template.room):
        row_ids, row_types = row_template.fill([text.ids for text in texts])
        row_lengths.append(len(row_ids))
        ids.extend(row_ids)
        if has_types:
            types.extend(row_types)
    lengths = torch.from_numpy(np.asarray(row_lengths))
    return Encoded(
        block(ids, lengths, tokenizer.pad_token_id),
        block(types, lengths, padding=0) if has_types else None,
        lengths,
        torch.tensor(rows.labels),
    )


def kept_ends(tokenizer: PreTrainedTokenizerBase, rows: TextSet, max_length: int) -> list[int]:
    """Per row, the character of the carrier text behind its last piece that is kept where `encode` cuts at `max_length`.

    0 where none is kept.
    """
    room = template(tokenizer, 1 if rows.second is None else 2, max_length).room
    return [texts[-1].ends[-1] if texts[-1].ends else 0 for texts in _cut_rows(tokenizer, rows, room, with_ends=True)]


def _cut_rows(
    tokenizer: PreTrainedTokenizerBase, rows: TextSet, room: int, with_ends: bool = False
) -> Iterator[tuple[TextPieces, ...]]:
    """The pieces of each row's texts that have room together, with the ends of those of its carrier."""
    columns = [rows.first] if rows.second is None else [rows.first, rows.second]
    pieces = [text_pieces(tokenizer, texts, room, with_ends and texts is columns[-1]) for texts in columns]
    for texts in zip(*pieces, strict=True):
        for text, length in zip(texts, longest_first([text.count for text in texts], room), strict=True):
            for values in (text.ids, text.ends):
                del values[cut_off(tokenizer, len(values), length)]
        yield texts


def block(values: array[int], lengths: Tensor, padding: int) -> Tensor:
    """The rows of these lengths, which lie one after another in `values`, as one tensor.

    It is (n, longest) int32, filled up with `padding` on the right.
    """
    is_real = torch.arange(int(lengths.max())) < lengths[:, None]
    flat = torch.from_numpy(np.asarray(values))
    return torch.full(is_real.shape, padding, dtype=torch.int32).masked_scatter_(is_real, flat)
