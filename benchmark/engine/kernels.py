"""Attention, dropout and linear layers for CPU cores, where PyTorch's own leave the matrix units idle.

All compute what PyTorch's do, or draw from the same distribution. They change how sums are rounded, and which random numbers
are drawn. On one core, in bf16, a training step of the bundled model on SST-2 takes 0.88 of the time (batches of 32), on texts
of 64 pieces 0.8; `python -m bdbench.perf` times the whole.

- "dropout" draws 64 random bits for four elements. PyTorch's `bernoulli_` calls a slow generator for each element. 163,000
  elements take 0.15 ms instead of 1.0 ms.
- "attention" is two batched products around a softmax in float32, over at least 16 keys. With dropout, PyTorch takes an
  unfused path with safeguards: 32 texts of 13, 25 and 64 pieces take 0.8, 2.0 and 13 ms instead of 3.1, 4.7 and 25. Without
  dropout they take 0.9, 1.1 and 8 ms instead of 2.7, 2.4 and 6; from 64 pieces on the two are even.
- "widened-linear" is for cores whose bf16 instructions are slower than their float32 ones (Emerald Rapids without its tiles:
  70 GFLOP/s against 125; other cores do 210 against 90). There a linear layer under bf16 autocast multiplies the same rounded
  numbers by float32 instructions. A training step takes 0.7 to 0.8 of the time, a prediction 0.7.
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
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

ATTENTION = "bdbench-cpu"  # what transformers calls our attention
FUSED_ATTENTION = "sdpa"  # what transformers calls PyTorch's own

# float32 numbers in the widest vector registers (512 bits). A softmax over fewer keys is not vectorized.
VECTOR = 16

# An element is dropped by comparing 16 random bits with a threshold. One 64-bit word holds the bits of four elements.
LEVELS = 2**16
ELEMENTS_PER_WORD = 4
SEEDS = 2**62  # torch.randint draws below 2**63 - 1

# bf16 products must take this much longer than float32 ones before linear layers are widened. Machines are known with a ratio
# of 1.8 and of 0.4, and none near the margin, so the answer is the same at each timing.
WIDENING_MARGIN = 1.25
TIMINGS = 6  # of each kind, in turns; the fastest counts, since other work on the machine only ever slows one down


def dropout_factors(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """Independent factors: 0 with probability `p` (to the nearest 2**-16), else 1 / (1 - p), so that the mean is 1.

    The randomness comes from torch's global generator on the CPU.
    """
    dropped_levels = round(p * LEVELS)
    if dropped_levels == LEVELS:
        return torch.zeros(shape, dtype=dtype)
    size = math.prod(shape)
    generator = np.random.SFC64(int(torch.randint(SEEDS, ())))
    words = generator.random_raw(math.ceil(size / ELEMENTS_PER_WORD))
    levels = words.view(np.int16)[:size]  # from -LEVELS / 2 to LEVELS / 2 - 1
    # NumPy compares int16 ten times faster than PyTorch, so it makes the mask. PyTorch turns bytes into floats ten times faster
    # than it does truth values, so the mask is passed as bytes.
    is_kept = (levels >= dropped_levels - LEVELS // 2).view(np.int8)
    return torch.from_numpy(is_kept).view(shape).to(dtype).mul_(LEVELS / (LEVELS - dropped_levels))


class FastDropout(nn.Dropout):
    """`nn.Dropout` on `dropout_factors`."""

    def forward(self, x: Tensor) -> Tensor:
        return x * dropout_factors(x.shape, self.p, x.dtype) if self.training and self.p else x


class WidenedProduct(torch.autograd.Function):
    """x weight^T + bias as bf16 autocast computes it, and its gradients, by float32 instructions.

    `x` is (..., in), `weight` (out, in), `bias` (out,) or None. All are rounded to bf16; their products are exact in float32,
    and the sums are in float32. The result and the gradient of `x` are rounded to bf16; the gradients of `weight` and `bias`
    are float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.dtype = x.dtype
        x, weight = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(x, weight)
        with torch.autocast("cpu", enabled=False):
            return F.linear(x.float(), weight.float(), None if bias is None else bias.bfloat16().float()).bfloat16()

    @staticmethod
    @once_differentiable  # what is saved is rounded outside of the graph, so that a second derivative would lack parts
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat = gradient.float().flatten(0, -2)
        with torch.autocast("cpu", enabled=False):
            return (
                (flat @ weight.float()).view(x.shape).bfloat16().to(ctx.dtype) if needs_x else None,
                flat.t() @ x.float().flatten(0, -2) if needs_weight else None,
                flat.sum(0) if needs_bias else None,
            )


