"""Labelled rows of text, the one container that tasks, attacks, defenses and the engine exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class TextSet:
    """n labelled rows, each of one text or of a pair of texts.

    `first` holds n texts; `second` holds n texts for a sentence-pair task and is None otherwise; `labels` is (n,) int64
    with values from 0 to classes - 1 and is made read-only. There is no place here for poison flags, trigger or target,
    so whoever is handed a `TextSet` cannot see them.

    Raises ValueError if the lengths differ.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        labels = np.array(self.labels, dtype=np.int64)  # a copy: the caller's array stays writable
        labels.setflags(write=False)
        object.__setattr__(self, "first", tuple(self.first))
        object.__setattr__(self, "second", None if self.second is None else tuple(self.second))
        object.__setattr__(self, "labels", labels)
        if labels.shape != (len(self.first),):
            raise ValueError(f"{len(self.first)} texts but labels of shape {labels.shape}")
        if self.second is not None and len(self.second) != len(self.first):
            raise ValueError(f"{len(self.first)} first texts but {len(self.second)} second texts")

    def __len__(self) -> int:
        return len(self.first)

    @property
    def carrier(self) -> tuple[str, ...]:
        """The n texts a trigger goes into: the second of a pair, else the only one."""
        return self.first if self.second is None else self.second

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The texts of each of the n rows: one, or a pair."""
        return list(zip(self.first, strict=True) if self.second is None else zip(self.first, self.second, strict=True))

    def with_carrier(self, texts: Sequence[str]) -> TextSet:
        """The same rows with other carrier texts, in the same order."""
        return replace(self, first=texts) if self.second is None else replace(self, second=texts)

    def with_labels(self, labels: npt.ArrayLike) -> TextSet:
        """The same texts with other labels, (n,)."""
        return replace(self, labels=labels)

    def without_labels(self) -> TextSet:
        """The same texts, every label 0: for those who are not told the labels."""
        return self.with_labels(np.zeros(len(self), dtype=np.int64))

    def take(self, rows: Iterable[int] | npt.NDArray[np.int64]) -> TextSet:
        """The rows at these positions, in this order."""
        rows = np.asarray(list(rows), dtype=np.int64)
        second = None if self.second is None else tuple(self.second[i] for i in rows)
        return TextSet(tuple(self.first[i] for i in rows), second, self.labels[rows])

    def digest(self) -> str:
        """SHA-256, in hex, of texts and labels in order."""
        digest = hashlib.sha256()
        for column in (self.first, self.second or ()):
            for text in column:
                raw = text.encode()
                digest.update(len(raw).to_bytes(8, "little"))
                digest.update(raw)
            digest.update(b"|")
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def join_rows(sets: Sequence[TextSet]) -> TextSet:
    """The rows of all sets, one after another."""
    second = None if sets[0].second is None else tuple(text for rows in sets for text in rows.second or ())
    return TextSet(tuple(text for rows in sets for text in rows.first), second, np.concatenate([rows.labels for rows in sets]))


def exchanged(rows: TextSet, places: npt.NDArray[np.int64], others: TextSet) -> TextSet:
    """The n rows, but at the `places`, (k,), those of `others`, k rows, in this order: texts and labels."""
    order = np.arange(len(rows))
    order[places] = len(rows) + np.arange(len(others))
    return join_rows([rows, others]).take(order)
