"""The one prediction loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bdbench.engine.batches import PIECES_AT_ONCE, split_by_length
from bdbench.engine.encoding import Encoded
from bdbench.engine.kernels import cpu_kernels
from bdbench.engine.meter import EVALUATION, counted
from bdbench.engine.precision import autocast
from bdbench.engine.trace import Trace


def predict(model: nn.Module, rows: Encoded, *, precision: str, trace: Trace | None = None) -> Tensor:
    """Logits, (n, classes) float32 on the CPU without a gradient, in the order of `rows`. Computed in evaluation mode.

    Afterwards each module is in the mode that it was in. So a loss may ask for predictions, of the model in training or of
    another one, and goes on as if it had not.

    `precision` is "bf16" or "fp32". A batch that does not fit into the device's memory is cut in halves; raises
    torch.OutOfMemoryError if a single row does not fit. `trace` gets the kernels that ran and one halved batch per cut.
    """
    trace = trace or Trace()
    device = device_of(model)
    by_length = rows.lengths.argsort(stable=True)
    runs = split_by_length(rows.lengths[by_length].tolist(), PIECES_AT_ONCE[device.type])
    batches = [by_length[run] for run in runs]
    logits_of = partial(_logits_in_parts, model, rows, device=device, precision=precision)
    threads = torch.get_num_threads()
    with _evaluation_mode(model), cpu_kernels(model, precision) as kernels:
        if device.type == "cpu" and threads > 1:
            parts_by_batch = _a_batch_per_thread(logits_of, batches, threads)
        else:
            parts_by_batch = list(counted(EVALUATION, map(logits_of, batches), len(batches)))
    trace.kernels |= kernels
    trace.halved_batches += sum(len(parts) - 1 for parts in parts_by_batch)
    logits = torch.cat([part for parts in parts_by_batch for part in parts])
    return logits.cpu()[by_length.argsort()]


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters lie. Raises ValueError if it has none, or if nothing is computed there."""
    devices = {parameter.device for parameter in model.parameters()}
    if not devices:
        raise ValueError(f"the model, a {type(model).__name__}, has no parameters")
    if any(device.type not in PIECES_AT_ONCE for device in devices):
        raise ValueError(f"the model's parameters lie on {', '.join(sorted(map(str, devices)))}, where nothing is computed")
    return next(model.parameters()).device


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in evaluation mode. Afterwards each of its modules is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])  # for modules that do more than note the mode
        for module, is_training in modes:
            module.training = is_training


def _a_batch_per_thread(
    logits_of: Callable[[Tensor], list[Tensor]], batches: Sequence[Tensor], threads: int
) -> list[list[Tensor]]:
    """`logits_of` every batch, each on one thread: 1.2 times as fast on two cores as all threads on one batch at a time."""
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(counted(EVALUATION, pool.map(logits_of, batches), len(batches)))
    finally:
        # Later threads begin with the number that was set last, in whichever thread: with the pool's.
        torch.set_num_threads(threads)


@torch.inference_mode()
def _logits_in_parts(model: nn.Module, rows: Encoded, batch_rows: Tensor, device: torch.device, precision: str) -> list[Tensor]:
    """The logits of one batch, in one part, or in one part more for every cut that memory forced."""
    inputs, _ = rows.batch(batch_rows, device)
    try:
        with autocast(device, precision):
            return [_logits(model(**inputs), len(batch_rows))]
    except torch.OutOfMemoryError:
        if len(batch_rows) == 1:
            raise
    # After the except block, so that nothing refers to the failed attempt's memory any more.
    first, second = batch_rows.chunk(2)
    logits_in_parts = [_logits_in_parts(model, rows, half, device, precision) for half in (first, second)]
    return [*logits_in_parts[0], *logits_in_parts[1]]


def _logits(output: Any, rows: int) -> Tensor:
    """The logits in what the model returned. Raises TypeError if there are none, ValueError unless each text has a row."""
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(f"the model returns {type(output).__name__}, without logits; a classifier returns them as `.logits`")
    if logits.shape[:1] != (rows,):
        raise ValueError(f"the model gives logits of shape {tuple(logits.shape)} for a batch of {rows} texts")
    return logits.float()
