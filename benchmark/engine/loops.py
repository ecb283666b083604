"""The one training loop and the one prediction loop.

What makes them fast: bf16 autocast where the machine multiplies bf16 natively, the fused AdamW, batches of texts of similar
length padded to their own longest, an embedding matrix cut down to the word pieces that occur, texts tokenized once into one
tensor, dropout, attention and linear layers made for a CPU (`kernels`), and nothing in the loop that waits for the device.
Tried and left out, with the bundled model on two cores: `torch.compile` (a step takes 1.2 times as long, after 80 s of
compiling), bf16 copies of the weights kept from step to step (1 %), clipping inside the optimizer (1 %), batches cut into
smaller ones (none), huge pages (none), an encoder layer as one autograd function with its backward written by hand (1 %).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bdbench.data import TextSet
from bdbench.engine.kernels import cpu_kernels
from bdbench.params import Hyperparameters, hp

Loss = Callable[[nn.Module, dict[str, Tensor], Tensor], Tensor]

# Batches are cut from windows of this many batches, sorted by length inside: wide enough to waste little padding, narrow
# enough that a large training set is still visited in random order.
WINDOW = 64

# Word pieces in one batch of predictions, padding included: enough to keep the matrix units busy, and on a CPU few enough to
# stay in its caches (measured from 512 to 4096: 1024 is the best or within 4 % of it).
PIECES_AT_ONCE = {"cpu": 1024, "cuda": 2**16}

# Word pieces of padding that cost as much time as one more pass over part of a batch. On a CPU 25 ms or 70 pieces with the
# bundled model, and both in proportion to the model's size; on a GPU a pass costs more than the padding of any batch.
PASS = {"cpu": 70, "cuda": 2**16}


@dataclass(frozen=True)
class Recipe(Hyperparameters):
    """How a classifier is trained: AdamW, linear warm-up, then linear decay to zero."""

    name = "training"

    epochs: int = hp(3, low=1, high=1000, help="passes over the training rows")
    learning_rate: float = hp(2e-5, low=0.0, high=1.0, help="AdamW's peak learning rate")
    batch_size: int = hp(32, low=1, high=4096, help="rows per optimizer step")
    warmup: float = hp(0.1, low=0.0, high=1.0, help="share of the steps in which the learning rate rises from zero")
    clip: float = hp(1.0, low=0.0, help="largest L2 norm of the whole gradient")


@dataclass(frozen=True, eq=False)
class Encoded:
    """n tokenized rows in one block, on the CPU, padded on the right to the longest of all.

    `ids` and `types` are (n, longest) int32 (`types` is None for models without token types), `lengths` (n,) int64
    counts the real pieces, `labels` is (n,) int64.
    """

    ids: Tensor
    types: Tensor | None
    lengths: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        """The model's inputs and the labels of these rows, cut to their longest, on `device`."""
        longest = int(self.lengths[rows].max())
        inputs = {
            "input_ids": self.ids[rows, :longest].long(),
            "attention_mask": (torch.arange(longest) < self.lengths[rows, None]).long(),
        }
        if self.types is not None:
            inputs["token_type_ids"] = self.types[rows, :longest].long()
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
        return inputs, self.labels[rows].to(device, non_blocking=True)


def encode(tokenizer: PreTrainedTokenizerBase, rows: TextSet, max_length: int) -> Encoded:
    """Tokenize every row once, cut at `max_length` pieces (of a pair the longer text is cut first)."""
    second = None if rows.second is None else list(rows.second)
    encoding = tokenizer(list(rows.first), second, truncation=True, max_length=max_length, padding=False)
    lengths = torch.tensor([len(ids) for ids in encoding["input_ids"]])
    real = torch.arange(int(lengths.max())) < lengths[:, None]

    def block(column: list[list[int]], fill: int) -> Tensor:
        flat = torch.tensor([piece for row in column for piece in row], dtype=torch.int32)
        return torch.full(real.shape, fill, dtype=torch.int32).masked_scatter_(real, flat)

    types = block(encoding["token_type_ids"], 0) if "token_type_ids" in encoding else None
    return Encoded(block(encoding["input_ids"], tokenizer.pad_token_id), types, lengths, torch.tensor(rows.labels))


