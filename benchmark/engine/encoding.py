"""From texts to word pieces: every row is tokenized once, and all rows lie in one block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bdbench.data import TextSet


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
    """Tokenize every row, cut at `max_length` word pieces. Of a pair the longer text is cut first."""
    second = None if rows.second is None else list(rows.second)
    encoding = tokenizer(list(rows.first), second, truncation=True, max_length=max_length, padding=False)
    pieces = encoding["input_ids"]
    lengths = torch.tensor([len(row) for row in pieces])
    types = _block(encoding["token_type_ids"], lengths, padding=0) if "token_type_ids" in encoding else None
    return Encoded(_block(pieces, lengths, tokenizer.pad_token_id), types, lengths, torch.tensor(rows.labels))


def _block(values: list[list[int]], lengths: Tensor, padding: int) -> Tensor:
    """n rows of the given lengths as one tensor, (n, longest) int32, filled up with `padding` on the right."""
    is_real = torch.arange(int(lengths.max())) < lengths[:, None]
    flat = torch.tensor([value for row in values for value in row], dtype=torch.int32)
    return torch.full(is_real.shape, padding, dtype=torch.int32).masked_scatter_(is_real, flat)