class WidenedLinear(nn.Linear):
    """`nn.Linear` on `WidenedProduct` under bf16 autocast."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        return WidenedProduct.apply(input, self.weight, self.bias)


_widened: bool | None = None  # what `use_widened_linear` was told


def use_widened_linear(widened: bool | None) -> None:
    """Decide for this process whether linear layers are widened under bf16; None leaves it to `widening_pays`.

    A widened layer sums in another order, so it gives other bits. Were each worker of a run to time its own core, one that was
    disturbed could decide otherwise than the rest, and the same cell would come out differently there. So whoever starts the
    work times once and tells every worker.
    """
    global _widened
    _widened = widened


def widens_linear() -> bool:
    """Whether linear layers are widened under bf16 in this process: as it was told, or else by timing."""
    return widening_pays() if _widened is None else _widened


@lru_cache
def widening_pays() -> bool:
    """Whether this machine multiplies float32 matrices faster than bf16 ones, by a clear margin. Timed once per process."""
    fastest = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(TIMINGS):
        for dtype in fastest:
            fastest[dtype] = min(fastest[dtype], _seconds_of_product(dtype))
    return fastest[torch.bfloat16] > WIDENING_MARGIN * fastest[torch.float32]


def _seconds_of_product(dtype: torch.dtype) -> float:
    """Seconds of a product as in the bundled model's feed-forward layer (384 to 1536 wide), for 512 word pieces."""
    left, right = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
    began = time.perf_counter()
    left @ right
    return time.perf_counter() - began


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

    `query`, `key` and `value` are (n, heads, pieces, width). The mask is added and broadcasts to (n, heads, pieces, pieces).
    The result is (n, pieces, heads, width).
    """
    pieces = key.shape[-2]
    mask = query.new_zeros(pieces, dtype=torch.float32) if attention_mask is None else attention_mask
    added_keys = max(0, VECTOR - pieces)
    if added_keys:  # masked, so they get no weight
        key, value = F.pad(key, (0, 0, 0, added_keys)), F.pad(value, (0, 0, 0, added_keys))
        mask = F.pad(mask, (0, added_keys), value=torch.finfo(mask.dtype).min)
    scores = torch.add(mask, (query @ key.transpose(-1, -2)).float(), alpha=scaling)
    weights = scores.softmax(-1)
    if dropout:
        weights = weights * dropout_factors(weights.shape, dropout, weights.dtype)
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous(), None


@lru_cache
def _register_attention() -> None:
    # Imported here: transformers takes a second or two, which a process without a model need not spend.
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


@contextmanager
def cpu_kernels(model: nn.Module, precision: str) -> Iterator[frozenset[str]]:
    """Inside the block a model that lies on the CPU uses the kernels above, in `precision`; afterwards it is as it was.

    Yields the names of those that take the place of PyTorch's own: "attention", "dropout", "widened-linear". Dropout is among
    them where it drops something: in training mode. Enter the block in the mode that the model is used in. Blocks may be
    nested: what a block around this one has exchanged is named and stays until that one ends.
    """
    if next(model.parameters()).device.type != "cpu":
        yield frozenset()
        return
    with _exchanged_modules(model, precision) as module_kernels, _exchanged_attention(model) as attention_kernels:
        yield module_kernels | attention_kernels


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Inside the block the gradients of what the model computes can be differentiated again.

    That is for a loss in which gradients occur. Neither `WidenedProduct` nor PyTorch's fused attention allows it, so the block
    does without both.
    """
    widened = [module for module in model.modules() if type(module) is WidenedLinear]
    for module in widened:
        module.__class__ = nn.Linear
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module in widened:
            module.__class__ = WidenedLinear


@contextmanager
def _exchanged_modules(model: nn.Module, precision: str) -> Iterator[frozenset[str]]:
    """Inside the block dropout and linear modules are of our classes. Modules of any other class stay, subclasses too."""
    exchanged: dict[type, type] = {nn.Dropout: FastDropout}
    if precision == "bf16" and widens_linear():
        exchanged[nn.Linear] = WidenedLinear
    modules = [module for module in model.modules() if type(module) in exchanged]
    for module in modules:
        module.__class__ = exchanged[type(module)]
    try:
        yield frozenset(name for module in model.modules() if (name := _kernel_name(module)))
    finally:
        for module in modules:
            module.__class__ = type(module).__base__


def _kernel_name(module: nn.Module) -> str | None:
    """The kernel that the module is; None for any other module, and for dropout that drops nothing."""
    if type(module) is WidenedLinear:
        return "widened-linear"
    return "dropout" if type(module) is FastDropout and module.training and module.p else None


@contextmanager
def _exchanged_attention(model: nn.Module) -> Iterator[frozenset[str]]:
    """Inside the block our attention runs where transformers would call PyTorch's fused one.

    A model with an attention of its own keeps it. So does a module of a defense's own around a classifier, also one that shows
    the classifier's configuration.
    """
    config = getattr(model, "config", None)
    implementation = getattr(config, "_attn_implementation", None)
    if implementation != FUSED_ATTENTION or not hasattr(model, "set_attn_implementation"):
        yield frozenset({"attention"} if implementation == ATTENTION else ())
        return
    _register_attention()
    model.set_attn_implementation(ATTENTION)
    # transformers warns and changes nothing where a model cannot change its attention
    is_exchanged = config._attn_implementation == ATTENTION
    try:
        yield frozenset({"attention"} if is_exchanged else ())
    finally:
        model.set_attn_implementation(FUSED_ATTENTION)
