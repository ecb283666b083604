"""The one training loop.

Tried and left out, with the bundled model on two cores: `torch.compile` (a step takes 1.2 times as long, after 80 s of
compiling), bf16 copies of the weights kept from step to step (saves 1 %), clipping inside the optimizer (1 %), batches cut into
smaller ones (nothing), huge pages (nothing), an encoder layer as one autograd function with its backward written by hand (1 %).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdbench.engine.batches import PADDING_WORTH_A_PASS, shuffled_batches, split_by_padding, split_for_memory
from bdbench.engine.embeddings import occurring_pieces
from bdbench.engine.encoding import Encoded
from bdbench.engine.kernels import cpu_kernels
from bdbench.engine.meter import TRAINING, advance
from bdbench.engine.precision import autocast
from bdbench.engine.trace import Trace
from bdbench.params import Hyperparameters, hp

# The model, the inputs of a batch by name, and its labels (b,) -> the mean loss of its rows, a scalar with a gradient. Any but
# `cross_entropy` is a loss of the caller's own, of which the loop takes nothing for granted (see `train`).
Loss = Callable[[nn.Module, dict[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Passes(Hyperparameters):
    """How often and in what portions the training rows are visited. All there is to say where the caller has an optimizer."""

    name = "training"

    epochs: int = hp(3, low=1, high=1000, help="passes over the training rows")
    batch_size: int = hp(32, low=1, high=4096, help="rows per optimizer step")

    def steps(self, rows: int) -> int:
        """The optimizer steps for this many rows. The last batch of an epoch may be smaller than the others."""
        return self.epochs * math.ceil(rows / self.batch_size)


@dataclass(frozen=True)
class Recipe(Passes):
    """How a classifier is trained: AdamW without weight decay, a linear warm-up, then a linear decay to zero."""

    learning_rate: float = hp(2e-5, low=0.0, high=1.0, help="AdamW's peak learning rate")
    warmup: float = hp(0.1, low=0.0, high=1.0, help="share of the steps in which the learning rate rises from zero")
    clip: float = hp(1.0, low=0.0, help="largest L2 norm of the whole gradient")


def cross_entropy(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """The ordinary loss of a classifier, in nats, averaged over the batch."""
    return F.cross_entropy(model(**inputs).logits.float(), labels)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak learning rate in (0, 1] at `step` of `steps`: linear up over the share `warmup`, linear down."""
    rising = max(1, round(warmup * steps)) if warmup else 0
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(1, steps - rising)


def train(
    model: nn.Module,
    rows: Encoded,
    recipe: Passes,
    *,
    seed: int,
    precision: str,
    trace: Trace | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    loss: Loss = cross_entropy,
) -> None:
    """Train `model` in place, dropout on, and leave it in evaluation mode.

    Without an `optimizer` every weight is trained, as the `recipe` says. It must be a Recipe then. An `optimizer` of the
    caller's own decides what is trained and how; neither a schedule nor clipping is applied, so it takes Passes alone.

    `seed` decides the order of the rows and the dropout. The process's own random state stays as it is. `precision` is "bf16"
    or "fp32". Cross entropy may be computed in parts of a batch: where that saves padding, or where the batch does not fit into
    the device's memory. Both change the gradient by rounding alone. `trace` gets the kernels that ran and one halved batch for
    each time that the parts became smaller.

    A `loss` of the caller's own gets every batch whole, on any device, since it need be no mean over rows. It is called with
    the model in training mode, and may insert pieces, ask other models, predict, or set a module's mode, which then stays.

    Raises TypeError if there is neither an optimizer nor a Recipe, FloatingPointError if the loss becomes NaN or infinite, and
    torch.OutOfMemoryError if a single row does not fit, or for a loss of the caller's own a batch. The model is then in
    evaluation mode, too.
    """
    trace = trace or Trace()
    if optimizer is not None:
        _descend(model, rows, recipe, seed, precision, optimizer, loss, trace)
        return
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"train() without an optimizer needs a Recipe (learning rate, warm-up, clip), not {type(recipe).__name__}; "
            "pass a Recipe, or an optimizer of your own"
        )
    # A loss of the caller's own may look up any piece.
    with occurring_pieces(model, rows) if loss is cross_entropy else nullcontext():
        adamw = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0, fused=True)
        _descend(model, rows, recipe, seed, precision, adamw, loss, trace, scheduled_by=recipe)


