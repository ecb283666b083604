"""Sequence classifiers over the pre-trained encoders: loaded from a model's folder, or filled with given weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bdbench.engine.folders import FileStamp, config_file, stamps, weights_files
from bdbench.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

# These number positions from the padding piece's number + 1, so that many of the position embeddings are never used.
POSITIONS_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")
USUAL_POSITIONS = 512  # BERT's; for a configuration that names no limit
ALIGNMENT = 64  # bytes; PyTorch's on a CPU


def max_positions(folder: Path) -> int:
    """The longest input, in word pieces, that the model has positions for.

    Raises UsageError if the configuration is not one of a model that transformers can classify text with.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).partition("\n")[0]
        raise UsageError(f"--model {folder}: its config.json cannot be read: {first_line}") from error
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise UsageError(f"--model {folder}: transformers has no sequence classifier for model type '{config.model_type}'")
    unused = config.pad_token_id + 1 if config.model_type in POSITIONS_FROM_PADDING else 0
    return getattr(config, "max_position_embeddings", USUAL_POSITIONS) - unused


def load_classifier(folder: Path, classes: int) -> tuple[nn.Module, frozenset[str]]:
    """A sequence classifier over the pre-trained encoder, float32 on the CPU, in evaluation mode.

    What the checkpoint lacks is drawn from torch's global random state. Also returns the names of the encoder's parameters
    that come from the checkpoint: not the head, even if it has one, nor a pooler that it lacks.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    with _quiet_transformers():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=classes,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # a checkpoint with a head of its own, for another number of classes
            output_loading_info=True,
        )
    prefix = f"{model.base_model_prefix}."
    encoder = {name for name, _ in model.named_parameters() if name.startswith(prefix)}
    return model.eval(), frozenset(encoder - set(info["missing_keys"]))


def classifier_with(folder: Path, classes: int, weights: Mapping[str, Tensor], shares: bool = False) -> nn.Module:
    """A classifier of the model's kind with all its parameters from `weights`, float32 on the CPU, in evaluation mode.

    The parameters are copies; with `shares` they are `weights` themselves, for a caller that changes none of them.

    Raises ValueError if `weights` has other names or shapes than the model's parameters.
    """
    skeleton = _skeleton(folder, classes)
    shapes = {name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()}
    others = {name: tuple(weight.shape) for name, weight in weights.items()}
    if shapes != others:
        differing = sorted(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))
        raise ValueError(
            f"the weights are not those of the model's classifier; names or shapes differ: {', '.join(differing[:5])}"
        )
    return _with_parameters(
        skeleton,
        {name: weight if shares and _is_aligned(weight) else weight.detach().clone() for name, weight in weights.items()},
    )


def pretrained_weights(folder: Path, classes: int) -> dict[str, Tensor]:
    """The clean pre-trained weights under the classifier's parameter names, without the head; the caller's own.

    They are read anew each time, a tenth of a second: a copy that is kept would be a fourth one beside those of a defense.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        model, from_checkpoint = load_classifier(folder, classes)
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if name in from_checkpoint}


def _is_aligned(weight: Tensor) -> bool:
    """Whether the tensor lies as one that PyTorch allocated, which one mapped from a file may not. Sums can depend on it."""
    return weight.data_ptr() % ALIGNMENT == 0


def _skeleton(folder: Path, classes: int) -> nn.Module:
    """The classifier that `load_classifier` returns, but its parameters have shapes and no numbers."""
    return _read_once(folder, classes, stamps([config_file(folder), *weights_files(folder)]))


@lru_cache(maxsize=2)  # two numbers of classes
def _read_once(folder: Path, classes: int, files: tuple[FileStamp, ...]) -> nn.Module:
    """`files` are there to key the cache. The process's random state stays as it is."""
    import torch

    with torch.random.fork_rng(devices=[]):
        model, _ = load_classifier(folder, classes)
    empty = {name: torch.empty_like(parameter, device="meta") for name, parameter in model.named_parameters()}
    return _with_parameters(model, empty)


def _with_parameters(model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` whose parameters are `values` by name; its own are not copied."""
    from torch import nn

    # To deepcopy a parameter in the memo is copied already.
    memo = {
        id(parameter): nn.Parameter(values[name], requires_grad=parameter.requires_grad)
        for name, parameter in model.named_parameters()
    }
    return copy.deepcopy(model, memo)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without progress bars, and without the warning that the head is newly initialized, which is no news here."""
    from transformers import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
