"""BadActs, its detection: triggered texts drive neurons out of their clean range (Yi et al., 2024, arXiv:2405.11227).

The neurons are the entries of the first piece's state ([CLS]) behind every layer. On clean texts each one gets a mean and
a deviation. A text is the more suspicious, the more of its neurons lie farther than `delta` deviations from their means.

From the authors' code: half of a validation set gives means and deviations, the other half the threshold. Here validation
rows give the threshold, and other clean texts the means and deviations: the small clean set or, with `texts=unlabelled`, many.
`delta` is 3, as in the authors' script; their class has 2. The paper also purifies, which is not done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bdbench.defenses._layer_states import first_states, read_states
from bdbench.defenses.base import Detector, register
from bdbench.engine.first_piece import why_no_first_state
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn

    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext


@register("badacts", paper="arXiv:2405.11227")
@dataclass(frozen=True)
class BadActs(Detector):
    title = "BadActs"
    short_forms = {"texts": {"clean": "", "unlabelled": "unlabelled"}}
    needs = frozenset({"clean", "unlabelled"})

    texts: str = hp("clean", choices=("clean", "unlabelled"), tuned=False, help="clean texts whose activations are normal")
    delta: float = hp(3.0, low=0.0, search=(0.5, 5.0), help="deviations from its mean up to which a neuron is normal")

    def asks_for(self) -> frozenset[str]:
        return frozenset({self.texts})

    def unfit(self, model: nn.Module) -> str | None:
        return why_no_first_state(model)

    def score(self, model: nn.Module, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.float64]:
        known = read_states(model, ctx.clean if self.texts == "clean" else ctx.unlabelled, ctx, first_states)
        mean, deviation = known.mean(dim=0), known.std(dim=0, correction=0)

        def read(states: Sequence[Tensor], mask: Tensor) -> Tensor:
            return share_outside(first_states(states, mask).cpu(), mean, deviation, self.delta)

        return read_states(model, rows, ctx, read).double().numpy()


def share_outside(activations: Tensor, mean: Tensor, deviation: Tensor, delta: float) -> Tensor:
    """The share, in [0, 1], of each row's neurons that are more than `delta` deviations from their means.

    `activations` are (n, layers, width), `mean` and `deviation` (layers, width); the result is (n,).
    """
    return ((activations - mean).abs() > delta * deviation).float().mean(dim=(1, 2))