def _descend(
    model: nn.Module,
    rows: Encoded,
    passes: Passes,
    seed: int,
    precision: str,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    trace: Trace,
    scheduled_by: Recipe | None = None,
) -> None:
    """One optimizer step per batch. `scheduled_by` decides learning rates and clipping; None leaves both alone."""
    device = next(model.parameters()).device
    steps = passes.steps(len(rows))
    batches = shuffled_batches(rows.lengths, passes.epochs, passes.batch_size, torch.Generator().manual_seed(seed))
    backward = partial(_backward, model, rows, loss, device, precision)
    is_divisible = loss is cross_entropy  # the loss of a batch is known to be the mean of the losses of its rows
    most_padding = PADDING_WORTH_A_PASS[device.type] if is_divisible else math.inf
    total_loss = torch.zeros((), device=device)
    halvings = 0  # what did not fit once will not fit later, so they are kept from batch to batch
    with (
        _training_mode(model),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        cpu_kernels(model, precision) as kernels,
    ):
        trace.kernels |= kernels
        torch.manual_seed(seed)
        advance(TRAINING, 0, steps)
        for step, batch_rows in enumerate(batches):
            parts = split_by_padding(batch_rows, rows.lengths, most_padding)
            halvings_before = halvings
            batch_loss, halvings = _backward_in_memory(backward, optimizer, parts, halvings, is_divisible)
            trace.halved_batches += halvings - halvings_before
            if scheduled_by is not None:
                nn.utils.clip_grad_norm_(model.parameters(), scheduled_by.clip, foreach=True)
                for group in optimizer.param_groups:
                    group["lr"] = scheduled_by.learning_rate * schedule(step, steps, scheduled_by.warmup)
            optimizer.step()
            total_loss += batch_loss
            advance(TRAINING, step + 1, steps)
    if not torch.isfinite(total_loss):  # asked once, at the end: to ask is to wait for the device
        raise FloatingPointError(f"the training loss became {total_loss.item()}; lower the learning rate")


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in training mode, afterwards in evaluation mode and without gradients, whatever happened.

    The gradients of the last batch are of no use to anybody, and as large as the model.
    """
    model.train()
    try:
        yield
    finally:
        model.eval()
        for parameter in model.parameters():
            parameter.grad = None


def _backward_in_memory(
    backward: Callable[[Sequence[Tensor]], Tensor],
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Tensor],
    halvings: int,
    is_divisible: bool,
) -> tuple[Tensor, int]:
    """The gradients of one batch, from parts that are halved until each fits into the device's memory.

    Begins with 2**halvings pieces of every part. Returns the mean loss of the batch and the halvings that it took. Raises
    torch.OutOfMemoryError if a single row does not fit, or a part of a loss that is not `is_divisible`.
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        smaller_parts = split_for_memory(parts, halvings)
        try:
            return backward(smaller_parts), halvings
        except torch.OutOfMemoryError as error:
            if all(len(part) == 1 for part in smaller_parts):
                raise
            if not is_divisible:
                raise torch.OutOfMemoryError(
                    f"a batch of {len(parts[0])} rows does not fit into the device's memory, and a loss of your own gets every "
                    f"batch whole; lower batch_size ({error})"
                ) from error
        halvings += 1


def _backward(
    model: nn.Module, rows: Encoded, loss: Loss, device: torch.device, precision: str, parts: Sequence[Tensor]
) -> Tensor:
    """Add the gradients of the mean loss over the rows of all parts to the weights' own. Returns that loss, detached."""
    batch_size = sum(len(part) for part in parts)
    mean_loss = torch.zeros((), device=device)
    for part in parts:
        inputs, labels = rows.batch(part, device)
        # A loss of the caller's own may change weights and compute once more.
        with autocast(device, precision, weights_stay=loss is cross_entropy):
            share_of_loss = loss(model, inputs, labels) * (len(part) / batch_size)
        share_of_loss.backward()
        mean_loss += share_of_loss.detach()
    return mean_loss
