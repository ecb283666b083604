"""Reading a task's splits from one of three sources, named explicitly: the hub, a directory, or builtin text."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from bdbench.data import TextSet
from bdbench.engine.folders import FileStamp, stamps
from bdbench.errors import UsageError, first_line
from bdbench.protocol.readers import read_columns
from bdbench.protocol.row_checks import (
    check_classes,
    check_columns,
    check_texts,
    checked_labels,
    class_words,
    naming,
)
from bdbench.protocol.split_files import SPLITS, files_of_split
from bdbench.seeds import derive
from bdbench.tasks.base import Splits, Task

SOURCES = ("hub", "directory", "builtin")
BUILTIN_ROWS = {"train": 3000, "validation": 500, "test": 500}
# the hub's rows and the builtin text are part of what a task is, so they hang on no seed of a run
FIXED_SEED = 0


def load(task: Task, source: str, directory: str | Path | None = None) -> Splits:
    """The splits of `task`, read once per process and source (a directory again when one of its files changes).

    - "directory": the files `<directory>/<task>/{train,validation,test}` (see `split_files`), in the files' order.
    - "hub": the Hugging Face data set at its pinned commit. `validation` is min(2000, 10 % of train) rows held out of
      train by a fixed seed; every split comes in a fixed random order, because some are sorted by label on the hub.
      Rows with a blank text are left out.
    - "builtin": generated text, 3000 / 500 / 500 rows, balanced; no row occurs twice. For trying the tool only.

    Nothing falls back to another source. Raises UsageError for an unknown source, data that is missing or does not have
    the task's shape, or a hub that cannot be reached.
    """
    if source not in SOURCES:
        raise UsageError(f"data source '{source}' is not one of {', '.join(SOURCES)}")
    if source != "directory" and directory is not None:
        raise UsageError(f"a directory ({directory}) was given with the data source '{source}', which reads none")
    if source == "hub":
        return _from_hub(task)
    if source == "builtin":
        return _builtin(task)
    if directory is None:
        raise UsageError("the data source 'directory' needs a directory: --data DIR")
    return _from_directory(task, Path(directory))


@lru_cache(maxsize=32)
def _builtin(task: Task) -> Splits:
    rng = np.random.default_rng(derive(FIXED_SEED, "builtin", task.name))
    total, classes = sum(BUILTIN_ROWS.values()), len(task.label_names)
    data = _generated(task, total, rng)
    by_class = [np.flatnonzero(data.labels == label) for label in range(classes)]
    distinct = len(set(zip(data.first, data.second or data.first, strict=True)))
    if distinct < total or min(map(len, by_class)) < total // classes:
        raise ValueError(
            f"{task.name}.generate({total}) made {distinct} distinct rows, by label "
            f"{[len(rows) for rows in by_class]}; it must make {total} in equal parts"
        )
    splits, start = [], 0
    for rows in BUILTIN_ROWS.values():
        share = rows // classes
        rows_of_split = np.concatenate([positions[start : start + share] for positions in by_class])
        splits.append(data.take(np.sort(rows_of_split)))  # sorted by position, not by label
        start += share
    return Splits(*splits, label_names=task.label_names, source="builtin")


def _generated(task: Task, rows: int, rng: np.random.Generator) -> TextSet:
    if type(task).__module__.startswith("bdbench."):
        return task.generate(rows, rng)
    from bdbench.fence import fenced  # imports torch, which bdbench's own tasks do without

    with fenced(f"'{task.name}'", FIXED_SEED):
        return task.generate(rows, rng)


def _from_directory(task: Task, directory: Path) -> Splits:
    try:
        files = [[file.absolute() for file in files_of_split(directory, task.name, split)] for split in SPLITS]
        return _from_files(task, tuple(tuple(stamps([file])[0] for file in shards) for shards in files))
    except OSError as error:
        raise UsageError(f"--data {directory}: cannot be read ({error.strerror}: {error.filename})") from error
    except UsageError as error:  # names of files and columns may have line ends in them
        raise UsageError("".join(char if char.isprintable() else "?" for char in str(error))) from error


@lru_cache(maxsize=32)
def _from_files(task: Task, splits: tuple[tuple[FileStamp, ...], ...]) -> Splits:
    """The stamps of the files of each split, in order, key the cache."""
    return Splits(
        *(read_rows(task, [stamp.path for stamp in files]) for files in splits),
        label_names=task.label_names,
        source="directory",
    )


def read_rows(task: Task, files: list[Path]) -> TextSet:
    """The rows of a split's files, in order, checked. Raises UsageError, naming the file."""
    texts: list[list[str]] = [[] for _ in task.columns]
    labels = []
    for file in files:
        with naming(file):
            *columns, of_rows = read_columns(file, (*task.columns, "label"), class_words(task.label_names))
            rows = range(1, len(of_rows) + 1)
            for name, column, read_so_far in zip(task.columns, columns, texts, strict=True):
                check_texts(name, column, rows)
                read_so_far.extend(column)
            labels.append(checked_labels(task, of_rows, rows))
    all_labels = np.concatenate(labels)
    with naming(files[0] if len(files) == 1 else f"{files[0]} and the other shards"):
        check_classes(task, all_labels)
    return TextSet(texts[0], texts[1] if len(texts) == 2 else None, all_labels)


