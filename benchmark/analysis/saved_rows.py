"""What the saved predictions of cells say of each test row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bdbench.analysis.bootstrap import CellRows
from bdbench.goals import goals
from bdbench.specs.metrics import REJECTED
from bdbench.specs.predictions import counted_classes
from bdbench.specs.records import Predictions, Record

PredictionsOf = Callable[[Record], Predictions | None]


def rows_of(record: Record, predictions: Predictions) -> CellRows:
    """What the predictions of a cell say of each test row; without a trigger no row is among `others`."""
    classes, gold = counted_classes(predictions, record.spec.frr), predictions["clean_gold"]
    others, hit, base = (np.zeros(len(gold), dtype=bool) for _ in range(3))
    if "triggered" in classes:
        goal = goals(gold, record.spec.victim.attack.params)
        others = gold != goal
        hit[others] = classes["triggered"] == goal[others]  # they are the triggered rows, in their order
        base = others & (classes["clean"] == goal)
    return CellRows(classes["clean"] == gold, others, hit, base, classes["clean"] == REJECTED)


class SavedRows:
    """The rows of cells, read once each; None of a cell without predictions."""

    def __init__(self, predictions_of: PredictionsOf) -> None:
        self._predictions_of = predictions_of
        self._rows_by_key: dict[str, CellRows | None] = {}

    def of(self, record: Record) -> CellRows | None:
        if record.key not in self._rows_by_key:
            needed = {"clean", "triggered"} if "asr" in (record.metrics or {}) else {"clean"}
            predictions = self._predictions_of(record)
            is_complete = predictions is not None and needed <= predictions.keys()
            self._rows_by_key[record.key] = rows_of(record, predictions) if is_complete else None
        return self._rows_by_key[record.key]
