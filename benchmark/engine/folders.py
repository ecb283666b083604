"""The files of a model's folder: which ones hold the weights, which ones decide the tokenizer, and whether they changed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bdbench.errors import UsageError
from bdbench.files import sha256

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
PICKLES = ("*.bin", "*.pt", "*.ckpt")


@dataclass(frozen=True)
class FileStamp:
    """A file, and what changes when its content does: the key of a cache of what was read from it."""

    path: Path
    modified_ns: int
    size: int


def stamps(files: Iterable[Path]) -> tuple[FileStamp, ...]:
    """The stamps of files as they are now, ordered by path. Symbolic links are followed."""
    return tuple(_stamp(file) for file in sorted(files))


def _stamp(file: Path) -> FileStamp:
    stat = file.stat()
    return FileStamp(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def file_digest(file: FileStamp) -> str:
    """The SHA-256 of a file's content, in hex, computed once until it changes."""
    return sha256(file.path)


def digests_by_name(files: Iterable[FileStamp]) -> dict[str, str]:
    """The `file_digest` of every file, by its name."""
    return {file.path.name: file_digest(file) for file in files}


def config_file(folder: Path) -> Path:
    """The model's configuration. Raises UsageError if the folder has none."""
    file = folder / CONFIG
    if not file.is_file():
        raise UsageError(f"--model {folder}: no {CONFIG}; give a directory written by save_pretrained")
    return file


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights, in order of their names.

    Raises UsageError if one is missing, or if the index of a model in several files is damaged.
    """
    names = _shard_names(folder) if (folder / SHARDS).is_file() else [WEIGHTS]
    for name in names:
        if not (folder / name).is_file():
            raise UsageError(
                f"--model {folder}: no {name}{_pickles_instead(folder)}; convert it where you trust it: "
                "AutoModel.from_pretrained(DIR).save_pretrained(NEW, safe_serialization=True), with the tokenizer's files"
            )
    return [folder / name for name in names]


def count_weights(folder: Path) -> int:
    """How many numbers the weights of a model are. Reads the headers of its files alone."""
    from safetensors import safe_open

    count = 0
    for file in weights_files(folder):
        with safe_open(file, framework="np") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count


def _shard_names(folder: Path) -> list[str]:
    try:
        file_by_weight = json.loads((folder / SHARDS).read_text())["weight_map"]
        names = sorted(set(file_by_weight.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"--model {folder}: {SHARDS} is not an index of shards; fetch the model anew") from error
    for name in names:
        if not (isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name):
            raise UsageError(f"--model {folder}: {SHARDS} names {name!r:.60}, which is no safetensors file beside it")
    if not names:
        raise UsageError(f"--model {folder}: {SHARDS} names no file; fetch the model anew")
    return names


def _pickles_instead(folder: Path) -> str:
    names = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
    return f" (it has {', '.join(names)}, a pickle, which can run code when loaded)" if names else ""


def refuse_own_code(folder: Path, error: Exception) -> None:
    """Raises UsageError if the `error` of transformers means that the model can only be loaded by code in its folder."""
    if "trust_remote_code" in str(error):
        raise UsageError(f"--model {folder}: it needs code of its own (auto_map), which bdbench never runs") from error


def tokenizer_files(folder: Path) -> list[Path]:
    """Every file that may decide the tokenizer: all but the weights.

    Which files transformers reads depends on its version and on the tokenizer's kind: tokenizer.json, added_tokens.json,
    special_tokens_map.json, vocabularies, sentencepiece models, the configuration.
    """
    return [file for file in folder.iterdir() if file.is_file() and file.suffix not in WEIGHT_SUFFIXES]
