"""What the engine hands a plugin beside its data: a tokenizer, randomness, training, and only what it declared to need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bdbench.data import TextSet
from bdbench.engine.encoding import Encoded, encode, kept_ends
from bdbench.engine.prediction import predict
from bdbench.engine.text_memo import text_memo
from bdbench.engine.trace import Trace
from bdbench.engine.training import Loss, Passes, Recipe, cross_entropy, train
from bdbench.protocol.site import give_back_memory
from bdbench.specs.metrics import clean_accuracy


class NotDeclared(Exception):
    """A defense touched something that its `needs` does not list."""


@dataclass(eq=False)
class Lazy:
    """A resource that is costly to load: `value` loads it when it is touched, and keeps it until it is told to `forget` it."""

    load: Callable[[], Any]
    _kept: Any = field(default=None, init=False)

    @property
    def value(self) -> Any:
        if self._kept is None:
            self._kept = self.load()
        return self._kept

    def forget(self) -> None:
        self._kept = None


@dataclass(eq=False)
class Pretrained(Lazy):
    """The clean pre-trained weights, and the folder of the model that they are of."""

    folder: Path = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class TrainingControl:
    """The resource of who trains the victim: the recipe of its training, and what makes a classifier as it was before it."""

    recipe: Recipe
    start: Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Context:
    """Common to attacks and defenses. Plugins draw randomness from `generator` (on the CPU) and from nowhere else.

    `trace` is filled by the two loops: their seconds, their kernels.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    classes: int
    device: torch.device
    precision: str
    generator: torch.Generator
    trace: Trace = field(default_factory=Trace, repr=False)

    def encode(self, rows: TextSet) -> Encoded:
        """Tokenize, cut at `max_length` pieces."""
        return encode(self.tokenizer, rows, self.max_length)

    def train(
        self,
        model: nn.Module,
        rows: TextSet,
        recipe: Passes,
        *,
        seed: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        loss: Loss = cross_entropy,
    ) -> None:
        """Train `model` in place with the engine's loop (see `engine.training.train`), and leave it in evaluation mode.

        Without a `seed` one is drawn from `generator`. A `loss` of your own gets the ids that `encode` gives and each batch
        whole. It may call `predict`.
        """
        if seed is None:
            seed = int(torch.randint(2**62, (), generator=self.generator))
        encoded = self.encode(rows)
        give_back_memory()  # training takes the most, in blocks of its own sizes
        with self.trace.timed("training"):
            train(
                model,
                encoded,
                recipe,
                seed=seed,
                precision=self.precision,
                trace=self.trace,
                optimizer=optimizer,
                loss=loss,
            )
        self.trace.trained_rows += recipe.epochs * len(rows)

    def predict(self, model: nn.Module, rows: TextSet) -> Tensor:
        """Logits (n, classes) float32 on the CPU, without a gradient. Each module is afterwards in the mode that it was in."""
        encoded = self.encode(rows)
        self.trace.predicted_rows += len(rows)
        with self.trace.timed("prediction"):
            return predict(model, encoded, precision=self.precision, trace=self.trace)

    def classify(self, model: nn.Module, rows: TextSet) -> npt.NDArray[np.int64]:
        """The class of every row, (n,). Raises ValueError unless the model gives a finite number for every row and class."""
        logits = self.predict(model, rows)
        check_logits(logits, self.classes)
        return logits.argmax(dim=1).numpy()

    def accuracy(self, model: nn.Module, rows: TextSet) -> float:
        """Share of the rows classified correctly, in [0, 1]. Raises what `classify` raises."""
        return clean_accuracy(self.classify(model, rows), rows.labels).value

    def once_per_text(
        self, identity: str, texts: Sequence[str], compute: Callable[[str], npt.NDArray[np.float64]]
    ) -> list[npt.NDArray[np.float64]]:
        """`compute(text)`, (m,) float64, of each text: computed once for all victims, cells and runs of a user.

        `identity` names all that decides it beside the text: the method, its version, its model's digest. A guard's
        slowdown counts the time that this saves as if it had been spent.
        """
        numbers, saved_seconds = text_memo(identity).of(texts, compute)
        self.trace.saved_seconds += saved_seconds
        return numbers


def check_logits(logits: Tensor, classes: int) -> None:
    """Raise ValueError unless `logits` is (n, classes) and finite. The class of NaN would count as class 0."""
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ValueError(f"the model gives logits of shape {tuple(logits.shape)} for a task of {classes} classes")
    finite_rows = int(torch.isfinite(logits).all(dim=1).sum())
    if finite_rows < len(logits):
        raise ValueError(
            f"the model's logits are NaN or infinite for {len(logits) - finite_rows} of {len(logits)} texts: its training or "
            "its repair diverged; lower the learning rate"
        )


