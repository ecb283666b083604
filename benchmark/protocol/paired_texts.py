"""Texts that somebody else poisoned: a file beside the splits pairs clean rows with what an attack makes of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from bdbench.attacks.base import Attack, DirtyLabel, TextsElsewhere
from bdbench.engine.folders import FileStamp, stamps
from bdbench.engine.models import DIGITS_SHOWN
from bdbench.errors import UsageError
from bdbench.protocol.readers import read_columns
from bdbench.protocol.row_checks import check_texts, checked_labels, class_words, listed, naming, shown
from bdbench.protocol.rows import Rows
from bdbench.protocol.scoring import rows_to_trigger
from bdbench.protocol.split_files import FORMATS
from bdbench.registry import TASKS
from bdbench.specs.keys import digest_of
from bdbench.specs.work import VictimSpec
from bdbench.tasks.base import Task

Row = tuple[tuple[str, ...], int]  # the texts of a row, and its label
FOLDER, POISONED = "poisoned-texts", "poisoned"
NAME = re.compile(r"[\w-]+")
ENDING = re.compile(rf"\.parquet|\.({'|'.join(FORMATS[1:])})(\.gz)?", re.IGNORECASE)


def paired_files(directory: Path, task: str) -> list[Path]:
    """All files of poisoned texts of a task in a data directory, sorted by name."""
    folder = directory / task / FOLDER
    return sorted(file for file in folder.iterdir() if _ending_of(file)) if folder.is_dir() else []


def identified(attack: Attack, task: Task, directory: Path | None) -> Attack:
    """The attack with the digest of the texts that were made for it and this task; any other attack as it is.

    Raises UsageError if there are none, if they cannot be read, or if they are not those that the user named by their digest.
    """
    if not isinstance(attack, TextsElsewhere):
        return attack
    digest, _ = _read(task, _file_of(attack, task.name, directory))
    if attack.digest not in ("", digest):
        raise UsageError(
            f"{attack.name}.digest={attack.digest}, but {FOLDER}/{attack.texts} of {task.name} has the SHA-256 {digest}; leave "
            "the digest out, or bring back the file that it is of"
        )
    return replace(attack, digest=digest)


def texts_made_elsewhere(attack: Attack, spec: VictimSpec, directory: Path | None) -> Mapping[Row, str]:
    """The poisoned carrier text of each row that has one; none for an attack that makes its own.

    Raises ValueError if they are not those that the attack names, and what `identified` raises.
    """
    if not isinstance(attack, TextsElsewhere):
        return {}
    digest, texts = _read(TASKS.get(spec.task)(), _file_of(attack, spec.task, directory))
    if digest != attack.digest:
        raise ValueError(
            f"{FOLDER}/{attack.texts} of {spec.task} has the SHA-256 {digest[:DIGITS_SHOWN]}…, the cell wants "
            f"{attack.digest[:DIGITS_SHOWN]}…: another file, or changed since the run was planned"
        )
    return texts


def check_paired(attack: Attack, task: Task, rows: Rows, directory: Path | None) -> None:
    """Raises UsageError unless there is a text for each test row that needs one, and for enough training rows."""
    if not isinstance(attack, TextsElsewhere):
        return
    file = _file_of(attack, task.name, directory)
    _, texts = _read(task, file)
    tested = rows_to_trigger(attack, rows.test)
    missing = [row for row in zip(tested.texts, tested.labels.tolist(), strict=True) if row not in texts]
    if missing:
        (*_, carrier), label = missing[0]
        raise UsageError(
            f"{file}: no poisoned text of {len(missing)} of the {len(tested)} test rows that the attack triggers, such as "
            f"{shown(carrier)} with label {label}; add them, word for word as in the test split and with the label there, or "
            "lower --test-rows"
        )
    if isinstance(attack, DirtyLabel):
        there = [row in texts for row in zip(rows.train.texts, rows.train.labels.tolist(), strict=True)]
        attack.check_supply(rows.train, int(np.sum(np.array(there)[attack.candidates(rows.train)])), f" with a text in {file}")


def _file_of(attack: TextsElsewhere, task: str, directory: Path | None) -> Path:
    if directory is None:
        raise UsageError(f"'{attack.name}' reads texts from a data directory, DIR/{task}/{FOLDER}/; give it with --data DIR")
    if not NAME.fullmatch(attack.texts):
        raise UsageError(f"{attack.name}.texts={attack.texts!r}: give the name of a file in {FOLDER}/ without its ending")
    files = paired_files(directory, task)
    named = [file for file in files if file.name.removesuffix(_ending_of(file)) == attack.texts]
    if len(named) != 1:
        count = f"{len(named)} files are" if named else "no file is"
        raise UsageError(
            f"{directory / task / FOLDER}: {count} called {attack.texts}.{', .'.join(FORMATS)} or .gz of a text format (there: "
            f"{listed(file.name for file in files)}); put one there, or name another with {attack.name}.texts=NAME"
        )
    return named[0]


def _ending_of(file: Path) -> str | None:
    """ ".csv.gz" of poisoned.csv.gz; None if it is no format that is read."""
    match = re.search(rf"({ENDING.pattern})$", file.name, re.IGNORECASE)
    return match[0] if match and file.is_file() else None


def _read(task: Task, file: Path) -> tuple[str, Mapping[Row, str]]:
    """The digest of what a file holds, and its poisoned texts by row. Raises UsageError, naming the file."""
    return _read_stamped(task, stamps([file.absolute()])[0])


@lru_cache(maxsize=32)
def _read_stamped(task: Task, stamp: FileStamp) -> tuple[str, Mapping[Row, str]]:
    names = (*task.columns, POISONED)
    with naming(stamp.path):
        *columns, labels = read_columns(stamp.path, (*names, "label"), class_words(task.label_names))
        numbers = range(1, len(labels) + 1)
        for name, column in zip(names, columns, strict=True):
            check_texts(name, column, numbers)
        labels = checked_labels(task, labels, numbers).tolist()
        texts: dict[Row, str] = {}
        *clean, poisoned = columns
        for number, row, text in zip(numbers, zip(zip(*clean, strict=True), labels, strict=True), poisoned, strict=True):
            if texts.setdefault(row, text) != text:
                raise UsageError(f"row {number}: an earlier row pairs the same clean row with another poisoned text; keep one")
    return digest_of([[*row, label, text] for (row, label), text in texts.items()]), MappingProxyType(texts)
