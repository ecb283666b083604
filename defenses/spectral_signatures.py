"""Spectral signatures: poisoned rows lie far out along the direction in which their class varies most (Tran et al., 2018,
arXiv:1811.00636).

The defender trains on the poisoned set and takes what the classification layer gets for every row. Of each class these
representations are centered. A row's score is the square of its projection on their top right singular vector, which is the top
eigenvector of their covariance. In each class the rows of largest score are dropped: 1.5 times an upper bound on the number of
poisoned rows.

The bound is a hyperparameter, since a defender does not know how much is poisoned. `epsilon` states it as a share of the whole
training set. (The paper's runs poison 5 or 10 % of the target class. Its code looks at the target class alone, drops 15 % of
it, and projects without centering; here no class is known to be the target.) Of a class at most half is dropped: that is ours,
so that a bound above the size of a small class does not drop it whole. The method assumes that poison is the smaller part of
its class, and that it is what the class varies most by. After three passes over 1,000 rows of SST-2 that is not so: the top
direction, with 92 % of the variance, is how sure the classifier is of a row, and the trigger shows in the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bdbench.defenses._features import poisoned_features
from bdbench.defenses.base import Filter, register
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext

DROPPED_PER_POISONED = 1.5  # the paper's


@register("spectral-signatures", paper="arXiv:1811.00636")
@dataclass(frozen=True)
class SpectralSignatures(Filter):
    title = "spectral signatures"
    needs = frozenset({"training-control"})

    epsilon: float = hp(
        0.1,
        low=0.0,
        high=1.0,
        search=(0.01, 0.3),
        log=True,
        aggressive="high",
        help="upper bound on the poisoned rows, as a share of all training rows",
    )

    def keep(self, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.bool_]:
        of_rows = poisoned_features(rows, ctx)
        scores = np.empty(len(rows))
        for label in np.unique(rows.labels):
            of_class = rows.labels == label
            scores[of_class] = spectral_scores(of_rows[of_class])
        return without_outliers(scores, rows.labels, round(DROPPED_PER_POISONED * self.epsilon * len(rows)))


def spectral_scores(of_class: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, width) representations of one class -> (n,): the squared projections of the centered ones on the top direction."""
    centered = of_class - of_class.mean(axis=0)
    _, directions = np.linalg.eigh(centered.T @ centered)  # in ascending order of their eigenvalues
    return (centered @ directions[:, -1]) ** 2


def without_outliers(
    scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], dropped_per_class: int
) -> npt.NDArray[np.bool_]:
    """(n,): False at the `dropped_per_class` largest scores of each class, at most at half of it; of equal ones the first."""
    kept = np.ones(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        descending = members[np.argsort(-scores[members], kind="stable")]
        kept[descending[: min(dropped_per_class, len(members) // 2)]] = False
    return kept
