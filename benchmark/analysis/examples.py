"""What became of the triggered rows that a record shows: their gold class, and the class before and after the defense."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bdbench.analysis.methods import NO_DEFENSE
from bdbench.analysis.saved_rows import PredictionsOf
from bdbench.specs.predictions import counted_classes
from bdbench.specs.records import Example, Predictions, Record


@dataclass(frozen=True)
class ShownExample:
    """A triggered row with its classes; None where the predictions that say it are not there.

    `before` is the class by the victim without a defense, and `after` by the cell itself: REJECTED where it rejects the row.
    """

    example: Example
    gold: int | None
    before: int | None
    after: int | None


class NotedPredictions:
    """The saved predictions, as who needs them reads them; the classes of the records' examples are kept in passing.

    So a file is read once, though rankings and pages ask for it, and a folder of many cells need not fit into memory.
    """

    def __init__(self, predictions_of: PredictionsOf) -> None:
        self._predictions_of = predictions_of
        self._classes_by_key: dict[str, dict[int, tuple[int, int]]] = {}

    def of(self, record: Record) -> Predictions | None:
        """The predictions of a cell that ended well, read anew; None if they are not there."""
        predictions = self._predictions_of(record)
        self._classes_by_key[record.key] = _classes(record, predictions)
        return predictions

    def classes(self, record: Record) -> dict[int, tuple[int, int]]:
        """By the rows of the record's examples: the gold class, and the cell's own."""
        if record.key not in self._classes_by_key:
            if record.examples and record.predictions is not None:
                self.of(record)
            else:
                self._classes_by_key[record.key] = {}
        return self._classes_by_key[record.key]


def shown_examples(records: Iterable[Record], predictions: NotedPredictions) -> dict[str, tuple[ShownExample, ...]]:
    """The examples of every record by its key.

    The class before is that of the undefended cell on the same victim, to the bit; there is none without such a cell.
    """
    records = list(records)
    undefended = {record.spec.victim.key(): record for record in records if record.status == "ok" and NO_DEFENSE.fits(record)}
    shown = {}
    for record in records:
        own, before = predictions.classes(record), {}
        cell = undefended.get(record.spec.victim.key())
        if cell is not None and cell.victim is not None and cell.victim == record.victim:
            before = predictions.classes(cell)
        unknown = (None, None)
        shown[record.key] = tuple(
            ShownExample(
                example,
                gold=own.get(example.row, before.get(example.row, unknown))[0],
                before=before.get(example.row, unknown)[1],
                after=own.get(example.row, unknown)[1],
            )
            for example in record.examples
        )
    return shown


def _classes(record: Record, predictions: Predictions | None) -> dict[int, tuple[int, int]]:
    if predictions is None or "triggered" not in predictions or not record.examples:
        return {}
    gold, classes = predictions["triggered_gold"], counted_classes(predictions, record.spec.frr)["triggered"]
    rows = [example.row for example in record.examples if 0 <= example.row < len(classes)]
    return {row: (int(gold[row]), int(classes[row])) for row in rows}
