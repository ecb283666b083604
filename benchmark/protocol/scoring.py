"""How a classifier is scored: on the test rows as they are, and on the same rows with the trigger."""

from __future__ import annotations

import numpy as np
from torch import nn

from bdbench.attacks.base import Attack
from bdbench.data import TextSet
from bdbench.goals import goals
from bdbench.protocol.contexts import AttackContext, Context
from bdbench.specs.metrics import Metric
from bdbench.specs.predictions import metrics_of
from bdbench.specs.records import CLASS_TYPE, Example, Predictions
from bdbench.specs.work import VictimSpec

# Triggered rows that a record shows: that many, if there are any, of at most so many characters.
EXAMPLES, SHORT_EXAMPLE, LONGEST_EXAMPLE = 3, 300, 3000


def triggered_rows(attack: Attack, test: TextSet, ctx: AttackContext) -> TextSet:
    """The test rows that are not where the attack sends them, with the trigger inserted and the gold labels kept.

    Raises ValueError if the attack returns other rows: the denominator must not move.
    """
    others = test.take(np.flatnonzero(test.labels != goals(test.labels, attack.values())))
    triggered = attack.trigger(others, ctx)
    if not isinstance(triggered, TextSet):
        raise TypeError(f"'{attack.name}'.trigger() returned {type(triggered).__name__}; it returns the rows with the trigger")
    if len(triggered) != len(others):
        raise ValueError(f"'{attack.name}' got {len(others)} rows for its trigger and returned {len(triggered)}")
    if others.with_carrier(triggered.carrier).digest() != triggered.digest():
        raise ValueError(f"'{attack.name}' changed more than the carrier of the trigger: a label, or a pair's other text")
    return triggered


def evaluate(
    model: nn.Module, test: TextSet | None, triggered: TextSet | None, spec: VictimSpec, ctx: Context
) -> tuple[Predictions, dict[str, Metric]]:
    """Clean and triggered texts in one pass. Predictions are class numbers, int16, beside the gold ones.

    Raises ValueError unless the model gives a finite number for every text and class.
    """
    rows_by_name = {name: rows for name, rows in (("clean", test), ("triggered", triggered)) if rows is not None}
    classes = ctx.classify(model, join_rows(list(rows_by_name.values()))).astype(CLASS_TYPE)
    predictions: Predictions = {}
    for name, rows in rows_by_name.items():
        predictions[name], classes = classes[: len(rows)], classes[len(rows) :]
        predictions[f"{name}_gold"] = rows.labels.astype(CLASS_TYPE)
    return predictions, metrics_of(predictions, spec)


def join_rows(sets: list[TextSet]) -> TextSet:
    """The rows of all sets, one after another."""
    second = None if sets[0].second is None else tuple(text for rows in sets for text in rows.second or ())
    return TextSet(tuple(text for rows in sets for text in rows.first), second, np.concatenate([rows.labels for rows in sets]))


def examples_of(triggered: TextSet, purified: TextSet | None = None) -> tuple[Example, ...]:
    """The first few short rows, the same for every defense of a victim; where the texts are long, the shortest of them."""
    texts_by_row = triggered.texts
    lengths = [sum(map(len, texts)) for texts in texts_by_row]
    rows = sorted(range(len(triggered)), key=lambda row: (max(lengths[row], SHORT_EXAMPLE), row))[:EXAMPLES]
    texts_after = None if purified is None else purified.texts
    return tuple(
        Example(row, texts_by_row[row], None if texts_after is None else texts_after[row])
        for row in sorted(rows)
        if lengths[row] <= LONGEST_EXAMPLE
    )
