"""How many rows a run uses, and whether the rows that come of it can be used."""

from __future__ import annotations

from bdbench.attacks.base import Attack
from bdbench.data import TextSet
from bdbench.errors import UsageError
from bdbench.matrix.selection import Selection
from bdbench.protocol.rows import DefenderSets, Rows, draw_rows
from bdbench.specs.work import DataSpec, VictimSpec
from bdbench.tasks.base import Splits

# Training rows that "all" leaves to the clean set, so that any usual size of it changes no victim.
HELD_BACK_ROWS = 1000


def data_spec(task: str, splits: Splits, selection: Selection) -> DataSpec:
    """The rows of a task that a run trains and tests on. Raises UsageError if there are not so many."""
    size, clean_rows = len(splits.train), selection.clean_rows
    if clean_rows >= size:
        raise UsageError(
            f"{task}: --clean-rows {clean_rows} of a train split of {size} rows leaves none to train the victim on; "
            "lower --clean-rows"
        )
    train_rows = selection.train_rows
    if train_rows is None:
        train_rows = size - max(clean_rows, min(HELD_BACK_ROWS, size // 10))
    return DataSpec(
        source=splits.source,
        fingerprint=splits.fingerprint,
        revision=splits.revision,
        train_rows=row_count(task, train_rows, size - clean_rows, "--train-rows (beside the clean set)"),
        test_rows=row_count(task, selection.test_rows, len(splits.test), "--test-rows"),
    )


def row_count(task: str, rows: int | None, most: int, flag: str) -> int:
    """`rows`, or `most` for None. Raises UsageError if there are not so many."""
    if rows is None:
        return most
    if not 0 < rows <= most:
        raise UsageError(f"{task}: {flag} {rows}, but there are {most} rows; give 1 to {most}, or 'all'")
    return rows


def unlabelled_row_count(task: str, splits: Splits, data: DataSpec, selection: Selection) -> int:
    """The unlabelled rows that a defense gets: what the others leave, up to those selected. Raises UsageError if none is."""
    left = len(splits.train) - data.train_rows - selection.clean_rows
    if left < 1:
        raise UsageError(
            f"{task}: {data.train_rows} training rows and {selection.clean_rows} clean rows leave no unlabelled ones of a "
            f"train split of {len(splits.train)}; lower --train-rows"
        )
    return left if selection.unlabelled_rows is None else min(left, selection.unlabelled_rows)


def checked_rows(victim: VictimSpec, splits: Splits, sets: DefenderSets) -> Rows:
    """The rows of one seed. Raises UsageError where all rows of a set are of one class."""
    rows = draw_rows(victim, splits, sets)
    flags = {"train": "--train-rows", "clean": "--clean-rows", "validation": "--validation-rows", "test": "--test-rows"}
    for name, flag in flags.items():
        of_set = getattr(rows, name)
        labels = set(of_set.labels.tolist())
        if len(of_set) and len(labels) < 2:
            raise UsageError(
                f"{victim.task}, seed {victim.seed}: the {len(of_set)} {name} rows are all of one class "
                f"({', '.join(splits.label_names[label] for label in labels)}); raise {flag}"
            )
    return rows


def check_users_rows(attack: Attack, victim: VictimSpec, splits: Splits, sets: DefenderSets) -> None:
    """Raises UsageError where the rows that the user fine-tunes on do not fit, or where only their recipe is given."""
    if attack.then_rows:
        draw_rows(victim, splits, sets)
        return
    for name in ("then_epochs", "then_learning_rate"):
        if value := getattr(attack, name):
            raise UsageError(
                f"{attack.name}.{name}={value}, but the user fine-tunes on no rows; give {attack.name}.then_rows=N as well"
            )


def overlaps(where: str, rows: Rows) -> list[str]:
    """A warning for each set of rows some of which are test rows, too: but for case and blanks, labels aside."""
    test = set(_folded(rows.test))
    counts = {name: sum(row in test for row in _folded(getattr(rows, name))) for name in ("clean", "validation", "train")}
    return [
        f"{where}: {count} of the {len(getattr(rows, name))} {name} rows are test rows, too; accuracy will look too good"
        for name, count in counts.items()
        if count
    ]


def _folded(rows: TextSet) -> list[tuple[str, ...]]:
    return [tuple(" ".join(text.lower().split()) for text in texts) for texts in rows.texts]