@dataclass(frozen=True, eq=False)
class AttackContext(Context):
    """What an attack sees. The attacker trains the victim, so nothing of the task's training data is withheld.

    `clean` holds the weights of the clean fine-tuned model by name, float32 on the CPU; it is empty for an attack
    that neither has a trigger nor starts from that model. `recipe` says how victims are trained, for an attack whose own
    training is to be like it. What an attack puts into `notes` (JSON values) is kept in the record.

    `load_clean` makes a classifier of them; see `clean_classifier`. `load_embeddings` reads the word-embedding matrix of the
    pre-trained model, (pieces, width) float32 on the CPU.

    `poisoned_texts` holds what somebody else made for the attack (`TextsElsewhere`): the poisoned carrier text of a row, by
    the row's texts and its label.
    """

    clean: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    recipe: Recipe = Recipe()
    notes: dict[str, Any] = field(default_factory=dict, repr=False)
    load_clean: Callable[[], nn.Module] | None = field(default=None, repr=False)
    load_embeddings: Callable[[], Tensor] | None = field(default=None, repr=False)
    poisoned_texts: Mapping[tuple[tuple[str, ...], int], str] = field(default_factory=dict, repr=False)

    def clean_classifier(self) -> nn.Module:
        """The clean fine-tuned model on the device, a new copy. Raises ValueError where there is none."""
        if self.load_clean is None:
            raise ValueError("this attack needs the clean fine-tuned model, which is not there")
        return self.load_clean()

    def visible_ends(self, rows: TextSet, room: int) -> list[int]:
        """Per row, how many leading characters of the carrier text survive truncation if `room` pieces are inserted."""
        # Of a pair the longer text is cut first, and the room may come off either text: so twice as much is kept free.
        return kept_ends(self.tokenizer, rows, self.max_length - room * (1 if rows.second is None else 2))


@dataclass(frozen=True, eq=False)
class DefenseContext(Context):
    """What a defense sees: beside the common part, the resources its `needs` lists, and no others.

    Touching another one raises NotDeclared, so that a result cannot rest on knowledge the threat model withholds. A resource
    that is costly to load is a `Lazy`. What a defense puts into `notes` (JSON values) is kept in the record: what it
    selected, and after which trials.

    `observer` gets a stage's name and a model, and keeps what it finds from the defense; it is None where nobody looks.
    """

    resources: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notes: dict[str, Any] = field(default_factory=dict, repr=False)
    observer: Callable[[str, nn.Module], None] | None = field(default=None, repr=False)

    @property
    def clean(self) -> TextSet:
        """The small labelled clean set, disjoint from what trained the victim. Needs "clean"."""
        return self._resource("clean")

    @property
    def validation(self) -> TextSet:
        """Labelled clean rows for choosing hyperparameters. Needs "validation"."""
        return self._resource("validation")

    @property
    def pretrained(self) -> Mapping[str, Tensor]:
        """The clean pre-trained weights by the classifier's parameter names, float32 on the CPU, without the head.

        Needs "pretrained".
        """
        return self._resource("pretrained")

    @property
    def pretrained_folder(self) -> Path:
        """The folder of the clean pre-trained model, with its configuration and its tokenizer. Needs "pretrained"."""
        return self._declared("pretrained").folder

    @property
    def unlabelled(self) -> TextSet:
        """Clean texts of the task; every label is 0. Needs "unlabelled"."""
        return self._resource("unlabelled")

    @property
    def peers(self) -> Sequence[Mapping[str, Tensor]]:
        """The weights of other fine-tuned classifiers by parameter name, float32 on the CPU. Needs "peers"."""
        return self._resource("peers")

    @property
    def training_set(self) -> TextSet:
        """What trained the victim: labelled rows, some of them poisoned. Needs "training-set"."""
        return self._resource("training-set")

    @property
    def recipe(self) -> Recipe:
        """How the victim was trained. Needs "training-control"."""
        return self._resource("training-control").recipe

    def untrained(self) -> nn.Module:
        """A new classifier where the victim's training began. Needs "training-control"."""
        return self._resource("training-control").start()

    def observe(self, stage: str, model: Callable[[], nn.Module]) -> None:
        """Have a model on the way to the repaired one scored as the result is: the record has it under "stages" in the notes.

        `model` makes it, and is called only if somebody looks. The defense learns nothing by it. The time of scoring it is not
        the defense's; that of making it is, since a resource that is loaded for it is there for what the defense does next.
        """
        if self.observer is not None:
            self.observer(stage, model())

    def train(self, model: nn.Module, rows: TextSet, recipe: Passes, **options: Any) -> None:
        """As `Context.train`. What is loaded when touched is let go before, since training takes the most memory."""
        for resource in self.resources.values():
            if isinstance(resource, Lazy):
                resource.forget()
        super().train(model, rows, recipe, **options)

    def _resource(self, name: str) -> Any:
        resource = self._declared(name)
        return resource.value if isinstance(resource, Lazy) else resource

    def _declared(self, name: str) -> Any:
        if name not in self.resources:
            raise NotDeclared(f"this defense touches '{name}' but declares needs = {sorted(self.resources)}")
        return self.resources[name]
