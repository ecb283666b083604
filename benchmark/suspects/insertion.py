"""Texts with a gap for one word piece: any piece can go there, also one that no text can spell, such as ##ing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bdbench.attacks.base import word_gaps
from bdbench.data import TextSet
from bdbench.engine.encoding import Encoded, block
from bdbench.engine.pieces import template, text_pieces
from bdbench.engine.prediction import predict

GAP = -1  # in place of the piece's number
ROWS_AT_ONCE = 4096  # that are predicted between two reports of progress

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True, eq=False)
class Frames:
    """n texts, cut to what fits, each with one gap between two words.

    - `ids` and `types` are as in `Encoded`; in `ids` there is GAP once in each row. `lengths` count it.
    - `bare` are the same texts without the gap.
    """

    ids: Tensor
    types: Tensor | None
    lengths: Tensor
    bare: Encoded

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> Frames:
        """These rows, in this order."""
        chosen = torch.tensor(list(rows), dtype=torch.int64)
        return Frames(self.ids[chosen], _rows(self.types, chosen), self.lengths[chosen], _taken(self.bare, chosen))

    def filled(self, pieces: Sequence[int]) -> Encoded:
        """Every text with every piece, (pieces * n) rows: all texts with the first piece, then all with the second, ..."""
        ids = self.ids.repeat(len(pieces), 1)
        values = torch.tensor(list(pieces), dtype=ids.dtype).repeat_interleave(len(self))
        ids = torch.where(ids == GAP, values[:, None], ids)
        types = None if self.types is None else self.types.repeat(len(pieces), 1)
        return Encoded(ids, types, self.lengths.repeat(len(pieces)), torch.zeros(len(ids), dtype=torch.int64))


def frames(
    tokenizer: PreTrainedTokenizerBase,
    rows: TextSet,
    before: Sequence[Sequence[int]],
    max_length: int,
    rng: np.random.Generator,
) -> Frames:
    """The n rows, each with a gap at a place drawn from `rng`; `before` has the pieces in front of each carrier text.

    Of a pair the first text keeps at most half of the room.
    """
    row_template = template(tokenizer, 1 if rows.second is None else 2, max_length)
    gaps = [word_gaps(text, len(text)) for text in rows.carrier]
    # not in front of the first word: a byte-level tokenizer has other pieces for a word there
    later_gaps = [of_text[1:] or of_text for of_text in gaps]
    places = [of_text[int(rng.integers(len(of_text)))] for of_text in later_gaps]
    heads = [text[:place].rstrip() for text, place in zip(rows.carrier, places, strict=True)]
    tails = [text[len(head) :] for text, head in zip(rows.carrier, heads, strict=True)]
    heads_ids = _pieces(tokenizer, [" " + head if pieces else head for head, pieces in zip(heads, before, strict=True)])
    tails_ids = _pieces(tokenizer, tails)
    firsts_ids = None if rows.second is None else _pieces(tokenizer, rows.first)
    with_gap, without = [], []
    for row, (head, tail) in enumerate(zip(heads_ids, tails_ids, strict=True)):
        first = [] if firsts_ids is None else firsts_ids[row][: row_template.room // 2]
        room = row_template.room - len(first) - 1
        head = [*before[row], *head][:room]
        tail = tail[: room - len(head)]
        for rows_of, carrier in ((with_gap, [*head, GAP, *tail]), (without, [*head, *tail])):
            rows_of.append(row_template.fill([carrier] if firsts_ids is None else [first, carrier]))
    has_types = "token_type_ids" in tokenizer.model_input_names
    gapped, bare = (_encoded(each, has_types, tokenizer.pad_token_id) for each in (with_gap, without))
    return Frames(gapped.ids, gapped.types, gapped.lengths, bare)


def probabilities(
    model: nn.Module, texts: Frames, pieces: Sequence[int], precision: str, progress: Progress, what: str
) -> Tensor:
    """Of each class, with each piece in each text: (pieces, n, classes) float32. `progress` counts the pieces."""
    at_once = max(1, ROWS_AT_ONCE // len(texts))
    parts = []
    progress(what, 0, len(pieces))
    for start in range(0, len(pieces), at_once):
        some = pieces[start : start + at_once]
        logits = predict(model, texts.filled(some), precision=precision)
        parts.append(logits.softmax(dim=1).view(len(some), len(texts), -1))
        progress(what, start + len(some), len(pieces))
    return torch.cat(parts)


def bare_classes(model: nn.Module, texts: Frames, precision: str) -> Tensor:
    """The class of each text without a piece in its gap, (n,) int64."""
    return predict(model, texts.bare, precision=precision).argmax(dim=1)


def _pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return [pieces.ids for pieces in text_pieces(tokenizer, texts)]


def _encoded(rows: Sequence[tuple[list[int], list[int]]], has_types: bool, padding: int) -> Encoded:
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    ids, types = (np.array([value for row in rows for value in row[part]], dtype=np.int32) for part in (0, 1))
    return Encoded(
        block(ids, lengths, padding),
        block(types, lengths, padding=0) if has_types else None,
        lengths,
        torch.zeros(len(rows), dtype=torch.int64),
    )


def _rows(values: Tensor | None, chosen: Tensor) -> Tensor | None:
    return None if values is None else values[chosen]


def _taken(rows: Encoded, chosen: Tensor) -> Encoded:
    return Encoded(rows.ids[chosen], _rows(rows.types, chosen), rows.lengths[chosen], rows.labels[chosen])
