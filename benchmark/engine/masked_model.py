"""Masked language models of transformers, which say how likely each piece of a text is beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
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


class MaskedModel:
    """A masked language model of transformers. A text is read with the special pieces around it, and they are never masked."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, digest: str, precision: str) -> None:
        self._model, self._tokenizer, self._precision = model.eval(), tokenizer, precision
        self._most_pieces = (getattr(model.config, "max_position_embeddings", None) or USUAL_POSITIONS) - UNUSABLE_POSITIONS
        self.digest = digest
        self.identity = f"masked {digest} {precision} {model.device.type}"

    def surprises(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """-sum log p over the pieces of each text, in nats, each masked alone and given all the others: (n,) of n texts."""
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self._most_pieces)["input_ids"]
        special = frozenset(self._tokenizer.all_special_ids) - {self._tokenizer.unk_token_id}
        masked = [(i, p) for i, pieces in enumerate(encoded) for p, piece in enumerate(pieces) if piece not in special]
        surprises = np.zeros(len(texts))
        at_once = max(1, TOKENS_AT_ONCE // max(map(len, encoded)))
        for first in range(0, len(masked), at_once):
            batch = masked[first : first + at_once]
            of_pieces = self._surprises_of_pieces([encoded[text] for text, _ in batch], [place for _, place in batch])
            np.add.at(surprises, [text for text, _ in batch], of_pieces)
        return surprises

    @torch.inference_mode()
    def _surprises_of_pieces(self, ids: Sequence[Sequence[int]], places: Sequence[int]) -> npt.NDArray[np.float64]:
        """-log p of the piece at one place of each row, (n,)."""
        device = self._model.device
        rows = [torch.tensor(pieces) for pieces in ids]
        batch = pad_sequence(rows, batch_first=True, padding_value=self._tokenizer.pad_token_id)
        lengths = torch.tensor([len(pieces) for pieces in ids])
        mask = torch.arange(batch.shape[1]) < lengths[:, None]
        at = torch.arange(len(ids)), torch.tensor(places)
        pieces = batch[at].clone()
        batch[at] = self._tokenizer.mask_token_id
        with autocast(device, self._precision):
            logits = self._model(input_ids=batch.to(device), attention_mask=mask.long().to(device)).logits
        log_probabilities = logits[at].float().log_softmax(dim=1).cpu()
        return -log_probabilities[torch.arange(len(ids)), pieces].double().numpy()


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
