"""The pre-trained models: bundled, from a directory, or from the Hugging Face hub; safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bdbench.engine.bundled import BUNDLED_MODELS, NAME_BY_DIGEST, bundled_folder
from bdbench.engine.folders import FileStamp, config_file, file_digest, stamps, weights_files
from bdbench.engine.tokenizers import folder_tokenizer_digest
from bdbench.errors import UsageError, first_line
from bdbench.files import sha256
from bdbench.portable import encodable
from bdbench.specs.work import ModelSpec

HUB_FILES = [
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "*map.json",
]
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(@\w+)?")

WEIGHT_TYPES = ("F64", "F32", "F16", "BF16")  # as safetensors calls them

DIGITS_SHOWN = 12  # of a digest's 64, in messages


@dataclass(frozen=True)
class ModelSource:
    """A pre-trained model whose files are on this machine: what a record says of it, and the folder."""

    spec: ModelSpec
    folder: Path


def find_model(model: str, digest: str | None = None) -> ModelSource:
    """A model of BUNDLED_MODELS, a directory, or a Hugging Face id (`name` or `name@revision`, fetched and cached).

    `digest` is the SHA-256 that the weights must have, in hex. Raises UsageError if there is no such model, if its weights are
    not safetensors or have another digest, or if it has no tokenizer that bdbench can use.
    """
    if model in BUNDLED_MODELS:
        folder, name = bundled_folder(model), model
        digest = digest or BUNDLED_MODELS[model].sha256
    elif _is_folder(model):
        folder, name = Path(model), Path(model).resolve().name
    elif HUB_ID.fullmatch(model):
        folder, name = fetch(model, "--model ", "--model bundled or --model DIR"), model
    else:
        raise UsageError(
            f"--model {model}: no such directory, and not a Hugging Face id; give {' or '.join(map(repr, BUNDLED_MODELS))}, a "
            "directory or an id"
        )
    spec = _spec(name, folder.resolve())
    if digest is not None and spec.digest != digest.lower():
        raise UsageError(
            f"--model {model}: the weights' SHA-256 is {spec.digest}, expected {digest}; fetch the model anew (here it is in "
            f"{folder})"
        )
    return ModelSource(spec, folder.resolve())


@contextmanager
def called(name: str) -> Iterator[None]:
    """A block in which a model is loaded that the user knows as `name`, not as --model."""
    try:
        yield
    except UsageError as error:
        message = str(error)
        raise UsageError(name + message.removeprefix("--model") if message.startswith("--model") else message) from error


def _is_folder(model: str) -> bool:
    try:
        return Path(model).is_dir()
    except (OSError, ValueError):  # a name too long for a file, or with a zero byte
        return False


def check_model(folder: Path, spec: ModelSpec) -> None:
    """Raise ValueError unless the model in `folder` is the one that `spec` names. The message names no folder.

    Raises UsageError if there is no usable model at all.
    """
    here = _spec(spec.name, folder)
    compared = [
        ("the weights of the model in this place have", here.digest, spec.digest),
        ("the configuration of the model in this place has", here.config, spec.config),
        ("the tokenizer of the model in this place has", here.tokenizer, spec.tokenizer),
    ]
    differences = [
        f"{what} SHA-256 {digest[:DIGITS_SHOWN]}…, the cell wants {expected[:DIGITS_SHOWN]}…"
        for what, digest, expected in compared
        if digest != expected
    ]
    if differences:
        raise ValueError("; ".join(differences))


def weights_digest(folder: Path) -> str:
    """SHA-256, in hex, of the weights file, or of the shards' digests in order of their names.

    The files are read once, until one of them changes. Raises UsageError if one is missing or damaged, or if the folder has no
    configuration.
    """
    config_file(folder)
    return _weights_digest(stamps(weights_files(folder)))


def _spec(name: str, folder: Path) -> ModelSpec:
    weights = weights_digest(folder)
    name = NAME_BY_DIGEST.get(weights, name)  # the same weights are the same model, wherever they lie
    config = file_digest(*stamps([config_file(folder)]))
    return ModelSpec(encodable(name), digest=weights, config=config, tokenizer=folder_tokenizer_digest(folder))


@lru_cache(maxsize=8)
def _weights_digest(files: tuple[FileStamp, ...]) -> str:
    for file in files:
        _check_safetensors(file.path)
    digests = [sha256(file.path) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.endswith(".weight")]  # noqa: SIM118 (it is no dict)
            types = {name: tensors.get_slice(name).get_dtype() for name in names}
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"--model {file.parent}: {file.name} is damaged ({first_line(error)}); fetch the model anew"
        ) from error
    for name, kind in types.items():  # other numbers would be taken for weights: what scales them is not among these
        if kind not in WEIGHT_TYPES:
            raise UsageError(f"--model {file.parent}: {name} has numbers of type {kind}; weights are {', '.join(WEIGHT_TYPES)}")


def fetch(model: str, flag: str, instead: str) -> Path:
    """The folder of a model of the Hugging Face hub, `name` or `name@revision`, fetched and cached.

    Raises UsageError if it is not to be had, which names it behind `flag` and says to use `instead`.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=HUB_FILES))
    except Exception as error:  # the client raises a different type for each way of not getting there
        raise UsageError(
            f"{flag}{model}: not on this machine, and the Hugging Face hub cannot be reached or has no such model "
            f"({type(error).__name__}); use {instead}"
        ) from error
