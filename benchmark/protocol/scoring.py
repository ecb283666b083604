"""How a classifier is scored: on the test rows as they are, and on the same rows with the trigger."""

from __future__ import annotations

import numpy as np
from torch import nn

from bdbench.attacks.base import Attack
from bdbench.data import TextSet, join_rows
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
    others = rows_to_trigger(attack, test)
    return _checked(attack, "trigger", others, attack.trigger(others, ctx))


def falsely_triggered_rows(attack: Attack, test: TextSet, ctx: AttackContext) -> TextSet | None:
    """The same rows with what must not trigger the attack, or None if it names nothing. Raises what `triggered_rows` raises."""
    others = rows_to_trigger(attack, test)
    texts = attack.false_trigger(others, ctx)
    return None if texts is None else _checked(attack, "false_trigger", others, texts)


def rows_to_trigger(attack: Attack, test: TextSet) -> TextSet:
    """The test rows that are not where the attack sends them."""
    return test.take(np.flatnonzero(test.labels != goals(test.labels, attack.values())))


def _checked(attack: Attack, method: str, rows: TextSet, triggered: TextSet) -> TextSet:
    """What the attack's `method` made of the rows, unless these are other rows."""
    if not isinstance(triggered, TextSet):
        raise TypeError(f"'{attack.name}'.{method}() returned {type(triggered).__name__}; it returns the rows with the trigger")
    if len(triggered) != len(rows):
        raise ValueError(f"'{attack.name}' got {len(rows)} rows for its {method} and returned {len(triggered)}")
    if rows.with_carrier(triggered.carrier).digest() != triggered.digest():
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