def cross_entropy(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """The ordinary loss of a classifier, in nats, averaged over the batch."""
    return F.cross_entropy(model(**inputs).logits.float(), labels)


def train(
    model: nn.Module,
    rows: Encoded,
    recipe: Recipe,
    *,
    seed: int,
    precision: str,
    optimizer: torch.optim.Optimizer | None = None,
    loss: Loss = cross_entropy,
) -> None:
    """Train `model` in place, dropout on, and leave it in evaluation mode.

    `seed` decides the order of the rows and the dropout; the process's own random state is untouched. An `optimizer` that
    is passed in decides what is trained, at its own constant learning rate and with unclipped gradients; otherwise every
    weight is trained by AdamW on the recipe's schedule, without weight decay. Raises FloatingPointError if the loss becomes
    NaN or infinite.
    """
    if optimizer is None:
        with occurring_pieces(model, rows) as restricted:
            adamw = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0, fused=True)
            _descend(model, restricted, recipe, seed, precision, adamw, loss, scheduled=True)
    else:
        _descend(model, rows, recipe, seed, precision, optimizer, loss, scheduled=False)


def _descend(
    model: nn.Module,
    rows: Encoded,
    recipe: Recipe,
    seed: int,
    precision: str,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    scheduled: bool,
) -> None:
    device = next(model.parameters()).device
    steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    order = torch.Generator().manual_seed(seed)
    total = torch.zeros((), device=device)
    halvings = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), cpu_kernels(model, precision):
        torch.manual_seed(seed)
        model.train()
        for step, chosen in enumerate(_batches(rows.lengths, recipe, order)):
            batch_loss = None
            while batch_loss is None:
                optimizer.zero_grad(set_to_none=True)
                parts = [part for cut in level_cuts(chosen, rows.lengths, PASS[device.type]) for part in cut.chunk(2**halvings)]
                try:
                    batch_loss = _backward(model, rows, parts, loss, device, precision)
                except torch.OutOfMemoryError:
                    if len(parts) == len(chosen):
                        raise
                    halvings += 1
            if scheduled:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip, foreach=True)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * schedule(step, steps, recipe.warmup)
            optimizer.step()
            total += batch_loss
        model.eval()
    if not torch.isfinite(total):
        raise FloatingPointError(f"the training loss became {total.item()}; lower the learning rate")


def level_cuts(chosen: Tensor, lengths: Tensor, most: int) -> list[Tensor]:
    """The rows `chosen`, which are in order of length, cut apart wherever that saves more than `most` pieces of padding."""
    ascending = lengths[chosen]
    saved = torch.arange(1, len(chosen)) * (ascending[-1] - ascending[:-1])
    if not len(saved) or saved.max() <= most:
        return [chosen]
    cut = int(saved.argmax()) + 1
    return level_cuts(chosen[:cut], lengths, most) + level_cuts(chosen[cut:], lengths, most)


def _backward(
    model: nn.Module, rows: Encoded, parts: Sequence[Tensor], loss: Loss, device: torch.device, precision: str
) -> Tensor:
    """Add to the weights' gradients those of the mean loss over the rows of all parts together; that loss, detached."""
    size = sum(len(part) for part in parts)
    total = torch.zeros((), device=device)
    for part in parts:
        inputs, labels = rows.batch(part, device)
        with autocast(device, precision):
            share = loss(model, inputs, labels) * (len(part) / size)
        share.backward()
        total += share.detach()
    return total


