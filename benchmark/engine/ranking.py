"""Which of many numbers are the largest, by a threshold: no sorting, so that whole models can be ranked."""

from __future__ import annotations

import torch
from torch import Tensor


def threshold_of_largest(values: Tensor, share: float) -> Tensor:
    """The least of the round(share * n) largest of `values` (n,), a scalar; infinity if that is none of them."""
    kept = round(share * len(values))
    if kept == 0:
        return values.new_tensor(torch.inf)
    return values.kthvalue(len(values) - kept + 1).values


def largest(weight: Tensor, ratio: float) -> Tensor:
    """True at the round(ratio * n) weights of largest magnitude, and at those that equal the least of these."""
    magnitude = weight.abs()
    return magnitude >= threshold_of_largest(magnitude.flatten(), ratio)
