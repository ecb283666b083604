"""Activation clustering: the rows of a poisoned class fall into two clusters, a large and a small one (Chen et al., 2018,
arXiv:1811.03728).

The defender trains on the poisoned set and takes what the classification layer gets for every row. Of each class these
activations are reduced to 10 numbers by independent component analysis and cut in two by k-means. Where the smaller cluster is
a small enough part of the class, it is dropped: halves are what a clean class falls into.

The paper tells a poisoned class by one of three: how a cluster is classified after training without it, its relative size, the
silhouette. Here a cluster must be below a relative size, 0.35 unless told otherwise, and where `silhouette` is above -1 the
class must fall apart as clearly as that, too. The bound of 0.35 is the Adversarial Robustness Toolbox's (from memory), and so
would be a silhouette of 0.1. In 1,000 rows of SST-2 with a trigger in 100 of them ICA puts these, and no other, into a cluster;
of the other class it cuts off 5 to 32 %, by chance. PCA finds none: its first component is how sure the classifier is of a row.

Where poison is the larger part of its class, the clean rows go. The smaller cluster is no more than half of a class, so no
class is dropped whole. The extra `cluster` brings scikit-learn.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bdbench.defenses._features import poisoned_features
from bdbench.defenses.base import Filter, register
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext

ICA = "ica"
MOST_ICA_STEPS, ICA_TOLERANCE = 1000, 0.005  # the Adversarial Robustness Toolbox's (from memory)
SILHOUETTE_ROWS = 5000  # it compares all pairs of rows


@register("activation-clustering", paper="arXiv:1811.03728")
@dataclass(frozen=True)
class ActivationClustering(Filter):
    title = "activation clustering"
    needs = frozenset({"training-control"})
    packages = {"sklearn": "cluster"}

    components: int = hp(10, low=1, high=1000, tuned=False, help="numbers that the activations of a row are reduced to")
    reduction: str = hp(ICA, choices=(ICA, "pca"), tuned=False, help="independent or principal component analysis")
    size: float = hp(
        0.35, low=0.0, high=0.5, aggressive="high", help="share of its class below which the smaller cluster is dropped"
    )
    silhouette: float = hp(
        -1.0, low=-1.0, high=1.0, tuned=False, help="mean silhouette that the clusters of a class must have; -1: any"
    )

    def keep(self, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.bool_]:
        of_rows = poisoned_features(rows, ctx)
        seed = int(torch.randint(2**31, (), generator=ctx.generator))
        kept = np.ones(len(rows), dtype=bool)
        for label in np.unique(rows.labels).tolist():
            members = np.flatnonzero(rows.labels == label)
            smaller, silhouette = self._smaller_cluster(of_rows[members], seed)
            share = float(smaller.mean())
            ctx.notes[f"class {label}"] = {"smaller_cluster": share, "silhouette": silhouette}
            if is_suspicious(share, silhouette, self.size, self.silhouette):
                kept[members[smaller]] = False
        return kept

    def _smaller_cluster(self, of_class: npt.NDArray[np.float64], seed: int) -> tuple[npt.NDArray[np.bool_], float]:
        """Which rows of a class, (n, width), are in the smaller of two clusters, (n,), and the mean silhouette of both.

        None are where fewer than three rows differ; the silhouette is then -1.
        """
        from sklearn.cluster import KMeans
        from sklearn.metrics import silhouette_score

        if len(np.unique(of_class, axis=0)) <= 2:
            return np.zeros(len(of_class), dtype=bool), -1.0
        reduced = self._reduced(of_class, seed)
        clusters = KMeans(n_clusters=2, n_init=10, random_state=seed).fit_predict(reduced)
        smaller = smaller_of_two(clusters)
        rows = np.random.RandomState(seed).permutation(len(reduced))[:SILHOUETTE_ROWS]
        if not smaller[rows].any():
            rows[-1] = np.flatnonzero(smaller)[0]  # of one cluster alone there is no silhouette
        return smaller, float(silhouette_score(reduced[rows], clusters[rows]))

    def _reduced(self, of_class: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
        """(n, width) -> (n, components), or fewer where there are not so many rows or numbers."""
        from sklearn.decomposition import PCA, FastICA
        from sklearn.exceptions import ConvergenceWarning

        rank = int(np.linalg.matrix_rank(of_class - of_class.mean(axis=0)))
        components = min(self.components, rank)  # beyond its rank FastICA divides by zero
        if self.reduction != ICA:
            return PCA(components, random_state=seed).fit_transform(of_class)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it clusters what it has by then
            ica = FastICA(components, max_iter=MOST_ICA_STEPS, tol=ICA_TOLERANCE, random_state=seed)
            return ica.fit_transform(of_class)


def smaller_of_two(clusters: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(n,) clusters 0 and 1 -> (n,): True in the one with fewer rows; of equal ones in cluster 1."""
    return clusters == (0 if 2 * np.count_nonzero(clusters == 0) < len(clusters) else 1)


def is_suspicious(share: float, silhouette: float, size: float, least_silhouette: float) -> bool:
    """Whether a class whose smaller cluster has this share of it, with this silhouette, is taken for poisoned."""
    return 0 < share < size and silhouette >= least_silhouette
