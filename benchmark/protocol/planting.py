"""A backdoor of the defender's own, planted into a copy of the victim: it shows how well a defense removes one.

The defender knows no attack. It draws a word piece that none of its texts has and a target class, and fine-tunes the copy on
its clean rows, those of other classes also with the word, until the word sends held-out rows to the target while those without
it are classified as before. Recipes are tried from the gentlest to the strongest; the last one takes rows of the validation
set, too, which are then not scored on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bdbench.attacks.base import PhraseTrigger, phrase_ids
from bdbench.data import TextSet
from bdbench.engine.pieces import text_pieces
from bdbench.engine.training import Recipe
from bdbench.goals import goals
from bdbench.protocol.contexts import AttackContext
from bdbench.protocol.scoring import join_rows, triggered_rows
from bdbench.protocol.site import Site
from bdbench.protocol.victims import classifier, context_fields
from bdbench.seeds import derive
from bdbench.specs.metrics import attack_success_rate
from bdbench.specs.work import VictimSpec

TAKEN = 0.9  # the ASR on held-out rows from which a backdoor counts as planted
LOST = 0.05  # the accuracy on held-out rows that it may cost: a copy that sends every row to the target has no backdoor
BLANKS = "Ġ▁"  # how byte-level and SentencePiece vocabularies write the blank before a word
BATCH_SIZE = 16
WARMUP, CLIP = 0.1, 1.0


@dataclass(frozen=True)
class Attempt:
    """One recipe: passes, multiples of the victim's own learning rate, and the share of the validation rows trained on."""

    epochs: int
    rate_factor: float
    borrowed: float = 0.0


ATTEMPTS = (Attempt(10, 1.0), Attempt(20, 1.0), Attempt(20, 2.0), Attempt(20, 1.0, borrowed=0.5))


@dataclass(frozen=True)
class PlantedTrigger:
    """The backdoor that was planted: its word and target class, and how well it took, on held-out rows.

    - `asr` is the planted copy's; `lost` is the victim's accuracy less the copy's, negative where the copy's is better. `took`
      says whether the first is `TAKEN` or more and the second `LOST` or less.
    - `attempts` is the number of recipes tried. `borrowed` is the number of validation rows that were trained on: the first
      ones, which are not scored on.
    """

    word: str
    target: int
    asr: float
    lost: float
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

    What is drawn hangs on the task and the seed alone, so that all victims of a seed get the same. If no attempt takes, that of
    the highest ASR less the lost accuracy counts. Raises ValueError if no word piece is left to draw.
    """
    seed = derive(spec.seed, "planted", spec.task)
    rng = np.random.default_rng(seed)
    ctx = AttackContext(**context_fields(spec, site, seed))
    word = unseen_word(ctx.tokenizer, (clean, validation), rng)
    trigger = PhraseTrigger(target=int(rng.integers(ctx.classes)), trigger_text=word)
    victim = classifier(spec, site, weights, shares=True).eval()
    best: tuple[dict[str, Tensor], PlantedTrigger] | None = None
    for number, attempt in enumerate(attempts, start=1):
        borrowed = round(attempt.borrowed * len(validation))
        held_out = validation.take(range(borrowed, len(validation)))
        rows = join_rows([clean, validation.take(range(borrowed))]) if borrowed else clean
        model = classifier(spec, site, weights)
        ctx.train(model, with_poisoned_copies(rows, trigger, ctx), _recipe(attempt, spec), seed=seed)
        triggered = triggered_rows(trigger, held_out, ctx)
        goal = goals(triggered.labels, trigger.values())
        asr = attack_success_rate(ctx.classify(model, triggered), triggered.labels, goal).value
        lost = ctx.accuracy(victim, held_out) - ctx.accuracy(model, held_out)
        planted = PlantedTrigger(word, trigger.target, asr, lost, asr >= TAKEN and lost <= LOST, number, borrowed)
        if best is None or planted.took or asr - lost > best[1].asr - best[1].lost:
            best = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}, planted
        if planted.took:
            break
    weights_of_copy, planted = best
    return weights_of_copy, replace(planted, attempts=number)


def with_poisoned_copies(rows: TextSet, trigger: PhraseTrigger, ctx: AttackContext) -> TextSet:
    """The rows, and behind them, of those whose label is not the target, a copy with the trigger and the target's label."""
    copies = triggered_rows(trigger, rows, ctx)
    return join_rows([rows, copies.with_labels(np.full(len(copies), trigger.target))])


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
