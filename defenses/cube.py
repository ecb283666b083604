"""CUBE: poisoned rows form clusters of their own in a model trained on them (Cui et al., 2022, arXiv:2206.08514).

The defender trains on the poisoned set, takes what the classification layer gets for every row, reduces it by PCA and UMAP, and
clusters it by HDBSCAN. Of each class the largest cluster is kept, and any other that holds half of the class; rows that belong
to no cluster count as one. From the authors' code, with its values (their training: 10 passes at 2e-5; here the victim's own
recipe). The extra `cluster` brings the three libraries.
"""

from __future__ import annotations

from collections import Counter
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


@register("cube", paper="arXiv:2206.08514")
@dataclass(frozen=True)
class Cube(Filter):
    title = "CUBE"
    needs = frozenset({"training-control"})
    packages = {"umap": "cluster", "hdbscan": "cluster", "sklearn": "cluster"}

    components: int = hp(20, low=2, help="principal components that go into UMAP")
    neighbors: int = hp(100, low=2, help="UMAP: neighbors of a row, at most all others")
    min_samples: int = hp(100, low=1, help="HDBSCAN: rows around a row in a dense place, at most half of all")

    def keep(self, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.bool_]:
        of_rows = poisoned_features(rows, ctx)
        seed = int(torch.randint(2**31, (), generator=ctx.generator))
        clusters = self._clusters(of_rows, seed)
        ctx.notes["clusters"] = len(set(clusters.tolist()))
        return kept_rows(clusters, rows.labels)

    def _clusters(self, of_rows: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.int64]:
        """The cluster of every row, (n,); -1 is none."""
        from hdbscan import HDBSCAN
        from sklearn.decomposition import PCA
        from umap import UMAP

        rows, threads = len(of_rows), torch.get_num_threads()
        reduced = PCA(min(self.components, *of_rows.shape), random_state=seed).fit_transform(of_rows)
        plane = UMAP(n_neighbors=min(self.neighbors, rows - 1), min_dist=0.0, random_state=seed, n_jobs=1).fit_transform(
            reduced
        )
        torch.set_num_threads(threads)  # UMAP sets those of OpenMP, which PyTorch shares
        return HDBSCAN(min_cluster_size=5, min_samples=min(self.min_samples, rows // 2)).fit_predict(plane)


def kept_rows(clusters: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(n,): of each class the rows in its largest cluster (of equal ones the first), and in any with half of its rows."""
    kept = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        of_class = labels == label
        counts = Counter(clusters[of_class].tolist())
        largest = max(sorted(counts), key=lambda cluster: counts[cluster])
        for cluster, count in counts.items():
            if cluster == largest or 2 * count >= of_class.sum():
                kept |= of_class & (clusters == cluster)
    return kept
