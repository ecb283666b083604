"""What saved predictions say: the classes that count, and the metrics. NumPy is enough to recompute them."""

from __future__ import annotations

from bdbench.goals import goals
from bdbench.specs.metrics import (
    Labels,
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
from bdbench.specs.records import Predictions
from bdbench.specs.work import VictimSpec


def counted_classes(predictions: Predictions, frr: float | None = None) -> dict[str, Labels]:
    """The classes, (n,), of the "clean" and of the "triggered" rows, as far as there are any.

    Where a detector scored the rows, REJECTED stands in place of the class of those above the threshold of `frr`.
    """
    classes = {name: predictions[name] for name in ("clean", "triggered") if name in predictions}
    if "validation_scores" not in predictions:
        return classes
    threshold = rejection_threshold(predictions["validation_scores"], frr)
    return {name: accepted_classes(of_rows, predictions[f"{name}_scores"], threshold) for name, of_rows in classes.items()}


def metrics_of(predictions: Predictions, spec: VictimSpec, frr: float | None = None) -> dict[str, Metric]:
    """The metrics of saved predictions.

    "cacc" of the clean rows and "majority", the share of their most frequent label; "asr" of the triggered ones, where there
    are any, and "base", the same share of the same rows without the trigger, where there are both.

    Where a detector scored the rows, those above the threshold of `frr` are rejected, and count as neither right nor the
    target. Then there are "frr" of the clean rows, and with a trigger "far" of the triggered ones and "auroc", the triggered
    rows against the clean ones.
    """
    classes = counted_classes(predictions, frr)
    metrics = {}
    if "validation_scores" in predictions:
        metrics["frr"] = rejection_rate(classes["clean"])
        if "triggered" in classes:
            metrics["far"] = acceptance_rate(classes["triggered"])
            metrics["auroc"] = auroc(predictions["clean_scores"], predictions["triggered_scores"])
    if "clean" in classes:
        metrics["cacc"] = clean_accuracy(classes["clean"], predictions["clean_gold"])
        metrics["majority"] = majority_rate(predictions["clean_gold"])
    if "triggered" in classes:
        for name, rows in (("asr", "triggered"), ("base", "clean")):
            if rows in classes:
                gold = predictions[f"{rows}_gold"]
                metrics[name] = attack_success_rate(classes[rows], gold, goals(gold, spec.attack.params))
    return metrics
