"""A masked language model where none is to be had: the pre-trained encoder, with a head that is trained on clean texts.

The head is the one that transformers has for the family. Its last layer is tied to the word embeddings, the rest of it is
drawn anew, unless the checkpoint has it. Encoder and head are trained together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdbench.data import TextSet
from bdbench.engine.encoding import encode
from bdbench.engine.folders import FileStamp, config_file, stamps, weights_files
from bdbench.engine.masked_model import MaskedModel, logits_at, special_pieces
from bdbench.engine.quiet import quiet_transformers
from bdbench.engine.tensor_digest import tensors_digest
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.trace import Trace
from bdbench.engine.training import Loss, Recipe, train
from bdbench.errors import UsageError
from bdbench.seeds import derive

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MASKED = 0.15  # of the pieces of a training text, as for BERT (Devlin et al., 2019)
HEADED = "ForMaskedLM"  # how the classes of encoders with a head are called; others have a decoder, or read left to right
ROLE = "adapted masked language model"


@dataclass(frozen=True, eq=False)
class Adapted:
    """The model, and what its training took: the trace of its loop, and the seconds with loading."""

    model: MaskedModel
    trace: Trace
    seconds: float


def why_not_adapted(config: PretrainedConfig) -> str | None:
    """Why a model of this configuration cannot get a masked language model's head, or None."""
    from transformers import AutoModelForMaskedLM

    classes = AutoModelForMaskedLM._model_mapping
    if type(config) in classes and classes[type(config)].__name__.endswith(HEADED):
        return None
    return f"transformers has no encoder with a masked language model's head for model type '{config.model_type}'"


def adapted_model(
    folder: Path,
    texts: Sequence[str],
    recipe: Recipe,
    max_length: int,
    device: torch.device,
    precision: str,
    trace: Trace,
) -> MaskedModel:
    """The pre-trained encoder in `folder` as a masked language model of the clean `texts`, each cut at `max_length` pieces.

    It is trained once per process and set of arguments; the same arguments give the same weights, whoever asks. `trace` gets
    the kernels of the training, and the seconds that it did not take again. Raises UsageError if no piece stands for a mask.
    """
    began = time.perf_counter()
    files = stamps([config_file(folder), *weights_files(folder)])
    adapted = _adapted(folder, files, tuple(texts), recipe, max_length, device, precision)
    trace.kernels |= adapted.trace.kernels
    trace.halved_batches += adapted.trace.halved_batches
    trace.saved_seconds += max(0.0, adapted.seconds - (time.perf_counter() - began))
    return adapted.model


@lru_cache(maxsize=1)
def _adapted(
    folder: Path,
    files: tuple[FileStamp, ...],
    texts: tuple[str, ...],
    recipe: Recipe,
    max_length: int,
    device: torch.device,
    precision: str,
) -> Adapted:
    """`files` are there to key the cache."""
    began, trace, tokenizer = time.perf_counter(), Trace(), load_tokenizer(folder)
    if tokenizer.mask_token_id is None:
        raise UsageError(f"--model {folder}: its tokenizer has no piece to mask, so it cannot become a masked language model")
    model = _with_head(folder, seed=derive(0, ROLE, "head")).to(device)
    with_pieces = [text for text in texts if text.strip()]
    rows = TextSet(tuple(with_pieces), None, np.zeros(len(with_pieces), dtype=np.int64))
    train(
        model,
        encode(tokenizer, rows, max_length),
        recipe,
        seed=derive(0, ROLE, "training"),
        precision=precision,
        trace=trace,
        loss=masked_loss(tokenizer),
    )
    digest = tensors_digest({name: weight.detach().cpu() for name, weight in model.named_parameters()})
    return Adapted(MaskedModel(model, tokenizer, digest, precision), trace, time.perf_counter() - began)


def _with_head(folder: Path, seed: int) -> PreTrainedModel:
    """Float32 on the CPU. What the checkpoint lacks of the head is drawn from `seed`."""
    from transformers import AutoModelForMaskedLM

    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForMaskedLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            tie_word_embeddings=True,
        )


def masked_loss(tokenizer: PreTrainedTokenizerBase) -> Loss:
    """The loss of a masked language model: the mean of -log p, in nats, over the pieces of a batch that it has to guess.

    Draws from torch's global random state, which the training loop seeds.
    """
    special = torch.tensor(sorted(special_pieces(tokenizer)))

    def loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        ids = inputs["input_ids"]
        maskable = torch.isin(ids, special.to(ids.device), invert=True)
        chosen = to_guess(maskable, MASKED, torch.rand(ids.shape, device=ids.device))
        masked = inputs | {"input_ids": ids.masked_fill(chosen, tokenizer.mask_token_id)}
        return F.cross_entropy(logits_at(model, masked, *chosen.nonzero(as_tuple=True)), ids[chosen])

    return loss


def to_guess(maskable: Tensor, share: float, draws: Tensor) -> Tensor:
    """Which pieces are to be guessed, (b, longest) bool: those with a draw of at most `share`, and of each text the lowest.

    `maskable` is (b, longest) bool and `draws` (b, longest) in [0, 1). A text without a piece to mask has none to be guessed.
    """
    lowest = draws.masked_fill(~maskable, 1.0).amin(dim=1, keepdim=True)
    return maskable & (draws <= lowest.clamp(min=share))
