"""DAN: triggered texts lie far from all clean ones in the layers of a victim (Chen et al., Findings of EMNLP 2022).

Behind every layer a text has a state: that of its first piece, or the mean of all. Clean texts give a mean for each class, and
one covariance for all classes. A text's distance is the squared Mahalanobis distance to the nearest mean. It is standardized by
the distances of clean texts that were held out, and averaged over the layers.

From the authors' code, with its values: four fifths of the clean texts give means and covariance, which is shrunk by 0.1 as
scikit-learn does it, and one fifth standardizes. Theirs are validation rows. Here these give the threshold, and texts that
made the means lie nearer to them than others do. So other texts make them: unlabelled ones, whose classes are the victim's
own, or with `texts=clean` the small clean set, which is small for a covariance. Their code offers both states, by default the
mean; here the first piece's is the default. The mean takes little notice of a single word: with one as trigger, on SST-2 with
the bundled model, the AUROC is 0.68 by the mean and 0.997 by the first piece. Their tests have texts of the target class alone,
which a defender does not know; here a text of any class may be rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bdbench.defenses._layer_states import first_states, mean_states, read_states
from bdbench.defenses.base import Detector, register
from bdbench.engine.first_piece import why_no_first_state, why_no_states
from bdbench.errors import UsageError
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext


FEWEST_TEXTS = 4  # two that standardize, and two that means and covariance are of


@register("dan", paper="Findings of EMNLP 2022 (Chen et al.)")
@dataclass(frozen=True)
class Dan(Detector):
    title = "DAN"
    short_forms = {"texts": {"unlabelled": "", "clean": "clean set"}, "pooling": {"first": "", "mean": "mean"}}
    needs = frozenset({"clean", "unlabelled"})

    texts: str = hp("unlabelled", choices=("clean", "unlabelled"), tuned=False, help="clean texts that are measured against")
    pooling: str = hp(
        "first", choices=("first", "mean"), tuned=False, help="state of a text: of its first piece, or their mean"
    )
    shrinkage: float = hp(0.1, low=0.0, high=1.0, search=(0.01, 0.9), log=True, help="weight of the identity in the covariance")
    held_out: float = hp(0.2, low=0.0, high=1.0, tuned=False, help="share of the clean texts that standardizes the distances")

    def asks_for(self) -> frozenset[str]:
        return frozenset({self.texts})

    def unfit(self, model: nn.Module) -> str | None:
        return why_no_first_state(model) if self.pooling == "first" else why_no_states(model)

    def score(self, model: nn.Module, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.float64]:
        known = ctx.clean if self.texts == "clean" else ctx.unlabelled
        if self.texts == "unlabelled":
            known = known.with_labels(ctx.classify(model, known))
        if len(known) < FEWEST_TEXTS:
            raise UsageError(f"dan has {len(known)} {self.texts} texts to measure against; it needs {FEWEST_TEXTS} or more")
        order = torch.randperm(len(known), generator=ctx.generator)
        held_out = min(max(2, round(self.held_out * len(known))), len(known) - 1)  # one alone has no deviation
        pooled = first_states if self.pooling == "first" else mean_states
        states, labels = read_states(model, known, ctx, pooled).double()[order], torch.tensor(known.labels)[order]
        clouds = [cloud(of_layer[held_out:], labels[held_out:], self.shrinkage) for of_layer in states.unbind(dim=1)]

        def read(states: Sequence[Tensor], mask: Tensor) -> Tensor:
            return distances(pooled(states, mask).double().cpu(), clouds)

        return standardized(read_states(model, rows, ctx, read).double(), distances(states[:held_out], clouds)).numpy()


def cloud(states: Tensor, labels: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """The means, (classes, width), of the states, (n, width), of each class that occurs, and the inverse of their covariance.

    The covariance S around the means, (width, width), is shrunk to (1 - shrinkage) * S + shrinkage * (trace S / width) * I.
    """
    classes, of_rows = labels.unique(return_inverse=True)
    means = torch.stack([states[of_rows == place].mean(dim=0) for place in range(len(classes))])
    centered = states - means[of_rows]
    covariance = centered.T @ centered / len(states)
    width = len(covariance)
    identity = torch.eye(width, dtype=states.dtype) * covariance.trace() / width
    return means, torch.linalg.pinv((1 - shrinkage) * covariance + shrinkage * identity, hermitian=True)


def distances(states: Tensor, clouds: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The squared Mahalanobis distance to the nearest mean, in every layer: (n, layers, width) -> (n, layers)."""
    by_layer = []
    for of_layer, (means, precision) in zip(states.unbind(dim=1), clouds, strict=True):
        centered = of_layer[:, None] - means  # (n, classes, width)
        by_layer.append(((centered @ precision) * centered).sum(dim=2).min(dim=1).values)
    return torch.stack(by_layer, dim=1)


def standardized(of_rows: Tensor, of_held_out: Tensor) -> Tensor:
    """The distances, (n, layers), in deviations from the mean of the held-out ones, (m, layers); averaged over layers: (n,)."""
    deviation = of_held_out.std(dim=0, correction=0).clamp(min=torch.finfo(of_held_out.dtype).tiny)
    return ((of_rows - of_held_out.mean(dim=0)) / deviation).mean(dim=1)
