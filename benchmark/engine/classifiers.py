"""Sequence classifiers over the pre-trained encoders: loaded from a model's folder, or filled with given weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdbench.engine.folders import CONFIG, FileStamp, config_file, refuse_own_code, stamps, weights_files
from bdbench.engine.quiet import quiet_transformers
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.errors import UsageError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

ALIGNMENT = 64  # bytes; PyTorch's on a CPU
MOST_LAYERS = 1000  # of any model there is; building more takes so long that a damaged number looks like a hang
CLASSIFIER, SINGLE_LABEL = "ForSequenceClassification", "single_label_classification"  # as configurations call them
NOT_PRETRAINED = "pooler"  # on top of the encoder, and missing in checkpoints that were trained without it
# A checkpoint may lack a pooler and a head. A configuration that asks for this many times its weights is not its own.
MOST_OF_CHECKPOINT = 3


def declared_positions(folder: Path) -> int | None:
    """How many positions the model's configuration names; None if it names no limit. Some of them may not be usable.

    Raises UsageError if the configuration is not one of a model that transformers can classify text with.
    """
    positions = getattr(configuration(folder), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None  # XLNet says -1


def configuration(folder: Path) -> PretrainedConfig:
    """The model's configuration, the defaults filled in. Raises UsageError as `declared_positions` does."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config_file(folder)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged value raises whatever the first computation with it raises
        refuse_own_code(folder, error)
        raise UsageError(f"--model {folder}: its {CONFIG} cannot be read: {first_line(error)}") from error
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise UsageError(f"--model {folder}: transformers has no sequence classifier for model type '{config.model_type}'")
    layers = getattr(config, "num_hidden_layers", 1)
    if not isinstance(layers, int) or not 1 <= layers <= MOST_LAYERS:
        raise UsageError(f"--model {folder}: its {CONFIG} asks for {layers} layers; a model has 1 to {MOST_LAYERS}")
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(f"--model {folder}: its weights are quantized, so they cannot be trained; give the unquantized model")
    return config


def load_classifier(folder: Path, classes: int) -> tuple[nn.Module, frozenset[str]]:
    """A sequence classifier over the pre-trained encoder, float32 on the CPU, in evaluation mode.

    What the checkpoint lacks is drawn from torch's global random state. Also returns the names of the encoder's parameters
    that come from the checkpoint: not the head, even if it has one, nor a pooler that it lacks. Raises UsageError if it cannot
    be loaded, or lacks more than that.
    """
    model, info = _load(folder, configuration(folder), classes)
    return model.eval(), frozenset(_encoder_names(model) - set(info["missing_keys"]))


def finetuned_classifier(folder: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """A fine-tuned sequence classifier as it is stored, its own head included; and the names of its classes, in order.

    Float32 on the CPU, in evaluation mode. The process's random state stays as it is. Raises UsageError if the folder holds no
    such classifier, or one that does not choose one of two or more classes.
    """
    import torch

    config = configuration(folder)
    stored_as = next(iter(config.architectures or ()), None)
    if stored_as is not None and not stored_as.endswith(CLASSIFIER):
        raise UsageError(f"--model {folder}: it is stored as {stored_as}; give a sequence classifier (…{CLASSIFIER})")
    if config.num_labels < 2 or config.problem_type not in (None, SINGLE_LABEL):
        kind = config.problem_type or "one output"
        raise UsageError(f"--model {folder}: it does not choose one of several classes ({kind}, {config.num_labels} outputs)")
    _check_size(folder)
    with torch.random.fork_rng(devices=[]):
        model, info = _load(folder, config, config.num_labels)
    lacking = sorted({*info["missing_keys"], *(name for name, _, _ in info["mismatched_keys"])})
    if lacking:
        raise UsageError(
            f"--model {folder}: its weights lack {lacking[0]} ({len(lacking)} such), so it is no fine-tuned classifier; give "
            "what the fine-tuning saved"
        )
    return model.eval(), tuple(str(model.config.id2label[number]) for number in range(config.num_labels))


def reordered(model: nn.Module, order: Sequence[int]) -> nn.Module:
    """The same classifier with other numbers for its classes, changed in place: class i is the one that was `order[i]`.

    Raises what `logits_layer` raises.
    """
    import torch

    with torch.no_grad():
        for parameter in logits_layer(model, len(order)).parameters():
            parameter.copy_(parameter[list(order)].clone())
    return model


def logits_layer(model: nn.Module, classes: int) -> nn.Linear:
    """The layer of the head that gives the logits. Raises UsageError if it cannot be told."""
    from torch import nn

    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not name.startswith(f"{model.base_model_prefix}.")
        and module.out_features == classes
    ]
    if len(layers) != 1:
        raise UsageError(
            f"{type(model).__name__} has {len(layers)} layers that may give its logits, so the one that does cannot be told"
        )
    return layers[0]


