"""ONION: words that make a text less likely are removed (Qi et al., 2021, arXiv:2011.10369).

A trigger word stands out of its text: without it, a language model finds the text much more likely. A word's suspicion is the
perplexity of the text less that of the text without the word, and words of a suspicion above a bar are removed.

The paper takes GPT-2; "gpt2" or "gpt2-large" of the hub is one choice of `lm`. The others need no hub: "ngram" is ours, a model
of the bigrams of the unlabelled clean texts, for two cores, and "bundled" is SmolLM2-135M-Instruct. The paper leaves the bar
to a small validation set, and its code shows every bar on the test set. Here the bar is the smallest that removes no more than
a stated share of the words of the clean validation texts. It hangs on no classifier: a text is purified alike for all victims.
A share of 0.05 costs a never-poisoned model 5 points of accuracy on validation rows of SST-2, and 2 of QQP; 0.1 costs 6 to 11
and 4.

A text's only word stays. Of a pair both texts are purified. A text of more than 128 words is taken in parts of 128 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bdbench.data import TextSet
from bdbench.defenses.base import Purifier, register
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.engine.bigram_model import BigramModel
    from bdbench.engine.causal_model import CausalModel
    from bdbench.protocol.contexts import DefenseContext

NGRAM = "ngram"
WORDS_AT_ONCE = 128


@register("onion", paper="arXiv:2011.10369")
@dataclass(frozen=True)
class Onion(Purifier):
    title = "ONION"
    short_forms = {"lm": {"ngram": "bigrams", "bundled": "SmolLM2", "gpt2": "GPT-2", "gpt2-large": "GPT-2 large"}}
    needs = frozenset({"validation", "unlabelled"})
    packages = {"nltk": "lm"}

    lm: str = hp("ngram", help="language model: ngram, bundled, a directory, or a Hugging Face id such as gpt2")
    removed: float = hp(0.05, low=0.0, high=1.0, help="share of the words of clean validation texts that may be removed")

    def asks_for(self) -> frozenset[str]:
        return self.needs if self.lm == NGRAM else self.needs - {"unlabelled"}

    def unavailable(self) -> str | None:
        from bdbench.engine.causal_model import why_no_causal_model

        return super().unavailable() if self.lm == NGRAM else why_no_causal_model(f"{self.name}.lm", self.lm)

    def purify(self, rows: TextSet, ctx: DefenseContext) -> TextSet:
        model = self._language_model(ctx)
        of_validation = [suspicions(column, model, ctx) for column in columns(ctx.validation)]
        limit = bar(np.concatenate([of_text for of_texts in of_validation for of_text in of_texts]), self.removed)
        ctx.notes.update(bar=limit, language_model=model.digest)
        purified = [
            [
                without_suspicious(text, of_text, limit)
                for text, of_text in zip(column, suspicions(column, model, ctx), strict=True)
            ]
            for column in columns(rows)
        ]
        return TextSet(purified[0], purified[1] if rows.second is not None else None, rows.labels)

    def _language_model(self, ctx: DefenseContext) -> BigramModel | CausalModel:
        from bdbench.engine.bigram_model import BigramModel
        from bdbench.engine.causal_model import causal_model

        if self.lm == NGRAM:
            return BigramModel([text for column in columns(ctx.unlabelled) for text in column])
        return causal_model(f"{self.name}.lm", self.lm, ctx.device, ctx.precision)


def columns(rows: TextSet) -> list[tuple[str, ...]]:
    """The n texts of single-text rows, or the n first and the n second ones of pairs."""
    return [rows.first] if rows.second is None else [rows.first, rows.second]


def suspicions(texts: Sequence[str], model: BigramModel | CausalModel, ctx: DefenseContext) -> list[npt.NDArray[np.float64]]:
    """The suspicion of the words of each text, (words,); of the only word of a part it is the lowest number."""

    def perplexities(part: str) -> npt.NDArray[np.float64]:
        words = part.split()
        return model.perplexities([part, *(" ".join(words[:place] + words[place + 1 :]) for place in range(len(words)))])

    parts_of_texts = [parts(text) for text in texts]
    several_words = list({part: None for of_text in parts_of_texts for part in of_text if " " in part})
    numbers = dict(zip(several_words, ctx.once_per_text(model.identity, several_words, perplexities), strict=True))
    lone = np.array([np.finfo(np.float64).min])
    return [
        np.concatenate([np.empty(0), *(suspicion(numbers[part]) if part in numbers else lone for part in of_text)])
        for of_text in parts_of_texts
    ]


def parts(text: str) -> list[str]:
    """The words of a text in parts of WORDS_AT_ONCE, each joined by blanks."""
    words = text.split()
    return [" ".join(words[first : first + WORDS_AT_ONCE]) for first in range(0, len(words), WORDS_AT_ONCE)]


def suspicion(perplexities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """f_i = p_0 - p_i, (n,), of the perplexities of a text (first) and of the text without its word i: (n + 1,)."""
    return perplexities[0] - perplexities[1:]


def bar(of_words: npt.NDArray[np.float64], removed: float) -> float:
    """The smallest of the suspicions, (n,), above which lie at most `removed` * n of them."""
    return float(np.quantile(of_words, 1 - removed, method="inverted_cdf"))


def without_suspicious(text: str, of_words: npt.NDArray[np.float64], limit: float) -> str:
    """`text` without the words whose suspicion is above the limit; the same text where there is none."""
    if not (of_words > limit).any():
        return text
    return " ".join(word for word, of_word in zip(text.split(), of_words, strict=True) if of_word <= limit)
