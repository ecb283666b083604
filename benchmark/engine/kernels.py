"""Attention, dropout and linear layers for CPU cores, where PyTorch's own leave the matrix units idle.

All compute what PyTorch's do, or of the same distribution. On one core, bf16, a training step of the bundled model on SST-2
takes 0.88 of the time (batches of 32), on texts of 64 pieces 0.8; `python -m bdbench.perf` times the whole.

- Dropout draws 64 random bits for four elements, where `bernoulli_` makes one draw of a slow generator for each: 0.15 ms for
  163,000 elements instead of 1.0 ms.
- Attention is two batched products around a softmax in float32 over at least 16 keys, the narrowest that is vectorized. With
  dropout, where PyTorch takes an unfused path of safeguards, 32 texts of 13, 25 and 64 pieces take 0.8, 2.0 and 13 ms
  instead of 3.1, 4.7 and 25; without, 0.9, 1.1 and 8 instead of 2.7, 2.4 and 6, so from there on the two are even.
- Some cores have bf16 instructions that are slower than their float32 ones (Emerald Rapids without its tiles: 70 GFLOP/s
  against 125, where others do 210 against 90). Linear layers under bf16 autocast then multiply the same rounded numbers by
  float32 instructions: a training step takes 0.7 to 0.8 of the time, a prediction 0.7.
"""

from __future__ import annotations

import math
import time
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
    # compared by NumPy and taken for bytes: PyTorch compares int16, and makes numbers of truth values, ten times more slowly
    kept = (words.view(np.int16)[:size] >= dropped - 2**15).view(np.int8)
    return torch.from_numpy(kept).view(shape).to(dtype).mul_(2**16 / (2**16 - dropped))


class FastDropout(nn.Dropout):
    """`nn.Dropout` on `dropout_factors`."""

    def forward(self, x: Tensor) -> Tensor:
        return x * dropout_factors(x.shape, self.p, x.dtype) if self.training and self.p else x


class WidenedProduct(torch.autograd.Function):
    """x weight^T + bias as bf16 autocast computes it, and its gradients, by float32 instructions.

    `x` is (..., in), `weight` (out, in), `bias` (out,) or None. All are rounded to bf16 and multiplied exactly; the sums are in
    float32, and so are the gradients of `weight` and `bias`; the result and the gradient of `x` are rounded to bf16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.dtype = x.dtype
        x, weight = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(x, weight)
        with torch.autocast("cpu", enabled=False):
            return F.linear(x.float(), weight.float(), None if bias is None else bias.bfloat16().float()).bfloat16()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        flat = gradient.float().flatten(0, -2)
        with torch.autocast("cpu", enabled=False):
            return (
                (flat @ weight.float()).view(x.shape).bfloat16().to(ctx.dtype) if of_x else None,
                flat.t() @ x.float().flatten(0, -2) if of_weight else None,
                flat.sum(0) if of_bias else None,
            )


class WidenedLinear(nn.Linear):
    """`nn.Linear` on `WidenedProduct` under bf16 autocast."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        return WidenedProduct.apply(input, self.weight, self.bias)


@lru_cache
def widening_pays() -> bool:
    """Whether this machine multiplies float32 matrices faster than bf16 ones, by a quarter at least.

    Timed once per process, in turns. The margin keeps the answer the same from process to process, and so the bits of what a
    machine computes: machines are known on either side of it (a ratio of 1.8, and one of 0.4), none near.
    """
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(6):
        for dtype, taken in seconds.items():
            left, right = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
            began = time.perf_counter()
            left @ right
            taken.append(time.perf_counter() - began)
    return min(seconds[torch.bfloat16]) > 1.25 * min(seconds[torch.float32])


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
def cpu_kernels(model: nn.Module, precision: str) -> Iterator[None]:
    """Inside the block a model that lies on the CPU uses the functions above, in `precision`; afterwards it is as it was.

    Attention is exchanged where transformers would call PyTorch's fused one; a model with an attention of its own keeps it.
    """
    if next(model.parameters()).device.type != "cpu":
        yield
        return
    exchanged: dict[type, type] = {nn.Dropout: FastDropout}
    if precision == "bf16" and widening_pays():
        exchanged[nn.Linear] = WidenedLinear
    modules = [module for module in model.modules() if type(module) in exchanged]
    config = getattr(model, "config", None)  # a defense may wrap the classifier in a module of its own
    fused = getattr(config, "_attn_implementation", None) == "sdpa"
    for module in modules:
        module.__class__ = exchanged[type(module)]
    if fused:
        _register_attention()
        model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        for module in modules:
            module.__class__ = type(module).__base__
        if fused:
            model.set_attn_implementation("sdpa")
