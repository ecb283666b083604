"""What every row of a task must be, wherever it was read, and the words in which a bad one is refused.

Rows count from 1, without a header. The functions raise UsageError that does not name the source; `naming` puts it in front.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from bdbench.errors import UsageError
from bdbench.portable import is_encodable
from bdbench.tasks.base import Task

MOST_LISTED = 5
MOST_CHARACTERS = 60


class MissingColumns(UsageError):
    """A table that lacks a column that was asked for."""


@contextmanager
def naming(source: object) -> Iterator[None]:
    """A block whose UsageErrors begin with `source`: a file, or a data set of the hub."""
    try:
        yield
    except UsageError as error:
        raise type(error)(f"{source}: {error}") from error


def check_columns(there: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises UsageError if a column is missing, or if two have one name."""
    if missing := [name for name in wanted if name not in there]:
        raise MissingColumns(f"no column {', '.join(missing)}; it has {listed(there)}, and the task needs {', '.join(wanted)}")
    if len(set(there)) < len(there):
        repeated, _ = Counter(there).most_common(1)[0]
        raise UsageError(f"two columns are named {shown(repeated)}; rename or remove one")


def check_texts(name: str, texts: Iterable[Any], rows: Iterable[int], blank: bool = False) -> None:
    """Raises UsageError for the first of `texts` that is no text, cannot be encoded, or is blank (unless `blank` allows it)."""
    for row, text in zip(rows, texts, strict=True):
        if not isinstance(text, str):
            problem = "missing" if _is_missing(text) else f"{shown(text)}, not text"
            raise UsageError(f"row {row}: {name} is {problem}; correct or remove the row")
        if not blank and not text.strip():
            raise UsageError(f"row {row}: {name} is empty; correct or remove the row")
        if not text.isascii() and not is_encodable(text):
            raise UsageError(f"row {row}: {name} has half a surrogate pair, {shown(text)}; correct or remove the row")


def class_words(label_names: Sequence[str]) -> dict[str, int]:
    """The classes by what stands for them in a text: their numbers, and their names, as in GLUE's QNLI.

    A name that is the number of another class stands for neither (see `twofold`): where classes are called 1 to 5, a file's
    label 1 may be meant either way.
    """
    numbers = {str(label): label for label in range(len(label_names))}
    names = {name: label for label, name in enumerate(label_names)}
    return {word: label for word, label in (names | numbers).items() if names.get(word, label) == label}


def twofold(word: object, label_names: Sequence[str]) -> str | None:
    """The two classes for which a word may stand, by its name and by its number; None if there are not two."""
    if word not in label_names or word in class_words(label_names):
        return None
    return f"the name of class {label_names.index(word)} and the number of class {word}"


def checked_labels(task: Task, labels: Sequence[Any], rows: Sequence[int]) -> npt.NDArray[np.int64]:
    """`labels` as (n,) int64. Raises UsageError unless every one is the number of a class, an integer, or its name.

    An integer is always a number. A text that is a name and another class's number is refused.
    """
    names = {word: label for word, label in class_words(task.label_names).items() if word != str(label)}
    labels = [names.get(label, label) if isinstance(label, str) else label for label in labels]
    # a missing one first: where it turned the whole column to floats, row 1 would be blamed for it
    for row, label in zip(rows, labels, strict=True):
        if _is_missing(label):
            raise UsageError(f"row {row}: label is missing; the labels of {task.name} are {label_names(task)}")
    for row, label in zip(rows, labels, strict=True):
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(task.label_names):
            if both := twofold(label, task.label_names):
                raise UsageError(
                    f"row {row}: label is {shown(label)}, {both} of {task.name}; write labels as integers in .jsonl or "
                    ".parquet, where they are numbers, or give the classes other names"
                )
            hint = "; -1 marks labels that are hidden" if label == -1 else ""
            raise UsageError(
                f"row {row}: label is {shown(label)}; the labels of {task.name} are the integers {label_names(task)}{hint}"
            )
    return np.array(labels, dtype=np.int64)


def check_classes(task: Task, labels: npt.NDArray[np.int64]) -> None:
    """Raises UsageError unless a split has rows, and of two classes at least."""
    if not len(labels):
        raise UsageError("no rows; the split needs at least one of each label")
    if (labels == labels[0]).all():
        only = f"{labels[0]} ({shortened(task.label_names[labels[0]])})"
        raise UsageError(f"every label is {only}; a split needs at least two of {label_names(task)}")


def label_names(task: Task) -> str:
    """ "0 (negative), 1 (positive)"."""
    return listed([f"{label} ({name})" for label, name in enumerate(task.label_names)])


def listed(names: Iterable[str]) -> str:
    """The first names, each shortened, for a message that must stay one short line."""
    names = [shortened(name, 20) for name in names]
    more = [f"and {len(names) - MOST_LISTED} more"] if len(names) > MOST_LISTED else []
    return ", ".join([*names[:MOST_LISTED], *more]) or "none"


def shown(value: object) -> str:
    """A value as Python writes it, shortened."""
    return shortened(reprlib.repr(value))


def shortened(text: object, most: int = MOST_CHARACTERS) -> str:
    text = str(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and value != value)
