"""The tokenizers of the pre-trained models, and what identifies one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdbench.engine.findings import find_out
from bdbench.engine.folders import FileStamp, digests_by_name, refuse_own_code, stamps, tokenizer_files
from bdbench.engine.quiet import quiet_transformers
from bdbench.errors import UsageError, first_line
from bdbench.specs.keys import digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")  # a fast tokenizer can be made from any one of them


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The model's fast tokenizer, padding on the right. All callers share it, until a file in the folder changes.

    Raises UsageError if the folder has no fast tokenizer with a padding token.
    """
    return _load(folder, _stamps(folder))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256, in hex, of all that decides which word pieces a text is encoded to.

    It is that of the loaded tokenizer, not of files: the same tokenizer can be stored in several ways, and transformers merges
    the files differently from version to version. Neither the folder nor texts that were encoded before make a difference.
    """
    backend: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    for left_by_the_last_call in ("truncation", "padding"):
        backend.pop(left_by_the_last_call)
    return digest_of(
        {
            "backend": backend,
            "special_tokens": {role: str(token) for role, token in tokenizer.special_tokens_map.items()},
            "pad_token_id": tokenizer.pad_token_id,
            "model_input_names": list(tokenizer.model_input_names),  # with token types, or without
            "truncation_side": tokenizer.truncation_side,
            "split_special_tokens": tokenizer.split_special_tokens,  # whether "[SEP]" in a text is one piece
        }
    )


def folder_tokenizer_digest(folder: Path) -> str:
    """The `tokenizer_digest` of the tokenizer in `folder`, computed once until a file changes (see `findings`).

    Raises what loading raises.
    """
    return _digest(folder, _stamps(folder))


@contextmanager
def unchanged_tokenizer(folder: Path) -> Iterator[None]:
    """A block in which a plugin has the tokenizer of `folder`, which all callers share. Raises ValueError if it changed it.

    The changed one is forgotten, also where the block raises: the next caller loads it anew.
    """
    digest = folder_tokenizer_digest(folder)
    try:
        yield
    finally:
        is_changed = tokenizer_digest(load_tokenizer(folder)) != digest
        if is_changed:
            _load.cache_clear()
    if is_changed:
        raise ValueError("the plugin changed the tokenizer, which other cells share; let it work on a copy")


def _stamps(folder: Path) -> tuple[FileStamp, ...]:
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise UsageError(f"--model {folder}: no tokenizer (tokenizer.json); save it there with tokenizer.save_pretrained")
    return stamps(tokenizer_files(folder))


@lru_cache(maxsize=8)
def _load(folder: Path, files: tuple[FileStamp, ...]) -> PreTrainedTokenizerBase:
    """`files` are there to key the cache."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises Exception itself
        refuse_own_code(folder, error)
        raise UsageError(f"--model {folder}: its tokenizer cannot be loaded: {first_line(error)}") from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise UsageError(f"--model {folder}: needs a fast tokenizer with a padding token (tokenizer.json)")
    tokenizer.padding_side = "right"
    return tokenizer


@lru_cache(maxsize=8)
def _digest(folder: Path, files: tuple[FileStamp, ...]) -> str:
    question = {"what": "tokenizer digest", "files": digests_by_name(files)}
    return find_out(question, lambda: tokenizer_digest(_load(folder, files)))
