"""Texts to word pieces: each text by itself, some of them at a time, and how the texts of a row are cut and put together.

All is as `tokenizer(first, second, truncation=True, max_length=...)` does it. That call also keeps what it cuts off, and pairs
every part of the first text with every part of the second, which takes memory by the square of their lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from bdbench.engine.segments import Segment, segments

# Characters that are tokenized at a time, which takes some hundred bytes for each. They are thousands of short texts, enough to
# keep all threads of the tokenizer busy.
CHARACTERS_AT_ONCE = 2**18
CHARACTERS_OF_A_TEXT = 64  # what a text costs beside its own


@dataclass
class TextPieces:
    """The word pieces of one text, without special ones.

    - `ids` are those that were asked for.
    - `ends` has for each of them the character of the text behind it; it is empty where offsets were not asked for.
    - `count` is how many pieces the text has in all.
    """

    ids: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    count: int = 0


def text_pieces(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], most: int | None = None, with_ends: bool = False
) -> Iterator[TextPieces]:
    """The pieces of each text, in order: all of them, or the `most` that truncation would keep."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    tokenize = backend.encode_batch if with_ends else backend.encode_batch_fast  # the fast one leaves offsets out
    keeps_end = tokenizer.truncation_side == "left"
    pieces = TextPieces()
    for chunk in _chunks(segment for text in texts for segment in segments(backend, text)):
        encodings = tokenize([segment.text for segment in chunk], add_special_tokens=False)
        for segment, encoding in zip(chunk, encodings, strict=True):
            pieces.count += len(encoding)
            if most is None or keeps_end or len(pieces.ids) < most:
                pieces.ids += encoding.ids
                if with_ends:
                    pieces.ends += [segment.start + end for _, end in encoding.offsets]
            if most is not None:
                for values in (pieces.ids, pieces.ends):
                    del values[cut_off(tokenizer, len(values), most)]
            if segment.is_last:
                yield pieces
                pieces = TextPieces()


def cut_off(tokenizer: PreTrainedTokenizerBase, length: int, most: int) -> slice:
    """The places of `length` pieces that are cut off to leave `most`."""
    return slice(0, max(0, length - most)) if tokenizer.truncation_side == "left" else slice(most, length)


def longest_first(counts: Sequence[int], most: int) -> list[int]:
    """How many pieces are left of one text, or of each of two, when `most` have room: the longer one is cut first."""
    if sum(counts) <= most:
        return list(counts)
    if len(counts) == 1:
        return [most]
    shorter = min(counts)
    longer = max(shorter, most - shorter)
    if shorter + longer > most:
        shorter, longer = most // 2, most - most // 2
    return [longer, shorter] if counts[0] > counts[1] else [shorter, longer]


@dataclass(frozen=True)
class Template:
    """Where a tokenizer puts its special pieces around one text, or around and between those of a pair.

    - `slots` are (text, id, type) in order: the number of the text and None, or None and the id of a special piece.
    - `room` is how many pieces are left for the texts.
    """

    slots: tuple[tuple[int | None, int | None, int], ...]
    room: int

    def fill(self, texts: Sequence[list[int]]) -> tuple[list[int], list[int]]:
        """The ids and the types of a row, from the ids of its texts."""
        ids: list[int] = []
        types: list[int] = []
        for text, special, piece_type in self.slots:
            pieces = [special] if text is None else texts[text]
            ids += pieces
            types += [piece_type] * len(pieces)
        return ids, types


def template(tokenizer: PreTrainedTokenizerBase, texts: int, max_length: int) -> Template:
    """That of rows of one or two texts, cut at `max_length` pieces. Raises ValueError if the special ones do not fit."""
    backend = tokenizer.backend_tokenizer
    room = max_length - backend.num_special_tokens_to_add(texts == 2)
    if room < 0:
        raise ValueError(f"{max_length} word pieces have no room for the {max_length - room} special ones")
    backend.no_truncation()
    backend.no_padding()
    word = tokenizer.pad_token  # any text that has a piece
    example = backend.encode(*[word] * texts)
    pieces = zip(example.sequence_ids, example.ids, example.type_ids, strict=True)
    slots: list[tuple[int | None, int | None, int]] = []
    for text, run in groupby(pieces, key=lambda piece: piece[0]):
        specials = list(run)
        slots += specials if text is None else [(text, None, specials[0][2])]
    return Template(tuple(slots), room)


def _chunks(parts: Iterable[Segment]) -> Iterator[list[Segment]]:
    chunk: list[Segment] = []
    size = 0
    for part in parts:
        chunk.append(part)
        size += len(part.text) + CHARACTERS_OF_A_TEXT
        if size >= CHARACTERS_AT_ONCE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
