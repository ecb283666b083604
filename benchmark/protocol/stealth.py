"""How an attack's triggered texts look beside the same texts without the trigger, as numbers for the record.

- "words_changed", in [0, 1]: the share of the words of a triggered text that its clean text does not have there, the mean over
  rows. Words that the attack leaves out count in no way.
- "perplexity_ratio", above 0: the perplexity of the triggered text by that of the clean one, the geometric mean over rows. 1 is
  as likely as without the trigger.
- "seen_by_onion", in [0, 1]: the share of rows in which the most suspicious word, by ONION's score, is a changed one. Chance is
  about the share of the words that are changed.
- "ftr", in [0, 1]: the false triggering rate, the share of all test rows not at the attack's goal that go there with what the
  attack says should not trigger it, such as a part of the trigger (Yang et al., 2021, SOS). Beside it stands the base rate,
  the share that goes there with nothing. It is there only if the attack says what false triggers are.

The first three are of the first `MOST_ROWS` triggered rows, and of the texts that carry the trigger. The language model is that
of `onion[lm=ngram]`, of bigrams, trained on the first `TRAINING_ROWS` of the attacker's clean training rows; without the
package that it needs the two numbers that rest on it are left out. No defense sees any of this, and it decides no victim.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bdbench.data import TextSet
from bdbench.engine.bigram_model import BigramModel
from bdbench.engine.word_suspicions import Numbers, suspicion, suspicions

MOST_ROWS = 100  # of 230 words each they take some seconds
TRAINING_ROWS = 2000
LM_PACKAGE = "nltk"


def stealth_of(clean: TextSet, triggered: TextSet, train: TextSet) -> dict[str, float]:
    """The numbers of the texts, by name: the n rows `clean`, and the same with the trigger.

    Raises ZeroDivisionError if there are none.
    """
    texts = list(zip(clean.carrier[:MOST_ROWS], triggered.carrier[:MOST_ROWS], strict=True))
    changed = [changed_words(*pair) for pair in texts]
    facts = {"words_changed": sum(map(share_of, changed)) / len(changed)}
    if importlib.util.find_spec(LM_PACKAGE) is None:
        return facts
    known = train.take(range(min(len(train), TRAINING_ROWS)))
    model = _language_model((*known.first, *(known.second or ())))
    of_words = suspicions([text for _, text in texts], model.identity, model.perplexities, suspicion, _compute_each)
    facts["perplexity_ratio"] = ratio_of_perplexities(*(model.perplexities(column) for column in zip(*texts, strict=True)))
    facts["seen_by_onion"] = sum(map(most_suspicious_is_changed, of_words, changed)) / len(changed)
    return facts


@lru_cache(maxsize=1)
def _language_model(texts: tuple[str, ...]) -> BigramModel:
    """All victims of a task and seed have the same training rows: one model for those that a process makes in turn."""
    return BigramModel(texts)


def changed_words(clean: str, triggered: str) -> npt.NDArray[np.bool_]:
    """Which words of the triggered text, (words,), are none of the clean text at their place, by `difflib`."""
    words = triggered.split()
    changed = np.ones(len(words), dtype=bool)
    for block in difflib.SequenceMatcher(None, clean.split(), words, autojunk=False).get_matching_blocks():
        changed[block.b : block.b + block.size] = False
    return changed


def share_of(flags: npt.NDArray[np.bool_]) -> float:
    """The share of the flags, (n,), that are set; 0 of none."""
    return float(flags.mean()) if len(flags) else 0.0


def ratio_of_perplexities(clean: Numbers, triggered: Numbers) -> float:
    """exp(mean log(triggered / clean)) of the perplexities, (n,), of n texts without and with the trigger."""
    return float(np.exp(np.mean(np.log(triggered / clean))))


def most_suspicious_is_changed(of_words: Numbers, changed: npt.NDArray[np.bool_]) -> bool:
    """Whether the word of highest suspicion, of equal ones the first, is changed; both are (words,)."""
    return bool(len(changed)) and bool(changed[of_words.argmax()])


def _compute_each(identity: str, texts: Sequence[str], compute: Callable[[str], Numbers]) -> list[Numbers]:
    """Nothing is kept: these texts are of one victim, and of bigrams they take no longer than looking them up."""
    return [compute(text) for text in texts]
