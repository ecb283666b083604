"""The speed of every contender at the same work, measured in turns, as a share of the machine's matrix rate."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from bdbench.engine.encoding import encode
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import Recipe
from bdbench.perf.contenders import BATCH, LOOPS, Contender
from bdbench.protocol.environment import peak_memory_mb
from bdbench.protocol.rows import rows_of
from bdbench.protocol.site import Site
from bdbench.protocol.victims import classifier
from bdbench.specs.work import VictimSpec

PARTS = ("training", "evaluation")
# FLOP per weight and word piece: a forward pass multiplies and adds once, and a backward pass takes two products as large.
FLOP_PER_WEIGHT = {"training": 6, "evaluation": 2}
# Rows of square matrices that are large enough to reach the device's full rate, and take well under a second.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
MATRIX_WARM_UPS, MATRIX_TIMINGS = 2, 7
# Rows of the first turn, which is not counted: two batches meet whatever happens once.
FIRST_TURN_ROWS = 2 * BATCH


@dataclass(frozen=True)
class Span:
    """One piece of work in one process: from and to, in seconds of the machine's monotonic clock, and the peak memory.

    The peak memory is the process's so far (on a GPU: the device's), in MiB.
    """

    began: float
    ended: float
    peak_memory: float


@dataclass(frozen=True)
class Turns:
    """What was measured: matrix rates in FLOP/s, seconds by contender and part, and peak memory in MiB by contender."""

    matrix_rates: list[float]
    seconds: dict[tuple[str, str], list[float]]
    memory: dict[str, float]


def race(spec: VictimSpec, site: Site, contenders: Mapping[str, Contender], rounds: int) -> dict[str, Any]:
    """The matrix rate, and each contender's speed in training and in evaluation, measured `rounds` times each."""
    turns = take_turns(spec, site, contenders, rounds)
    weights, sizes = non_embedding_parameters(classifier(spec, site)), sizes_of(spec, site)
    matrix_rate = median(turns.matrix_rates)
    result: dict[str, Any] = {"matrix_flops": matrix_rate, "non_embedding_parameters": weights, "contenders": {}}
    for name, contender in contenders.items():
        entry = asdict(contender) | {"peak_memory_mb": round(turns.memory[name])}
        for part in PARTS:
            examples, tokens = (size * contender.processes for size in sizes[part])
            flop = FLOP_PER_WEIGHT[part] * weights * tokens
            entry[part] = speed(turns.seconds[name, part], examples, tokens, flop, matrix_rate)
        result["contenders"][name] = entry
    return result


def take_turns(spec: VictimSpec, site: Site, contenders: Mapping[str, Contender], rounds: int) -> Turns:
    """Every contender's work, in processes of its own and in turns (A B C A B C ...), since a machine's speed drifts."""
    spawn = multiprocessing.get_context("spawn")
    turns = Turns([], {(name, part): [] for name in contenders for part in PARTS}, dict.fromkeys(contenders, 0.0))
    with ExitStack() as stack:
        pools = {
            name: [stack.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(contender.processes)]
            for name, contender in contenders.items()
        }
        for turn in range(rounds + 1):
            # A first, short turn takes what happens once: kernels are compiled, memory is fetched.
            counts = turn > 0
            most = None if counts else FIRST_TURN_ROWS
            site.enter()
            # With bf16 the best of both counts: there are machines whose float32 instructions are the faster ones.
            rate = max(matrix_rate(site.torch_device(), precision) for precision in {spec.precision, "fp32"})
            if counts:
                turns.matrix_rates.append(rate)
            for name, part in turns.seconds:
                jobs = [pool.submit(work, contenders[name], part, spec, site, most) for pool in pools[name]]
                spans = [job.result() for job in jobs]
                if counts:
                    first, last = min(span.began for span in spans), max(span.ended for span in spans)
                    turns.seconds[name, part].append(last - first)
                    turns.memory[name] = max(turns.memory[name], *(span.peak_memory for span in spans))
    return turns


def work(contender: Contender, part: str, spec: VictimSpec, site: Site, most: int | None = None) -> Span:
    """Train or evaluate in the calling process, on the spec's rows or on the first `most` of them. Only that is timed."""
    replace(site, threads=contender.threads).enter()
    texts = rows_of(spec, site).train if part == "training" else rows_of(spec, site).test
    rows = encode(load_tokenizer(site.model), texts.take(np.arange(len(texts))[:most]), spec.max_length)
    model = classifier(spec, site)
    loop = LOOPS[contender.loop]
    began = time.monotonic()
    if part == "training":
        loop.train(model, rows, Recipe(epochs=1, batch_size=BATCH), 0, spec.precision)
    else:
        loop.predict(model, rows, spec.precision)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
        return Span(began, time.monotonic(), torch.cuda.max_memory_allocated() / 2**20)
    return Span(began, time.monotonic(), peak_memory_mb())


def speed(seconds: Sequence[float], examples: int, tokens: int, flop: float, matrix_rate: float) -> dict[str, Any]:
    """Rates per second by the median of `seconds`, and the range of the rate of examples, lowest and highest."""
    typical = median(seconds)
    return {
        "examples_per_second": examples / typical,
        "range": [examples / max(seconds), examples / min(seconds)],
        "tokens_per_second": tokens / typical,
        "flops": flop / typical,
        "share_of_matrix_rate": flop / typical / matrix_rate,
    }


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of a product of two large square matrices in this precision, on this process's threads: the median rate."""
    side = MATRIX_SIDE[device.type]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(MATRIX_WARM_UPS + MATRIX_TIMINGS):
        began = time.perf_counter()
        (left @ right)[0, 0].item()  # reading a number waits for the device
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / median(seconds[MATRIX_WARM_UPS:])


def non_embedding_parameters(model: nn.Module) -> int:
    """About the number of weights that take part in matrix products: all but those of the embedding matrices."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return sum(weight.numel() for weight in model.parameters()) - sum(module.weight.numel() for module in embeddings)


def sizes_of(spec: VictimSpec, site: Site) -> dict[str, tuple[int, int]]:
    """By part: the number of texts, and that of their word pieces without padding."""
    rows, tokenizer = rows_of(spec, site), load_tokenizer(site.model)
    texts_by_part = dict(zip(PARTS, (rows.train, rows.test), strict=True))
    lengths = {part: encode(tokenizer, texts, spec.max_length).lengths for part, texts in texts_by_part.items()}
    return {part: (len(of_part), int(of_part.sum())) for part, of_part in lengths.items()}
