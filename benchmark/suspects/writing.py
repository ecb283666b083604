"""A repaired classifier as a new Hugging Face directory, which appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from bdbench.engine.folders import CONFIG, tokenizer_files
from bdbench.engine.quiet import quiet_transformers
from bdbench.engine.tokenizers import folder_tokenizer_digest
from bdbench.errors import StorageError, UsageError, first_line
from bdbench.files import check_room, make_writable, unfinished
from bdbench.suspects.loading import Suspect

TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "added_tokens.json", "*map.json", "*.model")
CARD, DETAILS = "README.md", "purification.json"
BYTES_PER_WEIGHT = 4  # float32


def check_out(folder: Path) -> None:
    """Raises UsageError if there is something at `folder` already, or if nothing can be written beside it."""
    if os.path.lexists(folder):
        raise UsageError(f"--out {folder}: there already; give a new name, since nothing is ever overwritten")
    make_writable(folder.absolute().parent, "--out")


def write_directory(model: nn.Module, suspect: Suspect, folder: Path, card: str, details: Mapping[str, Any]) -> None:
    """Write weights, configuration, tokenizer, the model card and the same facts as JSON.

    The configuration is the suspect's, the tokenizer a copy of its files. Raises UsageError if it cannot be written; nothing is
    left of it then.
    """
    check_out(folder)
    parent = folder.absolute().parent
    work = unfinished(parent)
    try:
        check_room(parent, BYTES_PER_WEIGHT * sum(weight.numel() for weight in model.parameters()))
        with quiet_transformers():
            model.save_pretrained(work, safe_serialization=True)
        for file in tokenizer_files(suspect.folder):
            if any(file.match(pattern) for pattern in TOKENIZER_FILES):
                shutil.copyfile(file, work / file.name)
        for file in work.glob("*.safetensors"):
            shutil.copymode(work / CONFIG, file)  # safetensors makes its file the owner's alone
        (work / CARD).write_text(card, encoding="utf-8")
        (work / DETAILS).write_text(json.dumps(details, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if folder_tokenizer_digest(work) != suspect.source.spec.tokenizer:
            raise UsageError(f"--out {folder}: MODEL's tokenizer cannot be stored as it is; save it anew with transformers")
        os.rename(work, folder)
    except (OSError, SafetensorError, StorageError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UsageError(
            f"--out {folder}: cannot be written ({reason}); nothing is left of it; free space, or give another folder"
        ) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(work, ignore_errors=True)
