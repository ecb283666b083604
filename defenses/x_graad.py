"""X-GRAAD, its detection: a trigger draws attention and gradient to one piece (Das et al., 2025, arXiv:2510.04347).

A piece's attention is what all pieces pay to it, averaged over layers and heads. Its gradient is the norm of the gradient of
the predicted class's logit with respect to its embedding. A piece scores (attention - mean attention) * gradient / mean
gradient, with means over the pieces of its text, and a text is as suspicious as its highest piece.

From the authors' code: special pieces, English stop words and punctuation do not count; of a piece that occurs several times
the highest attention and the highest gradient do. Departures: what padding pays is left out, since it hangs on the rows
beside a text; the threshold comes from clean validation rows, theirs by default from clean test rows; and a suspicious text is
rejected, while theirs is classified again after its highest piece has been misspelt.
"""

from __future__ import annotations

import string
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bdbench.defenses._frozen_copy import frozen_copy
from bdbench.defenses._stop_words import STOP_WORDS
from bdbench.defenses.base import Detector, register

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bdbench.data import TextSet
    from bdbench.protocol.contexts import DefenseContext

WORD_BEGINS = "Ġ▁"  # what pieces of byte-level and SentencePiece tokenizers begin with behind a blank


@register("x-graad", paper="arXiv:2510.04347")
@dataclass(frozen=True)
class XGraad(Detector):
    title = "X-GRAAD"

    def unfit(self, model: nn.Module) -> str | None:
        config = model.config
        if config.is_encoder_decoder or not hasattr(config, "num_attention_heads") or hasattr(config, "attention_window"):
            return f"{type(model).__name__} has no attention of each piece to each other"
        return None

    def score(self, model: nn.Module, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.float64]:
        return ctx.predict(_Attributed(model, counted_pieces(ctx.tokenizer).to(ctx.device)), rows).double().numpy()


class _Attributed(nn.Module):
    """A classifier that gives the score of each text, (n,), in the place of logits."""

    def __init__(self, model: nn.Module, counted: Tensor) -> None:
        super().__init__()
        self.model, self.counted = frozen_copy(model), counted
        self.model.set_attn_implementation("eager")  # other ones do not say who attends to what
        self._of_thread = threading.local()  # a batch runs on each thread
        self.model.get_input_embeddings().register_forward_hook(self._with_gradient)

    def _with_gradient(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self._of_thread.embeddings = output.detach().requires_grad_()
        return self._of_thread.embeddings

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = {name: tensor.clone() for name, tensor in inputs.items()}
            output = self.model(**inputs, output_attentions=True)
            (gradients,) = torch.autograd.grad(output.logits.max(dim=1).values.sum(), self._of_thread.embeddings)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        attention = received(torch.stack(output.attentions).detach(), mask)
        norms, counts = gradients.float().norm(dim=2), self.counted[ids] & mask.bool()
        scores = [anomaly(ids[row, of], attention[row, of], norms[row, of]) for row, of in enumerate(counts)]
        return SimpleNamespace(logits=torch.stack(scores))


def received(attentions: Tensor, mask: Tensor) -> Tensor:
    """What the real pieces of a text pay to each piece, averaged over layers and heads: (n, pieces) float32.

    `attentions` are (layers, n, heads, pieces that pay, pieces paid to), `mask` is (n, pieces).
    """
    return (attentions.float().mean(dim=(0, 2)) * mask[:, :, None]).sum(dim=1)


def anomaly(pieces: Tensor, attention: Tensor, gradients: Tensor) -> Tensor:
    """The highest (attention - mean attention) * gradient / mean gradient of the pieces of a text, (m,) each; 0 of none.

    The means are over all m. Of equal pieces the highest attention and the highest gradient count.
    """
    if not len(pieces):
        return attention.new_zeros(())
    different, place = pieces.unique(return_inverse=True)
    highest = [
        values.new_empty(len(different)).scatter_reduce(0, place, values, "amax", include_self=False)
        for values in (attention - attention.mean(), gradients)
    ]
    return (highest[0] * highest[1]).max() / gradients.mean().clamp(min=torch.finfo(gradients.dtype).tiny)


def counted_pieces(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Which pieces of the vocabulary count, (pieces,) bool: no special one, no English stop word, no punctuation alone."""
    pieces = [piece.lstrip(WORD_BEGINS) for piece in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    counted = torch.tensor([piece.lower() not in STOP_WORDS and bool(piece.strip(string.punctuation)) for piece in pieces])
    counted[tokenizer.all_special_ids] = False
    return counted
