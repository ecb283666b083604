"""Reading a task's splits from one of three sources, named explicitly: the hub, a directory, or builtin text."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from bdbench.data import TextSet
from bdbench.errors import UsageError
from bdbench.seeds import derive
from bdbench.tasks.base import Splits, Task

SOURCES = ("hub", "directory", "builtin")
SPLITS = ("train", "validation", "test")
BUILTIN_ROWS = {"train": 3000, "validation": 500, "test": 500}
SUFFIXES = (".parquet", ".csv", ".jsonl")
# the hub's rows and the builtin text are part of what a task is, so they hang on no seed of a run
FIXED_SEED = 0


def load(task: Task, source: str, directory: str | Path | None = None) -> Splits:
    """The splits of `task`, read once per process and source (a directory again when one of its files changes).

    - "directory": `<directory>/<task>/{train,validation,test}` as .parquet, .csv or .jsonl, in the file's order.
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
    files = [_split_file(task, Path(directory), split) for split in SPLITS]
    stats = [file.stat() for file in files]
    return _from_files(
        task, tuple((file.resolve(), stat.st_mtime_ns, stat.st_size) for file, stat in zip(files, stats, strict=True))
    )


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


def _split_file(task: Task, directory: Path, split: str) -> Path:
    """The one file of a split."""
    layout = f"{task.name}/{{{','.join(SPLITS)}}} with a suffix {', '.join(SUFFIXES)}"
    if not directory.is_dir():
        raise UsageError(f"--data {directory}: no such directory; give one that holds {layout}")
    folder = directory / task.name
    if not folder.is_dir():
        present = ", ".join(sorted(path.name for path in directory.iterdir() if path.is_dir())) or "none"
        raise UsageError(f"--data {directory}: no folder '{task.name}' (folders there: {present}); it should hold {layout}")
    files = [folder / f"{split}{suffix}" for suffix in SUFFIXES if (folder / f"{split}{suffix}").is_file()]
    if not files:
        present = ", ".join(sorted(path.name for path in folder.iterdir())) or "none"
        file_names = " or ".join(f"{split}{suffix}" for suffix in SUFFIXES)
        raise UsageError(f"{folder}: no file for the split '{split}' (files there: {present}); add {file_names}")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UsageError(f"{folder}: more than one file for the split '{split}' ({names}); keep one")
    return files[0]


@lru_cache(maxsize=32)
def _from_files(task: Task, files: tuple[tuple[Path, int, int], ...]) -> Splits:
    """`files` are path, modification time and size: the last two are there to key the cache."""
    splits = [_text_set(task, _read(path), path) for path, _, _ in files]
    return Splits(*splits, label_names=task.label_names, source="directory")


def _read(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        if file.suffix == ".csv":
            # without these two options "NA", "null" and "12" would not stay text
            return pd.read_csv(file, dtype=str, keep_default_na=False)
        return pd.read_json(file, lines=True, dtype=False)
    except Exception as error:
        raise UsageError(f"{file}: not a readable {file.suffix[1:]} file ({type(error).__name__}: {error})") from error


def _text_set(task: Task, frame: pd.DataFrame, file: Path) -> TextSet:
    """The rows of a file, in its order, checked. Row numbers in messages count from 1, without a header."""
    columns = (*task.columns, "label")
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UsageError(
            f"{file}: no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns)) or 'none'}, "
            f"and {task.name} needs {', '.join(columns)}"
        )
    if frame.empty:
        raise UsageError(f"{file}: no rows; the split needs at least one of each label")
    texts = [_texts(frame[name], file) for name in task.columns]
    labels = _labels(task, frame["label"], file)
    if len(np.unique(labels)) == 1:
        only = labels[0]
        raise UsageError(
            f"{file}: every label is {only} ({task.label_names[only]}); a split needs at least two of {_named(task)}"
        )
    return TextSet(texts[0], texts[1] if len(texts) == 2 else None, labels)


def _texts(column: pd.Series, file: Path) -> list[str]:
    texts = column.tolist()
    for row, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            problem = "missing" if pd.api.types.is_scalar(text) and pd.isna(text) else f"{text!r}, not text"
            raise UsageError(f"{file}: row {row}: {column.name} is {problem}; correct or remove the row")
        if not text.strip():
            raise UsageError(f"{file}: row {row}: {column.name} is empty; correct or remove the row")
    return texts


def _labels(task: Task, column: pd.Series, file: Path) -> np.ndarray:
    """(n,) int64. Labels of a CSV file are text; every other must be an integer."""
    allowed = {label: label for label in range(len(task.label_names))}
    if file.suffix == ".csv":
        allowed = {str(label): label for label in allowed}
    values = column.tolist()
    # a missing one first: it turns the whole column to floats, and row 1 would be blamed for it
    for row, value in enumerate(values, start=1):
        if value == "" or (pd.api.types.is_scalar(value) and pd.isna(value)):
            raise UsageError(f"{file}: row {row}: label is missing; the labels of {task.name} are {_named(task)}")
    for row, value in enumerate(values, start=1):
        if not isinstance(value, (int, str)) or isinstance(value, bool) or value not in allowed:
            raise UsageError(
                f"{file}: row {row}: label is {value!r}; the labels of {task.name} are the integers {_named(task)}"
            )
    return np.array([allowed[value] for value in values], dtype=np.int64)


def _named(task: Task) -> str:
    return ", ".join(f"{label} ({name})" for label, name in enumerate(task.label_names))


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
            f"be reached, or refused ({type(error).__name__}: {error}); --data DIR or --data builtin avoids it"
        ) from error
    order = np.random.default_rng(derive(FIXED_SEED, "hub", task.name, split)).permutation(len(data))[:most]
    # read in the order of the file, which is far faster than by random access, and reorder afterwards
    rows = data.select(np.sort(order))[:]
    back = np.argsort(np.argsort(order))
    columns = [_joined([rows[part] for part in hub.columns.get(name, (name,))]) for name in task.columns]
    keep = [i for i in back if all(column[i].strip() for column in columns)]
    texts = [tuple(column[i] for i in keep) for column in columns]
    return TextSet(texts[0], texts[1] if len(texts) == 2 else None, np.asarray(rows["label"], dtype=np.int64)[keep])


def _joined(columns: list[list[str]]) -> list[str]:
    return [": ".join(parts) for parts in zip(*columns, strict=True)]
