"""RAP: a small perturbation lowers the confidence in clean texts, not in triggered ones (Yang et al., 2021, arXiv:2110.07831).

The embedding of a rare word, put before a text, is learned on clean texts of a class: it is to lower the probability of that
class by `least` to `most`. Triggered texts resist it. So a text is suspicious if the word lowers its probability by little.

From the authors' code: the norm of the embedding is kept; gradients are never zeroed, which acts as momentum; dropout is on.
Departures: there the class to protect is given, which a defender does not know. Here a perturbation is learned for every class,
and a text gets that of the class that it is assigned to. The perturbation is at its place before the text alone, so a rare word
inside a text keeps its own embedding. A class without a clean text gets the word as it is. The probability without it is
computed once, without dropout. A class has some 30 clean texts here, not 3,000, so there are more passes: `epochs` is ours. Of
a pair the first text gets the word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdbench.data import TextSet
from bdbench.defenses._frozen_copy import frozen_copy
from bdbench.defenses.base import Detector, register
from bdbench.engine.pieces import template
from bdbench.engine.row_descent import NormKeptDescent
from bdbench.engine.training import Passes
from bdbench.errors import UsageError
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.protocol.contexts import DefenseContext


@register("rap", paper="arXiv:2110.07831")
@dataclass(frozen=True)
class Rap(Detector):
    title = "RAP"
    needs = frozenset({"clean"})

    word: str = hp("mb", tuned=False, help="rare word whose embedding the perturbation begins with")
    least: float = hp(0.1, low=0.0, high=1.0, search=(0.01, 0.5), help="drop of a clean text's probability that is asked for")
    most: float = hp(0.3, low=0.0, high=1.0, tuned=False, help="drop of a clean text's probability that is allowed")
    scale: float = hp(1.0, low=0.0, search=(0.1, 10.0), log=True, help="weight of too small a drop against too large a one")
    epochs: int = hp(50, low=1, high=1000, search=(5, 200), log=True, help="passes over the clean texts of a class")
    learning_rate: float = hp(1e-2, low=0.0, high=1.0, search=(1e-3, 1e-1), log=True, help="step size of the descent")
    batch_size: int = hp(32, low=1, high=4096, tuned=False, help="clean texts per step")

    def unfit(self, model: nn.Module) -> str | None:
        if model.config.is_encoder_decoder:
            return f"{type(model).__name__} has an encoder and a decoder, and a text comes to both"
        return None

    def score(self, model: nn.Module, rows: TextSet, ctx: DefenseContext) -> npt.NDArray[np.float64]:
        perturbed, clean = frozen_copy(model), ctx.clean
        embedding = perturbed.get_input_embeddings()
        of_clean, of_rows = (ctx.predict(model, texts).softmax(dim=1) for texts in (clean, rows))
        classes, changes, drops = of_rows.argmax(dim=1), torch.zeros(len(rows)), []
        for label in range(ctx.classes):
            row = nn.Parameter(embedding.weight[self._piece(ctx)].detach().clone())
            handle = embedding.register_forward_hook(put(row, first_place(rows, ctx)))
            known, own = np.flatnonzero(clean.labels == label), (classes == label).nonzero().flatten()
            if len(known):
                texts, before = self._with_word(clean.take(known)), of_clean[known, label].to(ctx.device)
                self._learn(perturbed, row, texts, before, label, ctx)
                drops.append(-float(self._changes(perturbed, texts, before.cpu(), label, ctx).mean()))
            if len(own):
                changes[own] = self._changes(perturbed, self._with_word(rows.take(own)), of_rows[own, label], label, ctx)
            handle.remove()
        ctx.notes["drops"] = drops
        return changes.double().numpy()

    def _learn(
        self, model: nn.Module, row: nn.Parameter, texts: TextSet, before: Tensor, label: int, ctx: DefenseContext
    ) -> None:
        def loss(model: nn.Module, inputs: dict[str, Tensor], numbers: Tensor) -> Tensor:
            after = model(**inputs).logits.float().softmax(dim=1)[:, label]
            return drop_loss(after - before[numbers], self.least, self.most, self.scale)

        numbered = texts.with_labels(np.arange(len(texts)))  # so the loss knows which texts are in its batch
        passes = Passes(epochs=self.epochs, batch_size=self.batch_size)
        ctx.train(model, numbered, passes, optimizer=NormKeptDescent(row, self.learning_rate), loss=loss)

    def _changes(self, model: nn.Module, texts: TextSet, before: Tensor, label: int, ctx: DefenseContext) -> Tensor:
        return ctx.predict(model, texts).softmax(dim=1)[:, label] - before

    def _with_word(self, rows: TextSet) -> TextSet:
        return TextSet(tuple(f"{self.word} {text}" for text in rows.first), rows.second, rows.labels)

    def _piece(self, ctx: DefenseContext) -> int:
        pieces = ctx.tokenizer(self.word, add_special_tokens=False)["input_ids"]
        if not pieces:
            raise UsageError(f"rap.word={self.word!r} gives no word piece; give a word")
        return pieces[0]  # of several the first, as in the code


def drop_loss(changes: Tensor, least: float, most: float, scale: float) -> Tensor:
    """The loss of a perturbation that changes probabilities by `changes`, (n,): 0 if each falls by `least` to `most`.

    scale * mean max(0, change + least) + mean max(0, -most - change).
    """
    return scale * F.relu(changes + least).mean() + F.relu(-most - changes).mean()


def first_place(rows: TextSet, ctx: DefenseContext) -> int:
    """The place of the first piece of a row's first text: behind the special pieces that come before it."""
    slots = template(ctx.tokenizer, 1 if rows.second is None else 2, ctx.max_length).slots
    return [text for text, _, _ in slots].index(0)


def put(row: Tensor, place: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook that puts `row`, (width,), at one place of every text."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        at_place = torch.arange(output.shape[1], device=output.device) == place
        return torch.where(at_place[:, None], row.to(output.dtype), output)

    return hook
