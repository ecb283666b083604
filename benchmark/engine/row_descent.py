"""Descent on one row of a word-embedding matrix that keeps the row's norm: how embeddings are poisoned, and perturbed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def norm_kept_step(row: Tensor, gradients: Tensor, learning_rate: float, norm: Tensor) -> Tensor:
    """`row` minus the rate times the sum of all gradients so far, scaled back to `norm`.

    `row` and `gradients` are (width,). `norm` is the L2 norm of the row before the first step.
    """
    moved = row - learning_rate * gradients
    return moved * (norm / moved.norm())


class NormKeptDescent(torch.optim.Optimizer):
    """Gradient descent on one vector, with accumulated gradients and a fixed norm (see `norm_kept_step`)."""

    def __init__(self, row: nn.Parameter, learning_rate: float) -> None:
        super().__init__([row], {"lr": learning_rate})
        self.state[row] = {"norm": row.detach().norm(), "sum": torch.zeros_like(row)}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for row in group["params"]:
                state = self.state[row]
                state["sum"] += row.grad
                row.copy_(norm_kept_step(row, state["sum"], group["lr"], state["norm"]))
