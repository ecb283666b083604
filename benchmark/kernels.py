"""Attention and dropout for training on CPU cores, where PyTorch's own leave the matrix units idle.

Both compute what PyTorch's do, of the same distribution. On one core, bf16, a training step of the bundled model on SST-2
takes 0.88 of the time (batches of 32), on texts of 64 pieces 0.8; `python -m bdbench.perf` times the whole.

- Dropout draws 64 random bits for four elements, where `bernoulli_` makes one draw of a slow generator for each: 0.4 ms for
  166,000 elements instead of 1.0 ms.
- Attention is two batched products around a softmax in float32 over at least 16 keys, the narrowest that is vectorized. With
  dropout, where PyTorch takes an unfused path of safeguards, 32 texts of 13, 25 and 64 pieces take 0.8, 2.0 and 13 ms
  instead of 3.1, 4.7 and 25; without, 0.9, 1.1 and 8 instead of 2.7, 2.4 and 6, so from there on the two are even.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION = "bdbench-cpu"
VECTOR = 16  # float32 lanes of the widest vector registers


def dropout_factors(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """Independent factors: 0 with probability `p` (to the nearest 2**-16), else such that the mean is 1.

    The randomness comes from torch's global generator on the CPU.
    """
    dropped = round(p * 2**16)
    if dropped == 2**16:
        return torch.zeros(shape, dtype=dtype)
    size = math.prod(shape)
    words = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw(-(-size // 4))
    kept = torch.from_numpy(words.view(np.int16))[:size].view(shape) >= dropped - 2**15
    return kept.to(dtype).mul_(2**16 / (2**16 - dropped))


class FastDropout(nn.Dropout):
    """`nn.Dropout` on `dropout_factors`."""

    def forward(self, x: Tensor) -> Tensor:
        return x * dropout_factors(x.shape, self.p, x.dtype) if self.training and self.p else x


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling * query key^T + mask) value, with dropout on the softmax, as an attention function of transformers.

    `query`, `key` and `value` are (n, heads, pieces, width), the mask is added and broadcasts to (n, heads, pieces, pieces);
    the result is (n, pieces, heads, width).
    """
    more = max(0, VECTOR - key.shape[-2])
    bias = query.new_zeros(key.shape[-2], dtype=torch.float32) if attention_mask is None else attention_mask
    if more:
        key, value = F.pad(key, (0, 0, 0, more)), F.pad(value, (0, 0, 0, more))
        bias = F.pad(bias, (0, more), value=torch.finfo(bias.dtype).min)
    scores = torch.add(bias, (query @ key.transpose(-1, -2)).float(), alpha=scaling)
    weights = scores.softmax(-1)
    if dropout:
        weights = weights * dropout_factors(weights.shape, dropout, weights.dtype)
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous(), None


@lru_cache
def _register_attention() -> None:
    # imported here, for it takes transformers a second or two that a process without a model need not spend
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


@contextmanager
def cpu_kernels(model: nn.Module) -> Iterator[None]:
    """Inside the block a model that lies on the CPU uses the functions above; afterwards it is as it was.

    Attention is exchanged where transformers would call PyTorch's fused one; a model with an attention of its own keeps it.
    """
    if next(model.parameters()).device.type != "cpu":
        yield
        return
    dropouts = [module for module in model.modules() if type(module) is nn.Dropout]
    config = getattr(model, "config", None)  # a defense may wrap the classifier in a module of its own
    fused = getattr(config, "_attn_implementation", None) == "sdpa"
    for module in dropouts:
        module.__class__ = FastDropout
    if fused:
        _register_attention()
        model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        for module in dropouts:
            module.__class__ = nn.Dropout
        if fused:
            model.set_attn_implementation("sdpa")