@contextmanager
def occurring_pieces(model: nn.Module, rows: Encoded) -> Iterator[Encoded]:
    """Inside the block the model's word-embedding matrix has only the pieces that occur in `rows`, and the rows yielded
    are numbered accordingly; afterwards the full matrix is back, with what the pieces have learned.

    Exact without weight decay: a piece that does not occur has no gradient, so AdamW leaves it as it is.
    """
    full = model.get_input_embeddings()
    # the pieces up to the padding piece stay, so that padding keeps its number: RoBERTa counts positions by it
    first = torch.arange((full.padding_idx or 0) + 1, dtype=rows.ids.dtype)
    occurring = torch.cat([rows.ids.flatten(), first]).unique()
    pieces = occurring.to(full.weight.device)
    small = nn.Embedding(len(pieces), full.embedding_dim, full.padding_idx, _weight=full.weight.detach()[pieces])
    model.set_input_embeddings(small)
    try:
        yield replace(rows, ids=torch.searchsorted(occurring, rows.ids).to(rows.ids.dtype))
    finally:
        model.set_input_embeddings(full)
        with torch.no_grad():
            full.weight[pieces] = small.weight


def word_embeddings(model: nn.Module) -> tuple[str, nn.Parameter]:
    """The name and the weights, (pieces, width), of the model's word-embedding matrix."""
    matrix = model.get_input_embeddings().weight
    return next(name for name, parameter in model.named_parameters() if parameter is matrix), matrix


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak learning rate in (0, 1] at `step` of `steps`: linear up over the share `warmup`, linear down."""
    rising = max(1, round(warmup * steps)) if warmup else 0
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(1, steps - rising)


def predict(model: nn.Module, rows: Encoded, *, precision: str) -> Tensor:
    """Logits (n, classes) float32 on the CPU, in the order of `rows`; computed in batches of similar length.

    A batch that does not fit on the device is cut in halves.
    """
    device = next(model.parameters()).device
    model.eval()
    order = rows.lengths.argsort(stable=True)
    batches = [order[cut] for cut in even_cuts(rows.lengths[order].tolist(), PIECES_AT_ONCE[device.type])]
    logits_of = functools.partial(_logits, model, rows, device=device, precision=precision)
    threads = torch.get_num_threads()
    with cpu_kernels(model, precision):
        if device.type == "cpu" and threads > 1:
            # a batch a thread wastes less than all threads on one batch: 1.2 times as fast on two cores
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                logits = list(pool.map(logits_of, batches))
            torch.set_num_threads(threads)  # the pool's setting is also what later threads would begin with
        else:
            logits = [logits_of(batch) for batch in batches]
    return torch.cat(logits).cpu()[order.argsort()]


@torch.inference_mode()
def _logits(model: nn.Module, rows: Encoded, chosen: Tensor, device: torch.device, precision: str) -> Tensor:
    inputs, _ = rows.batch(chosen, device)
    try:
        with autocast(device, precision):
            return model(**inputs).logits.float()
    except torch.OutOfMemoryError:
        if len(chosen) == 1:
            raise
    return torch.cat([_logits(model, rows, half, device, precision) for half in chosen.chunk(2)])


def even_cuts(lengths: list[int], pieces: int) -> list[slice]:
    """Cut rows of ascending lengths into runs of at most `pieces` word pieces, padded to the longest, and at least one row."""
    cuts, first = [], 0
    for i, length in enumerate(lengths):
        if i > first and (i + 1 - first) * length > pieces:
            cuts.append(slice(first, i))
            first = i
    return [*cuts, slice(first, len(lengths))]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which matrix products run in `precision` ("bf16" or "fp32")."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def native_precision(device: torch.device) -> str:
    """ "bf16" where the device multiplies bf16 in hardware, else "fp32"."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def _batches(lengths: Tensor, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """The rows of every step: each epoch visits each row once, rows of similar length together, batches shuffled."""
    for _ in range(recipe.epochs):
        shuffled = torch.randperm(len(lengths), generator=generator)
        batches = [
            batch
            for window in shuffled.split(WINDOW * recipe.batch_size)
            for batch in window[lengths[window].argsort(stable=True)].split(recipe.batch_size)
        ]
        for i in torch.randperm(len(batches), generator=generator):
            yield batches[i]
