"""How far a student's states are from its teacher's, layer by layer. Padding never counts."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def map_distance(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Between attention maps, (b, heads, n, n): the squared L2 distance of two rows, averaged over heads and real pieces.

    `real` is (b, n), 1 at real pieces and 0 at padding. A scalar between 0 and 2.
    """
    by_row = (student.float() - teacher.float()).square().sum(dim=3)
    return mean_over_real(by_row.mean(dim=1), real)


def state_distance(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Between hidden states, (b, n, width): the squared difference, averaged over the width and the real pieces. A scalar."""
    return mean_over_real((student.float() - teacher.float()).square().mean(dim=2), real)


def energy_distance(student: Tensor, teacher: Tensor, power: float, real: Tensor) -> Tensor:
    """Between hidden states, (b, n, width): the squared L2 distance of the rows' `energy_map`s, averaged. A scalar."""
    difference = energy_map(student.float(), power, real) - energy_map(teacher.float(), power, real)
    return difference.square().sum(dim=1).mean()


def energy_map(states: Tensor, power: float, real: Tensor) -> Tensor:
    """(b, n, width) -> (b, n): the sum over the width of |h|^power, 0 at padding; each row is scaled to an L2 norm of 1."""
    return F.normalize(states.abs().pow(power).sum(dim=2) * real, dim=1)


def mean_over_real(values: Tensor, real: Tensor) -> Tensor:
    """The mean of `values` (b, n) over the real pieces, a scalar."""
    return (values * real).sum() / real.sum()
