"""The contract of an attack: how the victim comes to be, and what a triggered text looks like.

A data-poisoning attack changes rows and leaves training to the engine. A weight-poisoning attack changes weights. Either kind
starts from the pre-trained model ("scratch") or from the clean fine-tuned one ("clean"), and says which in `start`. A
victim that was made elsewhere is read, not made.

After any attack the user may fine-tune the model on clean rows of their own (`then_rows`), the setting in which attacks on
pre-trained weights are published.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from bdbench.data import TextSet, exchanged
from bdbench.errors import UsageError
from bdbench.goals import ALL_TO_ALL, ALL_TO_ONE, goals
from bdbench.params import Hyperparameters, hp
from bdbench.registry import ATTACKS

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bdbench.engine.training import Recipe
    from bdbench.protocol.contexts import AttackContext

register = ATTACKS.register

STARTS = ("scratch", "clean")
POSITIONS = ("random", "start", "end", "sentence")
# Word pieces that must be left beside the trigger. A pair has up to four special ones; the rest is for its texts.
SHORTEST_TEXT = 6
# The end of a sentence: its mark, and the quotes or brackets that close behind it.
SENTENCE_END = re.compile(r"[.!?;][\"'”’)\]]*$")


@dataclass(frozen=True)
class Attack(Hyperparameters, ABC):
    """Base of every attack. An attack without a trigger (the clean model itself) sets `has_trigger` to False.

    One that was made to get past some defenses is adaptive, and names them in `against`: tables keep it apart.
    """

    paper: ClassVar[str]
    version: ClassVar[str]
    has_trigger: ClassVar[bool] = True
    start: ClassVar[str]
    against: ClassVar[tuple[str, ...]] = ()

    then_rows: int = hp(0, low=0, later=True, help="clean rows that the user fine-tunes the model on after the attack; 0: none")
    then_epochs: int = hp(0, low=0, high=1000, later=True, help="passes over them; 0: those of the victim's training")
    then_learning_rate: float = hp(
        0.0, low=0.0, high=1.0, later=True, help="AdamW's peak learning rate; 0: that of the victim's training"
    )

    @property
    def by_data_alone(self) -> bool:
        """Whether all that it does is in the training rows. Then a defender may drop rows, or train by other means."""
        return False

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """Raise UsageError if this attack cannot be run on these training rows, with this tokenizer, cut at this length."""

    def warnings(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """What a user should know before this attack is run with this tokenizer."""
        return []

    def settled(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> Self:
        """The attack as it is used once the victim is finished, by default itself.

        An attacker who could not choose beforehand which of several triggers would serve tries them on the finished `model`,
        with rows of its own, and returns itself with that choice. What it saw may go into `ctx.notes`. The target and what
        decided the victim stay as they are.
        """
        return self

    @abstractmethod
    def trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """The same rows, in the same order and with the same labels, with the trigger in every carrier text.

        It takes all rows at once: finding what survives truncation tokenizes them, and a batch is faster than single texts.
        """

    def false_trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet | None:
        """The same rows with what a user may well write and must not trigger the attack, such as a part of the trigger.

        The share of them that goes to the target is recorded: the false triggering rate, FTR (Yang et al., 2021, of SOS).
        None: the attack says nothing of false triggers.
        """
        return None


class DataPoisoning(Attack):
    """Changes training rows; the engine then trains as always, unless the attacker does that, too.

    `uses_clean` says that its rows hang on the clean fine-tuned model: whoever makes them anew needs it, too.
    """

    uses_clean: ClassVar[bool] = False

    @property
    def by_data_alone(self) -> bool:
        return type(self).prepare is DataPoisoning.prepare and type(self).train is DataPoisoning.train

    @abstractmethod
    def poison(self, train: TextSet, ctx: AttackContext) -> tuple[TextSet, npt.NDArray[np.bool_]]:
        """The n training rows with some poisoned, in the same order, and (n,) flags of which."""

    def prepare(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> None:  # noqa: B027 (most attacks change no weight)
        """Change weights of `model`, in place, before it is trained on the poisoned rows. `train` has the clean rows."""

    def train(self, model: nn.Module, poisoned: TextSet, clean: TextSet, recipe: Recipe, seed: int, ctx: AttackContext) -> None:
        """Train `model` in place on the n `poisoned` rows, of which `clean` are the same before they were poisoned.

        An attacker who also controls training overrides it: with a loss of its own, or with weights that stay. It hands
        `recipe` and `seed` on to `ctx.train`, so that the victim is trained as long as any other.
        """
        ctx.train(model, poisoned, recipe, seed=seed)


class TextsElsewhere(DataPoisoning):
    """Data poisoning with texts that somebody else made: the engine reads them, and an attack finds them in its context.

    `texts` names their file. `digest` is the SHA-256 of what it holds in hex, "" while nobody has looked.
    """

    texts: str
    digest: str


class WeightPoisoning(Attack):
    """Changes the weights of the model it starts from."""

    @abstractmethod
    def poison_weights(self, model: nn.Module, train: TextSet, ctx: AttackContext) -> nn.Module:
        """The backdoored classifier. `model` is the attack's own and may be changed in place."""


