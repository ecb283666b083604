"""BTU, backdoor token unlearning: pieces that poisoned training moves most lose what they learned (Jiang et al., AAAI 2025,
arXiv:2501.03272).

Word embeddings are trained from the pre-trained ones on the poisoned set in three ways, one pass each: under a classifier of
mean embeddings alone; so once more, without the pieces that the first pass moved most; and in the whole pre-trained encoder,
of which nothing else is trained. The pieces that one of the three moved most are suspects, 17 of each. In the victim each of a
suspect's numbers that has moved by more than ||E_victim - E_pre||_F / (pieces of the vocabulary) becomes that of the
pre-trained [PAD]. Then the classifier is fine-tuned on the clean set.

From the authors' code. Departures: the victim is the one given, where they train it in the same way; the recipe of the
fine-tuning is that of all repairs here (theirs: one pass over a clean fifth of the data); the mean is over the pieces without
padding, special ones and the first suspects, where they delete these from the text and pad to 128 pieces; position embeddings
stay out of the mean; the whole encoder has the victim's head, which is not trained. Special pieces are never suspects. A number
that has not moved stays, where their code makes it zero.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bdbench.defenses.base import FineTuned, register
from bdbench.engine.embeddings import word_embeddings
from bdbench.engine.training import Recipe
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.protocol.contexts import DefenseContext

HEAD_DEVIATION = 0.02  # of the numbers that BERT's classification layer begins with


@register("btu", paper="arXiv:2501.03272")
@dataclass(frozen=True)
class Btu(FineTuned):
    title = "BTU"
    needs = frozenset({"clean", "pretrained", "training-set"})

    tokens: int = hp(
        17, low=0, search=(1, 500), log=True, aggressive="high", help="pieces that each of the three passes makes suspects"
    )
    passes: int = hp(1, low=1, high=1000, tuned=False, help="passes over the poisoned set in each of the three trainings")
    exposing_rate: float = hp(2e-5, low=0.0, high=1.0, tuned=False, help="peak learning rate of the three trainings")
    exposing_batch: int = hp(32, low=1, high=4096, tuned=False, help="rows per step of the three trainings")

    def repair(self, model: nn.Module, ctx: DefenseContext) -> nn.Module:
        suspects = self._suspects(model, ctx)
        for training, pieces in suspects.items():
            ctx.notes[training] = ctx.tokenizer.convert_ids_to_tokens(pieces)
        ids = sorted(set().union(*suspects.values()))
        repaired = copy.deepcopy(model)
        name, embeddings = word_embeddings(repaired)
        with torch.no_grad():
            embeddings.copy_(unlearned(embeddings, ctx.pretrained[name].to(ctx.device), ids, ctx.tokenizer.pad_token_id))
        ctx.train(repaired, ctx.clean, self.recipe())
        return repaired

    def _suspects(self, model: nn.Module, ctx: DefenseContext) -> dict[str, list[int]]:
        """The ids of the pieces that each of the three trainings moves most, that which moves most first."""
        recipe = Recipe(epochs=self.passes, learning_rate=self.exposing_rate, batch_size=self.exposing_batch)
        start = ctx.pretrained[word_embeddings(model)[0]]
        specials = ctx.tokenizer.all_special_ids

        def most_moved_in_mean(left_out: list[int]) -> list[int]:
            bag = MeanOfPieces(start, ctx.classes, left_out, ctx.generator).to(ctx.device)
            ctx.train(bag, ctx.training_set, recipe)
            return most_moved(bag.embeddings.weight.detach().cpu(), start, self.tokens, specials)

        first = most_moved_in_mean(specials)
        second = most_moved_in_mean([*specials, *first])
        encoder = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if name in ctx.pretrained:
                    parameter.copy_(ctx.pretrained[name])
        embeddings = word_embeddings(encoder.requires_grad_(False))[1].requires_grad_(True)
        ctx.train(encoder, ctx.training_set, recipe)
        third = most_moved(embeddings.detach().cpu(), start, self.tokens, specials)
        return {"mean": first, "mean without these": second, "encoder": third}


class MeanOfPieces(nn.Module):
    """A linear classifier of the mean embedding of a row's pieces, some of which are left out."""

    left_out: Tensor

    def __init__(self, embeddings: Tensor, classes: int, left_out: list[int], generator: torch.Generator) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(*embeddings.shape, _weight=embeddings.clone())
        self.head = nn.utils.skip_init(nn.Linear, embeddings.shape[1], classes)  # it would draw from the global state
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator) * HEAD_DEVIATION)
            self.head.bias.zero_()
        self.register_buffer("left_out", torch.tensor(left_out))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Tensor) -> SimpleNamespace:
        counts = attention_mask * ~torch.isin(input_ids, self.left_out)
        sums = (self.embeddings(input_ids) * counts.unsqueeze(-1)).sum(dim=1)
        return SimpleNamespace(logits=self.head(sums / counts.sum(dim=1, keepdim=True).clamp(min=1)))


def most_moved(trained: Tensor, start: Tensor, most: int, left_out: list[int]) -> list[int]:
    """The `most` rows of two (pieces, width) matrices that lie farthest apart, but those left out and any that did not move."""
    moves = (trained - start).norm(dim=1)
    moves[left_out] = -math.inf
    order = moves.argsort(descending=True, stable=True)[:most]
    return order[moves[order] > 0].tolist()


def unlearned(victim: Tensor, pretrained: Tensor, suspects: list[int], padding: int) -> Tensor:
    """(pieces, width) embeddings: the victim's, but of each suspect the pre-trained padding's numbers where it moved too far.

    Too far is more than ||victim - pretrained||_F / pieces.
    """
    moves = (victim - pretrained).abs()
    bound = torch.linalg.matrix_norm(victim - pretrained) / len(victim)
    result = victim.clone()
    result[suspects] = torch.where(moves[suspects] > bound, pretrained[padding], victim[suspects])
    return result