def _load(folder: Path, config: PretrainedConfig, classes: int) -> tuple[nn.Module, Mapping[str, Any]]:
    """The classifier, and what transformers says of its loading. Raises UsageError if the encoder is not all there."""
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        with quiet_transformers():
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
    except Exception as error:
        raise UsageError(f"--model {folder}: it cannot be loaded: {first_line(error)}") from error
    _check_loaded(folder, _encoder_names(model), info)
    if config.pad_token_id is None:  # GPT-2 and others look for the last piece that is no padding
        model.config.pad_token_id = load_tokenizer(folder).pad_token_id
    return model, info


def _encoder_names(model: nn.Module) -> set[str]:
    """The names of the parameters below the head."""
    prefix = f"{model.base_model_prefix}."
    return {name for name, _ in model.named_parameters() if name.startswith(prefix)}


def _check_size(folder: Path) -> None:
    """Raises UsageError if the model would be far larger than its files, before memory is taken for it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = configuration(folder)
    try:
        with quiet_transformers(), torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise UsageError(f"--model {folder}: no model can be made of its {CONFIG}: {first_line(error)}") from error
    asked = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(file.stat().st_size for file in weights_files(folder))  # bytes, of which a number takes at least one
    if asked > MOST_OF_CHECKPOINT * stored:
        raise UsageError(f"--model {folder}: its {CONFIG} asks for {asked:,} numbers, but its weights are {stored:,} bytes")


def _check_loaded(folder: Path, encoder: Set[str], info: Mapping[str, Any]) -> None:
    """Raises UsageError if a weight of the encoder was drawn at random, because the files lack it or have another shape."""
    reshaped = [(name, there, asked) for name, there, asked in info["mismatched_keys"] if name in encoder]
    if reshaped:
        name, there, asked = min(reshaped)
        raise UsageError(
            f"--model {folder}: the weights do not fit its {CONFIG}: {name} is {_by(there)}, but the configuration asks for "
            f"{_by(asked)} ({len(reshaped)} such)"
        )
    missing = sorted(name for name in encoder & set(info["missing_keys"]) if NOT_PRETRAINED not in name)
    if missing:
        raise UsageError(
            f"--model {folder}: the weights lack {len(missing)} of the {len(encoder)} tensors that its {CONFIG} asks for, such "
            f"as {missing[0]}; fetch the model anew"
        )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def classifier_with(folder: Path, classes: int, weights: Mapping[str, Tensor], shares: bool = False) -> nn.Module:
    """A classifier of the model's kind with all its parameters from `weights`, float32 on the CPU, in evaluation mode.

    The parameters are copies; with `shares` they are `weights` themselves, for a caller that changes none of them.

    Raises ValueError if `weights` has other names or shapes than the model's parameters.
    """
    skeleton = classifier_skeleton(folder, classes)
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
    model, from_checkpoint = _pretrained(folder, classes)
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if name in from_checkpoint}


def pretrained_classifier(folder: Path, classes: int) -> nn.Module:
    """A classifier with the pre-trained weights and some head, float32 on the CPU; the caller's own.

    Raises UsageError if the model cannot be loaded.
    """
    return _pretrained(folder, classes)[0]


def pretrained_embeddings(folder: Path) -> Tensor:
    """The word-embedding matrix of the pre-trained encoder, (pieces, width) float32 on the CPU. Raises as above."""
    return pretrained_classifier(folder, classes=2).get_input_embeddings().weight.detach()


def _pretrained(folder: Path, classes: int) -> tuple[nn.Module, frozenset[str]]:
    """What `load_classifier` returns. The process's random state stays as it is."""
    import torch

    with torch.random.fork_rng(devices=[]):
        _check_size(folder)
        return load_classifier(folder, classes)


def _is_aligned(weight: Tensor) -> bool:
    """Whether the tensor lies as one that PyTorch allocated, which one mapped from a file may not. Sums can depend on it."""
    return weight.data_ptr() % ALIGNMENT == 0


def classifier_skeleton(folder: Path, classes: int) -> nn.Module:
    """The classifier that `load_classifier` returns, but its parameters have shapes and no numbers. Not to be changed.

    All callers share it, until a file of the model changes. Raises UsageError if the model cannot be loaded.
    """
    return _read_once(folder, classes, stamps([config_file(folder), *weights_files(folder)]))


@lru_cache(maxsize=2)  # two numbers of classes
def _read_once(folder: Path, classes: int, files: tuple[FileStamp, ...]) -> nn.Module:
    """`files` are there to key the cache."""
    import torch

    model, _ = _pretrained(folder, classes)
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