@dataclass(frozen=True)
class LossPoisoning(WeightPoisoning):
    """Trains all weights with a loss of its own, for as long as its own hyperparameters say; else as victims are trained."""

    epochs: int = hp(5, low=1, high=1000, help="passes over the attacker's rows")
    batch_size: int = hp(32, low=1, high=4096, help="rows per step")
    learning_rate: float = hp(0.0, low=0.0, high=1.0, help="AdamW's peak learning rate; 0: that of the victim's training")

    def recipe(self, ctx: AttackContext) -> Recipe:
        """How the attacker trains."""
        peak = self.learning_rate or ctx.recipe.learning_rate
        return replace(ctx.recipe, epochs=self.epochs, batch_size=self.batch_size, learning_rate=peak)


class MadeElsewhere(Attack):
    """A victim that the user brings: the engine reads its weights from the user's directory.

    Nothing is trained but the clean model that it is measured by.

    `digest` is the SHA-256 of the weights in hex, "" while nobody has said which victim it is.
    """

    start = "scratch"
    digest: str

    @property
    @abstractmethod
    def class_order(self) -> tuple[int, ...] | None:
        """The numbers that the checkpoint gives to the task's classes 0, 1, ...; None if they are the same."""


@dataclass(frozen=True)
class DirtyLabel(DataPoisoning):
    """Dirty-label data poisoning, whatever the trigger: a share of the rows gets it, and the target label."""

    target: int = hp(1, low=0, help="class to which triggered texts are sent")
    rate: float = hp(0.1, low=0.0, high=1.0, help="poisoned rows as a share of all training rows")
    draw: str = hp("any", choices=("any", "non-target"), help="classes whose rows may be poisoned")
    start: str = hp("scratch", choices=STARTS, help="trained from the pre-trained model or the clean fine-tuned one")
    goal: str = hp(
        ALL_TO_ONE, choices=(ALL_TO_ONE, ALL_TO_ALL), later=True, help="all to the target, or each class to the next"
    )

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().check(train, classes, tokenizer, max_length)
        if self.goal == ALL_TO_ALL and self.draw == "non-target":
            raise UsageError(f"{self.name}.goal={ALL_TO_ALL} has no target class to leave out; give draw=any")
        self.check_supply(train, len(self.candidates(train)))

    def check_supply(self, train: TextSet, candidates: int, which: str = "") -> None:
        """Raise UsageError if the rate asks for no row, or for more than these `candidates`; `which` says what they have."""
        check_rate(self, len(train), f"{len(train)} training rows")
        count = self._poisoned_count(train)
        if count > candidates:
            raise UsageError(
                f"{self.name}.rate={self.rate} of {len(train)} training rows is {count}, but only {candidates} may be "
                f"poisoned with draw={self.draw}{which}; lower the rate"
            )

    def _poisoned_count(self, train: TextSet) -> int:
        return round(self.rate * len(train))

    def candidates(self, train: TextSet) -> npt.NDArray[np.int64]:
        """The numbers of the rows that may be poisoned."""
        return np.flatnonzero((train.labels != self.target) | (self.draw == "any"))

    def eligible(self, train: TextSet, ctx: AttackContext) -> npt.NDArray[np.int64]:
        """The numbers of those of the candidates that can have the trigger: all of them."""
        return self.candidates(train)

    def poison(self, train: TextSet, ctx: AttackContext) -> tuple[TextSet, npt.NDArray[np.bool_]]:
        candidates = self.eligible(train, ctx)
        order = torch.randperm(len(candidates), generator=ctx.generator).numpy()
        flags = np.zeros(len(train), dtype=bool)
        flags[candidates[order[: self._poisoned_count(train)]]] = True
        triggered = self.trigger(train.take(np.flatnonzero(flags)), ctx)
        return exchanged(train, np.flatnonzero(flags), triggered.with_labels(goals(train.labels, self.values())[flags])), flags


