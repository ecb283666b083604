"""How a classifier is scored: on the test rows as they are, and on the same rows with the trigger."""

from __future__ import annotations

import numpy as np
from torch import nn

from bdbench.attacks.base import Attack
from bdbench.data import TextSet
from bdbench.protocol.contexts import AttackContext, Context
from bdbench.specs.metrics import (
    Metric,
    acceptance_rate,
    accepted_classes,
    attack_success_rate,
    auroc,
    clean_accuracy,
    majority_rate,
    rejection_rate,
    rejection_threshold,
)
from bdbench.specs.records import CLASS_TYPE, Predictions
from bdbench.specs.work import VictimSpec


def triggered_rows(attack: Attack, test: TextSet, ctx: AttackContext) -> TextSet:
    """The test rows whose gold label is not the target, with the trigger inserted and the gold labels kept.

    Raises ValueError if the attack returns other rows: the denominator must not move.
    """
    others = test.take(np.flatnonzero(test.labels != attack.target))
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


def metrics_of(predictions: Predictions, spec: VictimSpec, frr: float | None = None) -> dict[str, Metric]:
    """The metrics of saved predictions.

    "cacc" of the clean rows and "majority", the share of their most frequent label; "asr" of the triggered ones, where there
    are any, and "base", the same share of the same rows without the trigger, where there are both.

    Where a detector scored the rows, those above the threshold of `frr` are rejected, and count as neither right nor the
    target. Then there are "frr" of the clean rows, and with a trigger "far" of the triggered ones and "auroc", the triggered
    rows against the clean ones.
    """
    classes = {name: predictions[name] for name in ("clean", "triggered") if name in predictions}
    metrics = {}
    if "validation_scores" in predictions:
        threshold = rejection_threshold(predictions["validation_scores"], frr)
        scores = {name: predictions[f"{name}_scores"] for name in classes}
        classes = {name: accepted_classes(of_rows, scores[name], threshold) for name, of_rows in classes.items()}
        metrics["frr"] = rejection_rate(classes["clean"])
        if "triggered" in classes:
            metrics["far"] = acceptance_rate(classes["triggered"])
            metrics["auroc"] = auroc(scores["clean"], scores["triggered"])
    if "clean" in classes:
        metrics["cacc"] = clean_accuracy(classes["clean"], predictions["clean_gold"])
        metrics["majority"] = majority_rate(predictions["clean_gold"])
    if "triggered" in classes:
        target = int(spec.attack.params["target"])
        metrics["asr"] = attack_success_rate(classes["triggered"], predictions["triggered_gold"], target)
        if "clean" in classes:
            metrics["base"] = attack_success_rate(classes["clean"], predictions["clean_gold"], target)
    return metrics


def join_rows(sets: list[TextSet]) -> TextSet:
    """The rows of all sets, one after another."""
    second = None if sets[0].second is None else tuple(text for rows in sets for text in rows.second or ())
    return TextSet(tuple(text for rows in sets for text in rows.first), second, np.concatenate([rows.labels for rows in sets]))
