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

from bdbench.defenses._suspicious_words import columns, purified
from bdbench.defenses.base import Purifier, register
from bdbench.engine.word_suspicions import Numbers, suspicion, suspicions
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.data import TextSet
    from bdbench.engine.bigram_model import BigramModel
    from bdbench.engine.causal_model import CausalModel
    from bdbench.protocol.contexts import DefenseContext

NGRAM = "ngram"


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

        def of_texts(texts: Sequence[str]) -> list[Numbers]:
            return suspicions(texts, model.identity, model.perplexities, suspicion, ctx.once_per_text)

        without, limit = purified(rows, ctx.validation, of_texts, self.removed)
        ctx.notes.update(bar=limit, language_model=model.digest)
        return without

    def _language_model(self, ctx: DefenseContext) -> BigramModel | CausalModel:
        from bdbench.engine.bigram_model import BigramModel
        from bdbench.engine.causal_model import causal_model

        if self.lm == NGRAM:
            return BigramModel([text for column in columns(ctx.unlabelled) for text in column])
        return causal_model(f"{self.name}.lm", self.lm, ctx.device, ctx.precision)
