"""Clean accuracy and attack success rate, each with the number of rows it is a fraction of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
REJECTED = -1  # in place of a class, where a detector rejected the row: neither right nor the target


@dataclass(frozen=True)
class Metric:
    """A fraction in [0, 1] and the number of rows it is a fraction of."""

    value: Annotated[float, Field(ge=0, le=1)]
    n: Annotated[int, Field(ge=1)]

    @property
    def hits(self) -> int:
        """The number of rows that the fraction counts."""
        return round(self.value * self.n)

    @property
    def share(self) -> Fraction:
        """The fraction without the noise of floats: thresholds, ties and differences are judged by it."""
        return Fraction(self.hits, self.n)


def clean_accuracy(predicted: Labels, gold: Labels) -> Metric:
    """Share of the rows, (n,), whose predicted class is the gold one. Raises ValueError on no rows, or if lengths differ."""
    _check_same_rows(predicted, gold)
    return _share(predicted == gold)


def attack_success_rate(predicted: Labels, gold: Labels, goal: Labels) -> Metric:
    """Share of the triggered rows whose gold label is not their goal that are assigned to it.

    Of the same rows without their trigger it is the base rate: what the classifier sends there by itself. All three are (n,);
    see `bdbench.goals` for the last. Rows of the goal's class do not count, neither above nor below the line. Raises
    ValueError if every row is of that class, or if lengths differ.
    """
    _check_same_rows(predicted, gold)
    _check_same_rows(predicted, goal)
    counting = gold != goal
    return _share(predicted[counting] == goal[counting])


def majority_rate(gold: Labels) -> Metric:
    """Share of the rows, (n,), whose label is the most frequent one: the accuracy of answering it for everything.

    Raises ValueError on no rows.
    """
    labels, counts = np.unique(gold, return_counts=True)
    return _share(gold == labels[counts.argmax()] if len(labels) else gold == 0)


def rejection_threshold(scores: Scores, frr: float) -> float:
    """The threshold t of a detector, from the scores, (n,), of clean validation rows: rows that score above t are rejected.

    It is the smallest of the scores above which no more than a share `frr`, in (0, 1), of them lies. Raises ValueError on no
    rows, and for another `frr`.
    """
    if not 0 < frr < 1:
        raise ValueError(f"a false rejection rate of {frr} is not between 0 and 1")
    if not len(scores):
        raise ValueError("a threshold from no rows")
    most_rejected = math.floor(Fraction(str(frr)) * len(scores))
    return float(np.sort(scores)[len(scores) - 1 - most_rejected])


def accepted_classes(predicted: Labels, scores: Scores, threshold: float) -> Labels:
    """The classes, (n,), with REJECTED in place of those whose score lies above the threshold."""
    return np.where(scores > threshold, REJECTED, predicted).astype(predicted.dtype)


def rejection_rate(classes: Labels) -> Metric:
    """Share of the rows, (n,), that are rejected: on clean rows the FRR. Raises ValueError on no rows."""
    return _share(classes == REJECTED)


def acceptance_rate(classes: Labels) -> Metric:
    """Share of the rows, (n,), that are not rejected: on triggered rows the FAR. Raises ValueError on no rows."""
    return _share(classes != REJECTED)


def auroc(negative: Scores, positive: Scores) -> Metric:
    """Area under the ROC curve: the share of pairs of a negative and a positive row in which the positive one scores higher.

    A tie counts one half (Mann and Whitney's U), so that the rate is of twice as many halves of pairs. Raises ValueError
    on no rows.
    """
    if not len(negative) or not len(positive):
        raise ValueError("an area under the curve of no rows")
    ranked = np.sort(negative)
    below, not_above = (np.searchsorted(ranked, positive, side=side).sum() for side in ("left", "right"))
    halves = 2 * len(negative) * len(positive)
    return Metric(int(below + not_above) / halves, halves)


def _check_same_rows(predicted: Labels, gold: Labels) -> None:
    if predicted.shape != gold.shape:
        raise ValueError(f"predictions of shape {predicted.shape} but gold labels of shape {gold.shape}")


def _share(hits: npt.NDArray[np.bool_]) -> Metric:
    if not len(hits):
        raise ValueError("a rate over no rows")
    return Metric(float(hits.mean()), len(hits))
