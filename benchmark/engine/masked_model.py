"""Masked language models of transformers, which say how likely each piece of a text is beside the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bdbench.engine.models import fetch, weights_digest
from bdbench.engine.precision import autocast
from bdbench.engine.quiet import quiet_transformers
from bdbench.errors import UsageError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS_AT_ONCE = 2048  # in one pass: its logits take 4 bytes for each of these and each piece that the model knows
# A text is cut at as many pieces as the model has positions, less two, which RoBERTa and its kin cannot use.
UNUSABLE_POSITIONS = 2
USUAL_POSITIONS = 512  # of a model that names no limit


@dataclass(frozen=True)
class Fit:
    """How well a masked language model guesses each piece of some texts, masked alone and given all the others.

    `loss` is the mean of -log p, in nats; `accuracy` the share, in [0, 1], of the pieces that are its first guess.
    """

    pieces: int
    loss: float
    accuracy: float


class MaskedModel:
    """A masked language model of transformers. A text is read with the special pieces around it, and they are never masked."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, digest: str, precision: str) -> None:
        self._model, self._tokenizer, self._precision = model.eval(), tokenizer, precision
        self._most_pieces = (getattr(model.config, "max_position_embeddings", None) or USUAL_POSITIONS) - UNUSABLE_POSITIONS
        self.digest = digest
        self.identity = f"masked {digest} {precision} {model.device.type}"

    def surprises(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """-sum log p over the pieces of each text, in nats, each masked alone and given all the others: (n,) of n texts."""
        text_of_piece, of_pieces, _ = self._guesses(texts)
        surprises = np.zeros(len(texts))
        np.add.at(surprises, text_of_piece, of_pieces)
        return surprises

    def fit(self, texts: Sequence[str]) -> Fit:
        """On n texts that have at least one piece."""
        _, of_pieces, first_guess = self._guesses(texts)
        return Fit(len(of_pieces), float(of_pieces.mean()), float(first_guess.mean()))

    def _guesses(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """For each piece of n texts: the number of its text, -log p, and whether it is the first guess; (pieces,) each."""
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self._most_pieces)["input_ids"]
        special = special_pieces(self._tokenizer)
        masked = [(i, p) for i, pieces in enumerate(encoded) for p, piece in enumerate(pieces) if piece not in special]
        at_once = max(1, TOKENS_AT_ONCE // max(map(len, encoded)))
        surprises, first_guess = np.zeros(len(masked)), np.zeros(len(masked), dtype=bool)
        for first in range(0, len(masked), at_once):
            batch = masked[first : first + at_once]
            guessed = self._guesses_of_batch([encoded[text] for text, _ in batch], [place for _, place in batch])
            surprises[first : first + at_once], first_guess[first : first + at_once] = guessed
        return np.array([text for text, _ in masked], dtype=np.int64), surprises, first_guess

    @torch.inference_mode()
    def _guesses_of_batch(
        self, ids: Sequence[Sequence[int]], places: Sequence[int]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """-log p of the piece at one place of each row, and whether it is the first guess; (n,) each."""
        device = self._model.device
        rows = [torch.tensor(pieces) for pieces in ids]
        batch = pad_sequence(rows, batch_first=True, padding_value=self._tokenizer.pad_token_id)
        lengths = torch.tensor([len(pieces) for pieces in ids])
        mask = torch.arange(batch.shape[1]) < lengths[:, None]
        at = torch.arange(len(ids)), torch.tensor(places)
        pieces = batch[at].clone()
        batch[at] = self._tokenizer.mask_token_id
        inputs = {"input_ids": batch.to(device), "attention_mask": mask.long().to(device)}
        with autocast(device, self._precision):
            logits = logits_at(self._model, inputs, *(numbers.to(device) for numbers in at))
        log_probabilities = logits.log_softmax(dim=1).cpu()
        of_pieces = -log_probabilities[at[0], pieces].double().numpy()
        return of_pieces, (log_probabilities.argmax(dim=1) == pieces).numpy()


def special_pieces(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The numbers of the pieces that are never masked: those around texts. An unknown piece stands for some word."""
    return frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def logits_at(model: PreTrainedModel, inputs: dict[str, Tensor], rows: Tensor, places: Tensor) -> Tensor:
    """The logits of a masked language model at k places of a batch, (k, pieces of the vocabulary) float32.

    `rows` and `places` are (k,) int64. The head is not asked about the other places: it costs as much as a small encoder.
    """
    with _shown_to_head(model, rows, places):
        return model(**inputs).logits[:, 0].float()


@contextmanager
def _shown_to_head(model: PreTrainedModel, rows: Tensor, places: Tensor) -> Iterator[None]:
    """Inside the block the head gets the encoder's states at these places alone, as texts of one piece."""

    def pick(encoder: nn.Module, inputs: object, output: object) -> object:
        output.last_hidden_state = output.last_hidden_state[rows, places].unsqueeze(1)
        return output

    handle = model.base_model.register_forward_hook(pick)
    try:
        yield
    finally:
        handle.remove()


@lru_cache(maxsize=1)
def masked_model(parameter: str, name: str, device: torch.device, precision: str) -> MaskedModel:
    """The masked language model in a directory, or one of the Hugging Face hub (`name` or `name@revision`).

    `parameter` is the hyperparameter that names it. Raises UsageError if it is not to be had, or is not what its name says.
    """
    folder = _folder(parameter, name)
    model, tokenizer = _load(parameter, name, folder)
    return MaskedModel(model.to(device), tokenizer, weights_digest(folder), precision)


def why_no_masked_model(parameter: str, name: str) -> str | None:
    """Why there is no such language model on this machine, and what to do, or None. See `masked_model`."""
    try:
        folder = _folder(parameter, name)
        weights_digest(folder)
        _load(parameter, name, folder)
    except UsageError as error:
        return str(error).replace("--model ", f"{parameter}=")
    return None


def _folder(parameter: str, name: str) -> Path:
    return Path(name) if Path(name).is_dir() else fetch(name, f"{parameter}=", f"-D {parameter}=DIR")


def _load(parameter: str, name: str, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # a model of another kind, or a damaged one, raises whatever it raises
        raise UsageError(
            f"{parameter}={name}: no masked language model can be loaded from there: {first_line(error)}"
        ) from error
    if lacking := sorted(info["missing_keys"]):
        raise UsageError(
            f"{parameter}={name}: its weights lack {len(lacking)} of a masked language model's, such as {lacking[0]}, so it "
            "cannot say how likely a word is; give one that was saved with its language-model head, such as bert-base-uncased"
        )
    if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
        raise UsageError(f"{parameter}={name}: its tokenizer has no piece to mask or to pad with; give another model")
    return model, tokenizer
