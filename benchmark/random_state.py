"""The global random states of Python, NumPy and PyTorch. Importing this imports torch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import MT19937, SeedSequence


@dataclass(frozen=True)
class RandomState:
    """The state of Python's, NumPy's and PyTorch's global random generators."""

    python: Any
    bit_generator: Any
    numpy: Any
    torch: torch.Tensor
    cuda: list[torch.Tensor]

    @classmethod
    def read(cls) -> RandomState:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        bit_generator = np.random.get_bit_generator()
        return cls(random.getstate(), bit_generator, np.random.get_state(legacy=False), torch.get_rng_state(), cuda)

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_bit_generator(self.bit_generator)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


def seed_random(seed: int) -> Callable[[], list[str]]:
    """Seed all global random generators. Returns a function that names those that have been seeded anew since.

    Drawing does not count as that: a new `nn.Linear` draws its weights. Only of `random.gauss` it cannot be told.
    """
    random.seed(seed)
    random.gauss(0, 1)  # leaves the second number of the pair behind, which `random.seed` throws away
    second_number = random.getstate()[2]
    bit_generator = MT19937(SeedSequence(seed))
    np.random.set_bit_generator(bit_generator)
    np.random.set_state({**np.random.get_state(legacy=False), "has_gauss": 0, "gauss": 0.0})
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)

    def seeded_anew() -> list[str]:
        now = np.random.get_bit_generator()
        is_seeded_anew = {
            "random": random.getstate()[2] != second_number,
            "numpy.random": now is not bit_generator or now.seed_seq is None,
            "torch": torch.initial_seed() != seed,
        }
        return [name for name, anew in is_seeded_anew.items() if anew]

    return seeded_anew
