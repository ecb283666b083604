"""Which rows train the victim, make up the clean and the validation set, and test every classifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bdbench.data import TextSet
from bdbench.errors import UsageError
from bdbench.protocol.plugins import task_of
from bdbench.protocol.site import Site
from bdbench.protocol.sources import load
from bdbench.seeds import derive
from bdbench.specs.work import CellSpec, VictimSpec
from bdbench.tasks.base import Splits


@dataclass(frozen=True)
class DefenderSets:
    """The sizes of the defender's sets, and whether its clean set has as many rows of each class.

    An uneven draw of 64 rows pushes a repaired model towards one class, as a matter of chance. So classes are even by
    default: their counts differ by one at most, and the lower classes have the odd rows.
    """

    clean_rows: int = 0
    validation_rows: int = 0
    even_classes: bool = False
    unlabelled_rows: int = 0

    @classmethod
    def of(cls, cell: CellSpec) -> DefenderSets:
        """Those that a cell names."""
        return cls(cell.clean_rows, cell.validation_rows, cell.even_classes, cell.unlabelled_rows)


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one (task, seed), the same for every attack and every defense.

    The labels of `unlabelled` are all 0: nobody is told them. `user` are the clean rows that the user fine-tunes the model on
    after the attack. They are no training rows of the attacker, and not in the clean set; their texts may be among the
    unlabelled.
    """

    train: TextSet
    clean: TextSet
    validation: TextSet
    test: TextSet
    unlabelled: TextSet
    user: TextSet


def draw_rows(spec: VictimSpec, splits: Splits, sets: DefenderSets = DefenderSets()) -> Rows:
    """Deal the splits out.

    The victim's training rows come from the front of one permutation of the train split and the clean set from its back. So
    neither shares a row with the other, and a larger clean set contains the smaller one and changes no victim. Unlabelled rows
    are the first of those between them, and so are the user's. Test rows are the same for every seed. Raises UsageError if the
    clean set does not fit beside the training rows, the unlabelled rows beside both, or the user's.
    """
    order = _permutation(len(splits.train), spec.seed, "rows", spec.task)
    train, rest = order[: spec.data.train_rows], order[spec.data.train_rows :]
    if len(train) < spec.data.train_rows or sets.clean_rows > len(rest):
        raise UsageError(
            f"{spec.task}: {spec.data.train_rows} training rows and {sets.clean_rows} clean rows, but the train split has "
            f"{len(order)}; lower --train-rows or --clean-rows"
        )
    clean = rest[len(rest) - sets.clean_rows :]
    if sets.even_classes:
        labels = splits.train.labels[rest]
        quotas = class_quotas(sets.clean_rows, len(splits.label_names))
        for label, quota in enumerate(quotas):
            if (there := int((labels == label).sum())) < quota:
                raise UsageError(
                    f"{spec.task}, seed {spec.seed}: a clean set of {sets.clean_rows} rows with even classes takes {quota} of "
                    f"label {label}, but beside the training rows the train split has {there}; lower --train-rows or "
                    "--clean-rows, or give --uneven-classes"
                )
        clean = rest[last_of_each_class(labels, quotas)]
    unlabelled = rest[~np.isin(rest, clean)][: sets.unlabelled_rows]
    if len(unlabelled) < sets.unlabelled_rows:
        raise UsageError(
            f"{spec.task}: {sets.unlabelled_rows} unlabelled rows, but beside {spec.data.train_rows} training rows and "
            f"{sets.clean_rows} clean rows the train split has {len(unlabelled)}; lower --unlabelled-rows or --train-rows"
        )
    user_rows = int(spec.attack.params.get("then_rows", 0))
    user = rest[:user_rows]  # whatever the defender's sets are: the victim is made before there is a defender
    if len(user) < user_rows or np.isin(user, clean).any():
        raise UsageError(
            f"{spec.task}: {spec.attack.name}.then_rows={user_rows} do not fit into the {len(rest)} rows of the train split "
            f"that {spec.data.train_rows} training rows leave, beside {sets.clean_rows} clean rows; lower one of the three: "
            f"-A {spec.attack.name}.then_rows=N, --train-rows or --clean-rows"
        )
    validation = _permutation(len(splits.validation), 0, "validation", spec.task)[: sets.validation_rows]
    test = _permutation(len(splits.test), 0, "test", spec.task)[: spec.data.test_rows]
    return Rows(
        train=splits.train.take(train),
        clean=splits.train.take(clean),
        validation=splits.validation.take(np.sort(validation)),
        test=splits.test.take(np.sort(test)),
        unlabelled=splits.train.take(unlabelled).without_labels(),
        user=splits.train.take(user),
    )


def class_quotas(rows: int, classes: int) -> list[int]:
    """How many of `rows` rows are of each class, as even as can be: 5 rows of 3 classes are 2, 2, 1.

    One row more raises one quota by one, so that a larger set contains the smaller.
    """
    return [rows // classes + (label < rows % classes) for label in range(classes)]


def last_of_each_class(labels: npt.NDArray[np.int64], quotas: list[int]) -> npt.NDArray[np.int64]:
    """The positions, ascending, of the last `quotas[c]` of every class c in `labels`, (n,)."""
    of_classes = [np.flatnonzero(labels == label) for label in range(len(quotas))]
    return np.sort(np.concatenate([rows[len(rows) - quota :] for rows, quota in zip(of_classes, quotas, strict=True)]))


def rows_of(spec: VictimSpec, site: Site, sets: DefenderSets = DefenderSets()) -> Rows:
    """The rows that `draw_rows` deals out of the data at `site`. Raises ValueError if task or data are not those in `spec`."""
    return draw_rows(spec, splits_of(spec, site), sets)


def splits_of(spec: VictimSpec, site: Site) -> Splits:
    """The task's splits at `site`. Raises ValueError if task or data are not those in `spec`."""
    splits = load(task_of(spec)(), spec.data.source, site.data)
    if splits.fingerprint != spec.data.fingerprint:
        raise ValueError(
            f"the data of {spec.task} changed: its fingerprint is {splits.fingerprint}, the cell wants {spec.data.fingerprint}"
        )
    return splits


def _permutation(n: int, seed: int, *role: str) -> npt.NDArray[np.int64]:
    return np.random.default_rng(derive(seed, *role)).permutation(n)
