"""The probe of a model, before anything is trained: whatever would fail afterwards is one line now.

Two texts of different length, one cut at the longest that is asked for, go through the model together and alone, and through
one step of training, as the run would do it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bdbench.data import TextSet
from bdbench.engine.classifiers import declared_positions, pretrained_classifier
from bdbench.engine.encoding import Encoded, encode
from bdbench.engine.findings import find_out
from bdbench.engine.folders import FileStamp, config_file, digests_by_name, stamps, tokenizer_files, weights_files
from bdbench.engine.prediction import predict
from bdbench.engine.quiet import quiet_transformers
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import Recipe, train
from bdbench.errors import UsageError, first_line

SHORTEST_MAX_LENGTH = 8  # word pieces: the special ones of a pair, a trigger, and some text
LONGEST_MAX_LENGTH = 4096  # also for a model without a limit: memory can grow with the square of it
WORDS = ("the", "film", "was", "good", "and", "a", "bad", "story")

# What padding may change: as rounding does, relative to the largest logit, or next to nothing of what the text changes.
ROUNDING = 1e-5
SHARE_OF_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Probed:
    """The precision in which the model computes; and if it is not the one asked for, why, in a few words."""

    precision: str
    why_not_asked: str | None = None


def probe(folder: Path, classes: int, *, max_length: int, paired: bool, precision: str, device: torch.device) -> Probed:
    """Try the model in `folder` on texts, or on pairs, of up to `max_length` word pieces.

    `precision` is "bf16" or "fp32". A model that fails in bf16 and not in fp32 gets fp32. Raises UsageError if the model cannot
    be trained here, with the reason. Each question is answered once per process, until a file of the model changes, and that
    a model can be trained on the CPU is kept (see `findings`). The process's random state, number of threads and default type
    stay as they are.
    """
    files = stamps({config_file(folder), *weights_files(folder), *tokenizer_files(folder)})
    return _probe(folder, files, classes, max_length, paired, precision, device)


@lru_cache(maxsize=32)
def _probe(
    folder: Path,
    files: tuple[FileStamp, ...],
    classes: int,
    max_length: int,
    paired: bool,
    precision: str,
    device: torch.device,
) -> Probed:
    """`files` are all that decide the answer beside the question."""

    def answer() -> dict[str, str | None]:
        return asdict(_try(folder, classes, max_length, paired, precision, device))

    if device.type != "cpu":  # what is known of another device is too little to know it by
        return Probed(**answer())
    asked = {"classes": classes, "max_length": max_length, "paired": paired, "precision": precision}
    return Probed(**find_out({"what": "probe", "files": digests_by_name(files), **asked}, answer))


def _try(folder: Path, classes: int, max_length: int, paired: bool, precision: str, device: torch.device) -> Probed:
    with _process_unchanged(device), quiet_transformers():
        tokenizer, model = load_tokenizer(folder), pretrained_classifier(folder, classes)
        _check_vocabulary(folder, model, tokenizer)
        rows = _rows_that_fit(folder, model, tokenizer, max_length, paired)
        _check_padding(folder, model, tokenizer, rows, classes)
        reason = _why_untrainable(model, rows, precision, device)
        if reason is None:
            return Probed(precision)
        if precision == "bf16" and _why_untrainable(model, rows, "fp32", device) is None:
            return Probed("fp32", reason)
    raise UsageError(f"--model {folder}: a '{_kind(model)}' model cannot be trained here: {reason}")


@contextmanager
def _process_unchanged(device: torch.device) -> Iterator[None]:
    """Random state, number of threads and default type are afterwards as they were."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # the head, and whatever else the checkpoint lacks
            torch.set_num_threads(1)  # two texts are little work, and threads wait for each other where others work, too
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def _check_vocabulary(folder: Path, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UsageError if the tokenizer has a piece that the model has no word embedding for."""
    try:
        embeddings = model.get_input_embeddings().weight.shape[0]
    except Exception as error:  # whatever a model without such a matrix raises
        raise UsageError(
            f"--model {folder}: a '{_kind(model)}' model has no matrix of word embeddings: {first_line(error)}"
        ) from error
    piece, number = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if number >= embeddings:
        raise UsageError(
            f"--model {folder}: its tokenizer has the piece {piece!r:.30} with number {number}, but the model has word "
            f"embeddings for 0 to {embeddings - 1}; call model.resize_token_embeddings(len(tokenizer)) and save both again"
        )


def _rows_that_fit(
    folder: Path, model: nn.Module, tokenizer: PreTrainedTokenizerBase, max_length: int, paired: bool
) -> Encoded:
    """The two texts, the longer one cut at `max_length` pieces. Raises UsageError if the model has no positions for it."""
    declared = min(declared_positions(folder) or LONGEST_MAX_LENGTH, LONGEST_MAX_LENGTH)
    reason = None
    if max_length <= declared:
        rows = _rows(folder, tokenizer, max_length, paired)
        reason = _why_not_run(model, rows)
        if reason is None:
            return rows

    def runs(length: int) -> bool:
        return _why_not_run(model, _rows(folder, tokenizer, length, paired)) is None

    if not runs(SHORTEST_MAX_LENGTH):
        raise UsageError(f"--model {folder}: a '{_kind(model)}' model cannot classify text here: {reason}")
    usable, too_long = SHORTEST_MAX_LENGTH, min(max_length, declared + 1)
    while too_long - usable > 1:
        middle = (usable + too_long) // 2
        usable, too_long = (middle, too_long) if runs(middle) else (usable, middle)
    raise UsageError(
        f"--max-length {max_length} is outside [{SHORTEST_MAX_LENGTH}, {usable}], the positions of {folder.name}: "
        f"it takes at most {usable} word pieces"
    )


def _rows(folder: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, paired: bool) -> Encoded:
    long_text = " ".join(WORDS[i % len(WORDS)] for i in range(max_length))
    texts = (long_text, " ".join(WORDS[:3]))
    try:
        return encode(tokenizer, TextSet(texts, texts if paired else None, np.array([0, 1])), max_length)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise UsageError(f"--model {folder}: its tokenizer cannot encode a text: {first_line(error)}") from error


def _why_not_run(model: nn.Module, rows: Encoded) -> str | None:
    """Why the model fails on the rows, on the CPU, where an index out of range is an exception; None if it runs."""
    try:
        _logits(model, rows, [0, 1])
    except Exception as error:  # whatever a model raises is the reason
        return first_line(error)
    return None


@torch.inference_mode()
def _logits(model: nn.Module, rows: Encoded, chosen: list[int]) -> Tensor:
    """(chosen, classes) float32."""
    inputs, _ = rows.batch(torch.tensor(chosen), torch.device("cpu"))
    return model(**inputs).logits.float()


def _check_padding(folder: Path, model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Encoded, classes: int) -> None:
    """Raises UsageError if the logits are not finite, or if a text's are others beside a longer text, behind padding."""
    together = _logits(model, rows, [0, 1])
    if together.shape != (2, classes) or not torch.isfinite(together).all():
        shape = "x".join(map(str, together.shape))
        raise UsageError(
            f"--model {folder}: its logits for 2 texts are NaN, infinite or {shape}, not 2x{classes} finite numbers"
        )
    alone = torch.cat([_logits(model, rows, [0]), _logits(model, rows, [1])])
    changed = float((together - alone).abs().max())
    difference = float((alone[0] - alone[1]).abs().max())
    if changed > ROUNDING * float(alone.abs().max()) and changed > SHARE_OF_DIFFERENCE * difference:
        numbers = (model.config.pad_token_id, tokenizer.pad_token_id)
        cure = "choose a model that masks padding"
        if numbers[0] != numbers[1]:
            cure = f"config.json has pad_token_id {numbers[0]}, the tokenizer pads with {numbers[1]}: make them one"
        raise UsageError(f"--model {folder}: padding changes the logits of this '{_kind(model)}' model; {cure}")


def _why_untrainable(model: nn.Module, rows: Encoded, precision: str, device: torch.device) -> str | None:
    """Why the model fails to predict, to train or to predict after training, as the run does it; None if it works."""
    trained = copy.deepcopy(model).to(device)
    try:
        logits = [predict(trained, rows, precision=precision)]
        train(trained, rows, Recipe(epochs=1, batch_size=2), seed=0, precision=precision)
        logits.append(predict(trained, rows, precision=precision))
    except Exception as error:  # whatever a model raises is the reason
        return first_line(error)
    if not all(torch.isfinite(part).all() for part in logits):
        return f"its logits are NaN or infinite in {precision}"
    return None


def _kind(model: nn.Module) -> str:
    return model.config.model_type