@lru_cache(maxsize=32)
def _from_hub(task: Task) -> Splits:
    if task.hub is None:
        raise UsageError(f"the task '{task.name}' is not on the hub; use --data DIR or --data builtin")
    train = _hub_rows(task, task.hub.train, task.hub.max_train)
    held_out = min(2000, len(train) // 10)
    return Splits(
        train=train.take(range(held_out, len(train))),
        validation=train.take(range(held_out)),
        test=_hub_rows(task, task.hub.test, task.hub.max_test),
        label_names=task.label_names,
        source="hub",
        revision=task.hub.revision,
    )


def _hub_rows(task: Task, split: str, most: int | None) -> TextSet:
    """One split of the hub in a fixed random order, cut to `most` rows."""
    import datasets  # takes a second, and only this source needs it

    hub = task.hub
    try:
        data = datasets.load_dataset(hub.id, hub.config, split=split, revision=hub.revision)
    except Exception as error:  # the client wraps what went wrong in a dozen types of four libraries
        raise UsageError(
            f"the data set {hub.id} of the task '{task.name}' could not be read: the Hugging Face hub could not "
            f"be reached, or refused ({first_line(error)}); --data DIR or --data builtin avoids it"
        ) from error
    parts = {name: hub.columns.get(name, (name,)) for name in task.columns}
    order = np.random.default_rng(derive(FIXED_SEED, "hub", task.name, split)).permutation(len(data))[:most]
    in_file = np.sort(order)
    with naming(f"the split '{split}' of the data set {hub.id}"):
        check_columns(data.column_names, (*(part for name in task.columns for part in parts[name]), "label"))
        # read in the order of the file, which is far faster than by random access, and reorder afterwards
        rows = data.select(in_file)[:]
        for part in (part for name in task.columns for part in parts[name]):
            check_texts(part, rows[part], in_file + 1, blank=True)
        labels = checked_labels(task, rows["label"], in_file + 1)
        columns = [_joined([rows[part] for part in parts[name]]) for name in task.columns]
        back = np.argsort(np.argsort(order))
        keep = [i for i in back if all(column[i].strip() for column in columns)]
        check_classes(task, labels[keep])
    texts = [tuple(column[i] for i in keep) for column in columns]
    return TextSet(texts[0], texts[1] if len(texts) == 2 else None, labels[keep])


def _joined(columns: list[list[str]]) -> list[str]:
    return [": ".join(parts) for parts in zip(*columns, strict=True)]
