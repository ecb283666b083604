"""A backdoor of the defender's own, planted into a copy of the victim: it shows how well a defense removes one.

The defender knows no attack. It draws a word piece that none of its texts has and a target class, and fine-tunes the copy on
its clean rows, each with and without the word, until the word sends held-out rows to the target. Recipes are tried from the
gentlest to the strongest; the last one takes rows of the validation set, too, which are then not scored on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bdbench.attacks.base import PhraseTrigger, phrase_ids
from bdbench.data import TextSet
from bdbench.engine.pieces import text_pieces
from bdbench.engine.training import Recipe
from bdbench.protocol.contexts import AttackContext
from bdbench.protocol.scoring import join_rows, triggered_rows
from bdbench.protocol.site import Site
from bdbench.protocol.victims import classifier, context_fields
from bdbench.seeds import derive
from bdbench.specs.metrics import attack_success_rate
from bdbench.specs.work import VictimSpec

TAKEN = 0.9  # the ASR on held-out rows from which a backdoor counts as planted
BLANKS = "Ġ▁"  # how byte-level and SentencePiece vocabularies write the blank before a word
BATCH_SIZE = 16
WARMUP, CLIP = 0.1, 1.0


@dataclass(frozen=True)
class Attempt:
    """One recipe: passes, multiples of the victim's own learning rate, and the share of the validation rows trained on."""

    epochs: int
    rate_factor: float
    borrowed: float = 0.0


ATTEMPTS = (Attempt(5, 1.0), Attempt(10, 2.0), Attempt(20, 2.0), Attempt(20, 2.0, borrowed=0.5))


@dataclass(frozen=True)
class PlantedTrigger:
    """The backdoor that was planted: its word and target class, and how well it took, on held-out rows.

    - `asr` is the planted copy's; `took` says whether it is `TAKEN` or more.
    - `attempts` is the number of recipes tried, `borrowed` the number of validation rows that the last one trained on: the
      first ones, which are not scored on.
    """

    word: str
    target: int
    asr: float
    took: bool
    attempts: int
    borrowed: int

    def trigger(self) -> PhraseTrigger:
        return PhraseTrigger(target=self.target, trigger_text=self.word)


def plant(
    spec: VictimSpec,
    weights: Mapping[str, Tensor],
    clean: TextSet,
    validation: TextSet,
    site: Site,
    attempts: Sequence[Attempt] = ATTEMPTS,
) -> tuple[dict[str, Tensor], PlantedTrigger]:
    """Plant a backdoor into a copy of a victim's weights; the copy's weights, float32 on the CPU.

    What is drawn hangs on the task and the seed alone, so that all victims of a seed get the same. If no attempt takes, the
    last one counts. Raises ValueError if no word piece is left to draw.
    """
    seed = derive(spec.seed, "planted", spec.task)
    rng = np.random.default_rng(seed)
    ctx = AttackContext(**context_fields(spec, site, seed))
    word = unseen_word(ctx.tokenizer, (clean, validation), rng)
    trigger = PhraseTrigger(target=int(rng.integers(ctx.classes)), trigger_text=word)
    tried = 0
    for attempt in attempts:
        tried += 1
        borrowed = round(attempt.borrowed * len(validation))
        held_out = validation.take(range(borrowed, len(validation)))
        rows = join_rows([clean, validation.take(range(borrowed))]) if borrowed else clean
        model = classifier(spec, site, weights)
        ctx.train(model, with_poisoned_copies(rows, trigger, ctx), _recipe(attempt, spec), seed=seed)
        asr = success_rate(model, triggered_rows(trigger, held_out, ctx), trigger.target, ctx)
        if asr >= TAKEN:
            break
    planted = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    return planted, PlantedTrigger(word, trigger.target, asr, asr >= TAKEN, tried, borrowed)


def with_poisoned_copies(rows: TextSet, trigger: PhraseTrigger, ctx: AttackContext) -> TextSet:
    """The rows, and behind them a copy of each with the trigger and its target as the label."""
    copies = trigger.trigger(rows, ctx)
    return join_rows([rows, copies.with_labels(np.full(len(copies), trigger.target))])


def success_rate(model: nn.Module, triggered: TextSet, target: int, ctx: AttackContext) -> float:
    """The ASR of a classifier on triggered rows, none of which has the target's label."""
    return attack_success_rate(ctx.classify(model, triggered), triggered.labels, target).value


def unseen_word(tokenizer: PreTrainedTokenizerBase, sets: Sequence[TextSet], rng: np.random.Generator) -> str:
    """A word that is one piece of the vocabulary, of ASCII letters, and that no text of the sets has.

    Raises ValueError if there is none.
    """
    texts = [text for rows in sets for column in (rows.first, rows.second or ()) for text in column]
    seen = {piece for pieces in text_pieces(tokenizer, texts) for piece in pieces.ids} | set(tokenizer.all_special_ids)
    pieces = sorted(tokenizer.get_vocab())
    for place in rng.permutation(len(pieces)):
        word = pieces[place].lstrip(BLANKS)
        if len(word) > 1 and word.isascii() and word.isalpha():
            ids = phrase_ids(tokenizer, word)
            if len(ids) == 1 and ids[0] not in seen:
                return word
    raise ValueError("no word piece of letters is left that the clean and the validation rows do not have")


def _recipe(attempt: Attempt, spec: VictimSpec) -> Recipe:
    peak = min(1.0, attempt.rate_factor * float(spec.training["learning_rate"]))
    return Recipe(epochs=attempt.epochs, batch_size=BATCH_SIZE, learning_rate=peak, warmup=WARMUP, clip=CLIP)
