"""Descent on rows of a word-embedding matrix that keeps each row's norm: how embeddings are poisoned, and perturbed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def norm_kept_step(row: Tensor, gradients: Tensor, learning_rate: float, norm: Tensor) -> Tensor:
    """`row` minus the rate times the sum of all gradients so far, scaled back to `norm`.

    `row` and `gradients` are (width,). `norm` is the L2 norm of the row before the first step.
    """
    moved = row - learning_rate * gradients
    return moved * (norm / moved.norm())


def even_norms(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The vectors, (width,) each, scaled to the least of their norms, so that all rows move alike; those of norm 0 stay so."""
    norms = torch.stack([gradient.norm() for gradient in gradients])
    least = norms[norms > 0].min() if (norms > 0).any() else norms.new_zeros(())
    return [gradient * (least / norm) if norm > 0 else gradient for gradient, norm in zip(gradients, norms, strict=True)]


class NormKeptDescent(torch.optim.Optimizer):
    """Gradient descent on vectors, with accumulated gradients and a fixed norm of each (see `norm_kept_step`).

    Of several vectors the accumulated gradients are brought to one norm in every step (see `even_norms`), as SOS does.
    """

    def __init__(self, rows: nn.Parameter | Sequence[nn.Parameter], learning_rate: float) -> None:
        rows = [rows] if isinstance(rows, nn.Parameter) else list(rows)
        super().__init__(rows, {"lr": learning_rate})
        for row in rows:
            self.state[row] = {"norm": row.detach().norm(), "sum": torch.zeros_like(row)}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            rows = group["params"]
            for row in rows:
                self.state[row]["sum"] += row.grad
            sums = [self.state[row]["sum"] for row in rows]
            for row, gradients in zip(rows, even_norms(sums) if len(rows) > 1 else sums, strict=True):
                row.copy_(norm_kept_step(row, gradients, group["lr"], self.state[row]["norm"]))
