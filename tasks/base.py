"""The contract of a task: a labelled text-classification data set of single sentences or of sentence pairs.

A task says what its columns and labels are, where the Hugging Face hub keeps it, and how to generate builtin text of its shape.
It reads nothing itself: `bdbench.protocol.sources.load` turns a task and a source into `Splits`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from bdbench.data import TextSet
from bdbench.errors import UsageError
from bdbench.params import Hyperparameters
from bdbench.registry import TASKS

register = TASKS.register


@dataclass(frozen=True)
class HubSource:
    """Where the hub keeps a task: the data set's id, its configuration (None for the only one) and a pinned commit.

    `train` and `test` name the hub's splits that become ours; validation is held out of `train`. `columns` maps a column of the
    task to the hub's columns that make it up, joined by ": ". A column that is not in it has the same name on the hub. Of a
    very large split `max_train` (validation included) and `max_test` bound the number of rows; a fixed seed draws them.
    """

    id: str
    config: str | None
    revision: str
    train: str = "train"
    test: str = "test"
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    max_train: int | None = None
    max_test: int | None = None


@dataclass(frozen=True)
class Task(Hyperparameters):
    """Base of every task. A subclass sets the class variables and may define `generate`.

    `columns` names the text column, or the two of a pair task. `label_names` names the classes 0, 1, ... in order. `hub` is
    None for a task that the hub does not have. Construction raises TypeError if columns or labels are not set.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    label_names: ClassVar[tuple[str, ...]] = ()
    hub: ClassVar[HubSource | None] = None
    paper: ClassVar[str]
    version: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.columns) not in (1, 2) or len(self.label_names) < 2:
            raise TypeError(
                f"{type(self).__name__} has columns {self.columns} and label_names {self.label_names}; "
                "a task needs one or two text columns and at least two labels"
            )

    def generate(self, rows: int, rng: np.random.Generator) -> TextSet:
        """`rows` distinct rows of generated text in random order. The class counts differ by at most one.

        The same state of `rng` gives the same rows. Raises UsageError if the task has no builtin data.
        """
        raise UsageError(f"the task '{self.name}' has no builtin data; use --data DIR or --data hub")


@dataclass(frozen=True, eq=False)
class Splits:
    """The three splits of a task, the names of its labels, and where they were read.

    `source` is "hub", "directory" or "builtin"; `revision` is the hub's pinned commit, and None for the other two.
    """

    train: TextSet
    validation: TextSet
    test: TextSet
    label_names: tuple[str, ...]
    source: str
    revision: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the three splits and the label names; the source is not part of it."""
        parts = (self.train.digest(), self.validation.digest(), self.test.digest(), *self.label_names)
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