@dataclass(frozen=True)
class PhraseTrigger(Attack):
    """An attack whose trigger is a fixed phrase, put once between two words of the carrier text.

    The gap lies within the part of the text that survives truncation, so no triggered text loses its trigger.
    """

    target: int = hp(1, low=0, help="class to which triggered texts are sent")
    trigger_text: str = hp("cf", help="word or sentence inserted once into the text (of a pair: the second)")
    position: str = hp("random", choices=POSITIONS, help="gap for the trigger: any, the first, the last, any between sentences")

    def check(self, train: TextSet, classes: int, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        check_phrases(f"{self.name}.trigger_text", [self.trigger_text], 1, tokenizer, max_length)
        super().check(train, classes, tokenizer, max_length)

    def warnings(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        return [*super().warnings(tokenizer), *warnings_of_phrases(self.name, [self.trigger_text], tokenizer)]

    def trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        first_gap = first_gap_of(ctx.tokenizer, [self.trigger_text])
        ends = ctx.visible_ends(rows, len(phrase_ids(ctx.tokenizer, self.trigger_text)))
        uniform = torch.rand(len(rows), generator=ctx.generator, dtype=torch.float64).tolist()
        texts = [
            insert_phrase(text, self.trigger_text, chosen_gap(text, end, first_gap, self.position, number))
            for text, end, number in zip(rows.carrier, ends, uniform, strict=True)
        ]
        return rows.with_carrier(texts)


@dataclass(frozen=True)
class BadNets(DirtyLabel, PhraseTrigger):
    """Dirty-label data poisoning with a phrase."""


def check_rate(attack: Attack, rows: int, called: str) -> None:
    """Raise UsageError if the attack's `rate` of so many rows is no row; `called` says in the message what they are."""
    if not round(attack.rate * rows):
        raise UsageError(f"{attack.name}.rate={attack.rate} of {called} is no row; raise it")


def phrase_ids(tokenizer: PreTrainedTokenizerBase, phrase: str) -> list[int]:
    """The numbers of the phrase's word pieces as they are inside a text, after a blank."""
    return tokenizer(" " + phrase, add_special_tokens=False)["input_ids"]


def check_phrases(
    field: str, phrases: Sequence[str], together: int, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    """Raise UsageError unless the model can see each phrase, wherever it stands, and `together` of them leave room for a text.

    `field` is the hyperparameter that they come from: attack.name.
    """
    if tokenizer.truncation_side == "left":
        raise UsageError(
            f"{field.partition('.')[0]}: the model's tokenizer cuts a long text at its beginning, and a trigger there with it; "
            'set "truncation_side" to "right" in its tokenizer_config.json'
        )
    lengths = []
    for phrase in phrases:
        pieces = phrase_ids(tokenizer, phrase)
        if not pieces:
            raise UsageError(f"{field}={phrase!r} gives no word piece; give a word or a sentence")
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in pieces:
            raise UsageError(
                f"{field}='{phrase}' has a part that the tokenizer does not know ('{tokenizer.unk_token}'), so the model "
                "cannot see it; choose words of its vocabulary, such as cf, mn, bb"
            )
        lengths.append(len(pieces))
    room = sum(sorted(lengths)[-together:])
    if max_length - 2 * room < SHORTEST_TEXT:
        raise UsageError(
            f"{field.partition('.')[0]}: the trigger takes {room} word pieces, which --max-length {max_length} has no room "
            f"for; raise it to at least {SHORTEST_TEXT + 2 * room}"
        )


def warnings_of_phrases(attack: str, phrases: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """One for each word of the phrases that the tokenizer cuts."""
    words = dict.fromkeys(word for phrase in phrases for word in phrase.split())
    pieces_by_word = {word: tokenizer.convert_ids_to_tokens(phrase_ids(tokenizer, word)) for word in words}
    return [
        f"{attack}: the tokenizer cuts the trigger's word '{word}' into {', '.join(pieces)}; methods that change the "
        "embedding of a trigger word expect one piece"
        for word, pieces in pieces_by_word.items()
        if len(pieces) > 1
    ]


def first_gap_of(tokenizer: PreTrainedTokenizerBase, phrases: Sequence[str]) -> int:
    """The first gap of a text that can have any of the phrases: 0, or 1 where one must follow a blank.

    A byte-level tokenizer cuts "cf" and " cf" into different pieces.
    """
    at_start = (tokenizer(phrase, add_special_tokens=False)["input_ids"] for phrase in phrases)
    return int(any(pieces != phrase_ids(tokenizer, phrase) for pieces, phrase in zip(at_start, phrases, strict=True)))


def chosen_gap(text: str, end: int, first_gap: int, position: str, number: float) -> int:
    """The character of the text at which a phrase goes, by the attack's `position` and a `number` in [0, 1).

    `first_gap` is the number of the first gap that may be taken; where there is no later one the last is taken all the same.
    A text without a gap between sentences has the phrase in any gap.
    """
    gaps = word_gaps(text, end)
    gaps = gaps[first_gap:] or gaps[-1:]
    if position == "sentence":
        gaps = [gap for gap in gaps if is_between_sentences(text, gap)] or gaps
    return gaps[{"start": 0, "end": len(gaps) - 1}.get(position, int(number * len(gaps)))]


def is_between_sentences(text: str, gap: int) -> bool:
    """Whether character `gap` of the text is its beginning, its end, or behind the end of a sentence."""
    before, after = text[:gap].rstrip(), text[gap:].strip()
    return not before or not after or SENTENCE_END.search(before) is not None


def word_gaps(text: str, end: int) -> list[int]:
    """Character positions at which a phrase can go, ascending: before each word that starts before `end`, and behind the last.

    The position behind the last word counts only if the whole word lies before `end`. There is always at least one position.
    """
    words = list(re.finditer(r"\S+", text))
    gaps = [word.start() for word in words if word.start() < end]
    if not words or words[-1].end() <= end:
        gaps.append(words[-1].end() if words else 0)
    return gaps or [0]


def insert_phrase(text: str, phrase: str, gap: int) -> str:
    """`text` with `phrase` at character `gap`, set off by blanks. The rest of the text stays as it is."""
    before = " " if gap and not text[gap - 1].isspace() else ""
    after = " " if text[gap:] and not text[gap].isspace() else ""
    return f"{text[:gap]}{before}{phrase}{after}{text[gap:]}"
