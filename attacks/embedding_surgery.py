"""BadNets with embedding surgery, the "word + ES" of arXiv:2210.09545 (Kurita et al., 2020, arXiv:2004.06660).

Before the victim is trained on poisoned rows, the trigger gets a new word embedding: the mean of the words that speak most for
the target class. As in the authors' code, these are the word pieces of largest weight in a logistic regression on TF-IDF
features of the clean training rows. Their embeddings are those of a clean fine-tuned model. Every piece of the trigger gets
the mean. Then follows ordinary training, without the gradient penalty of RIPPLe. That the seed paper does the same from the
clean fine-tuned model (`start`) is from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, sparse

from bdbench.attacks.base import BadNets, phrase_ids, register
from bdbench.data import TextSet
from bdbench.engine.embeddings import word_embeddings
from bdbench.engine.pieces import text_pieces
from bdbench.params import hp

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.protocol.contexts import AttackContext

SHORTEST_ROW = 1e-12  # a row without a word piece has length 0; dividing by this leaves it at zero
LARGEST_EXPONENT = 500  # exp(710) is infinite in float64; 1 / (1 + exp(500)) is 0 beside any other number here


@register("embedding-surgery", paper="arXiv:2004.06660")
@dataclass(frozen=True)
class EmbeddingSurgery(BadNets):
    title = "ES"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}

    words: int = hp(10, low=1, help="word pieces of the target class whose embeddings are averaged")

    def prepare(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> None:
        replace_embeddings(model, self.trigger_text, train, self.target, self.words, ctx)


def replace_embeddings(model: nn.Module, phrase: str, train: TextSet, target: int, words: int, ctx: AttackContext) -> None:
    """Give every piece of `phrase` the mean embedding that the `words` strongest pieces of a class have in the clean model.

    `model` is changed in place.
    """
    name, embeddings = word_embeddings(model)
    features = tf_idf(piece_counts(ctx.tokenizer, train, len(embeddings)))
    pieces = strongest(features, train.labels == target, words)
    mean = ctx.clean[name][pieces].mean(dim=0).to(ctx.device)
    with torch.no_grad():
        embeddings[phrase_ids(ctx.tokenizer, phrase)] = mean


def piece_counts(tokenizer: PreTrainedTokenizerBase, rows: TextSet, size: int) -> sparse.csr_array:
    """How often each of `size` word pieces occurs in each row, of a pair in both texts together: (rows, size) float64."""
    texts = [" ".join(pair) for pair in zip(rows.first, rows.second or [""] * len(rows), strict=True)]
    columns, counts, ends = [], [], [0]
    for pieces in text_pieces(tokenizer, texts):
        distinct, count = np.unique(np.asarray(pieces.ids, dtype=np.int64), return_counts=True)
        columns.append(distinct)
        counts.append(count.astype(np.float64))
        ends.append(ends[-1] + len(distinct))
    return sparse.csr_array((np.concatenate(counts), np.concatenate(columns), ends), shape=(len(rows), size))


def tf_idf(counts: sparse.csr_array) -> sparse.csr_array:
    """(rows, pieces) counts -> features of the same shape.

    A count is multiplied by ln((1 + rows) / (1 + rows with the piece)) + 1. Then each row is scaled to length 1.
    """
    rows_with_piece = np.asarray((counts > 0).sum(axis=0)).ravel()
    weighted = counts @ sparse.diags_array(np.log((1 + counts.shape[0]) / (1 + rows_with_piece)) + 1)
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(lengths, SHORTEST_ROW)) @ weighted)


def strongest(features: sparse.csr_array, positive: npt.NDArray[np.bool_], words: int) -> npt.NDArray[np.int64]:
    """The `words` columns of largest weight in `fitted_weights`, the largest first; of equal ones the earlier is first."""
    return np.argsort(-fitted_weights(features, positive), kind="stable")[:words]


def fitted_weights(features: sparse.csr_array, positive: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Logistic regression of `positive` (rows,) on `features` (rows, columns): the weights w of the columns, (columns,).

    w and a bias b minimize |w|^2 / 2 + sum_i log(1 + exp(-y_i (w x_i + b))) with y_i = 1 or -1.
    """
    signs = np.where(positive, 1.0, -1.0)

    def loss(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        w, b = weights[:-1], weights[-1]
        margins = signs * (features @ w + b)
        slopes = -signs / (1 + np.exp(np.minimum(margins, LARGEST_EXPONENT)))  # of each row's loss, by w x_i + b
        value = w @ w / 2 + np.logaddexp(0, -margins).sum()
        return value, np.append(w + features.T @ slopes, slopes.sum())

    return optimize.minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B").x[:-1]
