"""`bdbench run --victim DIR`: a fine-tuned checkpoint that somebody else made, checked, as one more attack of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdbench.api.values import drop_none
from bdbench.errors import UsageError
from bdbench.matrix.selection import distinct
from bdbench.params import split_variant
from bdbench.portable import encodable, last_part
from bdbench.protocol.compositions import built, name_of, params_by_plugin
from bdbench.registry import ATTACKS, TASKS

if TYPE_CHECKING:
    from bdbench.attacks.given import Given
    from bdbench.matrix.selection import Selection
    from bdbench.protocol.compositions import Choice
    from bdbench.suspects.loading import Base, Suspect

ATTACK = "given"
NUMBERED = "label_"  # what transformers calls classes that nobody named
SAYS = {"trigger": "trigger_text", "target": "target"}  # of the flags, the hyperparameters that they stand for
PIECES = 32  # of the texts on which the checkpoint and the run's classifier are compared
ROUNDING = 1e-4  # of a logit, relative to 1 + |logit|


@dataclass(frozen=True)
class GivenVictim:
    """What the flags of the same names say: the directory of the victim, its pre-trained model, its trigger and its target.

    None is not typed. Raises UsageError for `base`, `trigger` or `target` without `victim`.
    """

    victim: str | None = None
    base: str | None = None
    trigger: str | None = None
    target: int | None = None

    def __post_init__(self) -> None:
        others = [name for name in self.typed() if name != "victim"]
        if self.victim is None and others:
            raise UsageError(
                f"--{others[0]} is of a victim that you bring; give its directory with --victim DIR, or leave it out (the "
                "model of any other run is --model)"
            )

    def typed(self) -> dict[str, Any]:
        """What was typed, for the records; a directory by its last part."""
        values = drop_none(**{field.name: getattr(self, field.name) for field in fields(self)})
        return {name: encodable(last_part(value)) if name in ("victim", "base") else value for name, value in values.items()}

    def over(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The user's values of a `Selection`, with the victim's among them: its directory, its attack, its model.

        Raises UsageError if something is said twice, or nowhere.
        """
        if self.victim is None:
            return dict(overrides)
        model = overrides.get("model")
        if model is None and self.base is None:
            raise UsageError(f"--victim {self.victim}: give the pre-trained model that it was fine-tuned from: --base BASE")
        if model is not None and self.base is not None and model != self.base:
            raise UsageError(f"--base {self.base} --model {model}: both are the victim's pre-trained model; leave one out")
        attacks = tuple(overrides.get("attacks", ()))
        if ATTACK not in map(name_of, attacks):
            attacks += (ATTACK,)
        params = dict(overrides.get("attack_params", {}))
        for flag, parameter in SAYS.items():
            value, name = getattr(self, flag), f"{ATTACK}.{parameter}"
            if value is not None and name in params:
                raise UsageError(f"--{flag} {value} -A {name}={params[name]}: both say the same; leave one out")
            if value is not None:
                params[name] = value
        brought = {"victim": self.victim, "model": self.base if model is None else model}
        return {**overrides, **brought, "attacks": attacks, "attack_params": params}


def with_checked_victim(selection: Selection) -> tuple[Selection, tuple[str, ...]]:
    """The selection with the victim's digest and the order of its classes in its attacks, and what the user is to be warned of.

    Without a victim it stays as it is. Raises UsageError if the checkpoint is no classifier of the tasks over the model, or
    if its trigger or target is not said.
    """
    if selection.victim is None:
        return selection, ()
    from bdbench.suspects.loading import load_base, load_suspect

    choices = distinct("attack", selection.attacks)
    params = params_by_plugin(selection.attack_params, [name_of(choice) for choice in choices], "-A", ATTACKS)
    attacks = {choice: built(choice, params, ATTACKS) for choice in choices if name_of(choice) == ATTACK}
    for choice in attacks:
        _check_said(choice, params.get(ATTACK, {}))
    if not _is_folder(selection.victim):
        raise UsageError(f"--victim {selection.victim}: no such directory; give the one that the fine-tuning saved")
    suspect = load_suspect(selection.victim, "--victim")
    base = load_base(selection.model, suspect)
    _check_same_function(suspect, base, selection)
    for task in distinct("task", selection.tasks):
        _check_classes(suspect, task)
    identified = {choice: _identified(attack, suspect, selection.tasks) for choice, attack in attacks.items()}
    warnings = tuple(f"--victim: {difference}; the base's is used" for difference in base.differences)
    return replace(selection, attacks=tuple(identified.get(choice, choice) for choice in choices)), warnings


def _check_said(choice: Choice, params: Mapping[str, Any]) -> None:
    """Raises UsageError if a trigger or a target is left to the defaults; a plugin that was handed over has all its values."""
    if not isinstance(choice, str):
        return
    said = {**params, **split_variant(choice)[1]}
    for flag, parameter in SAYS.items():
        if parameter not in said:
            raise UsageError(f"--victim: say what its {flag} is: --{flag} {'TEXT' if flag == 'trigger' else 'CLASS'}")


def _is_folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):  # a name too long for a file, or with a zero byte
        return False


def _check_same_function(suspect: Suspect, base: Base, selection: Selection) -> None:
    """Raises UsageError unless the checkpoint's weights classify texts over the base just as they do in the checkpoint.

    A run computes with the base's configuration and tokenizer. Comparing what comes out needs no list of the fields of a
    configuration that matter.
    """
    import torch

    from bdbench.engine.classifiers import classifier_with
    from bdbench.engine.encoding import encode
    from bdbench.engine.prediction import predict
    from bdbench.suspects.inspection import neutral_rows

    own, theirs = suspect.source.spec, base.source.spec
    of_tokenizer = [text for text in base.differences if text.startswith(("tokenizer:", "vocabulary:"))]
    if of_tokenizer or own.tokenizer != theirs.tokenizer:
        what = of_tokenizer[0] if of_tokenizer else "tokenizer: it cuts or marks texts in another way than the base's"
        raise UsageError(
            f"--victim {selection.victim}: {what}; a run has one tokenizer for all its models, so give a checkpoint with that "
            f"of --base {selection.model}"
        )
    rows = encode(suspect.tokenizer, neutral_rows(None, seed=0), PIECES)
    weights = {name: weight.detach() for name, weight in suspect.model.named_parameters()}
    over_base = classifier_with(base.source.folder, suspect.classes, weights, shares=True)
    there, here = (predict(model, rows, precision="fp32") for model in (suspect.model, over_base))
    if not torch.allclose(there, here, rtol=ROUNDING, atol=ROUNDING):
        why = "; ".join(base.differences) or "their configurations differ"
        raise UsageError(
            f"--victim {selection.victim}: it classifies texts otherwise than its weights do over --base {selection.model} "
            f"({why}); give the base that it was fine-tuned from"
        )


def _check_classes(suspect: Suspect, task: str) -> None:
    names = TASKS.get(task).label_names
    if suspect.classes != len(names):
        raise UsageError(
            f"--victim {suspect.folder}: it has {suspect.classes} classes ({', '.join(suspect.label_names)}), but {task} has "
            f"{len(names)} ({', '.join(names)}); select its own task with -T"
        )


def _identified(attack: Given, suspect: Suspect, tasks: Sequence[str]) -> Given:
    """The attack with all that says which victim it is. Raises UsageError if it is another one, or has other classes."""
    from bdbench.engine.classifiers import logits_layer

    digest = suspect.source.spec.digest
    if attack.digest not in ("", digest):
        raise UsageError(
            f"--victim {suspect.folder}: the weights' SHA-256 is {digest}, expected {attack.digest} ({ATTACK}.digest); fetch "
            "the checkpoint anew"
        )
    order = attack.order.replace(" ", "")
    if not order:
        orders = {task: _order_by_names(suspect, task) for task in tasks}
        if len(set(orders.values())) > 1:
            raise UsageError(
                f"--victim {suspect.folder}: by their names its classes have another order for each of {', '.join(orders)}; "
                "run these tasks one by one"
            )
        order = orders[tasks[0]]
    if order == _joined(range(suspect.classes)):
        return replace(attack, digest=digest, order="")
    logits_layer(suspect.model, suspect.classes)  # whether its classes can change places
    return replace(attack, digest=digest, order=order)


def _order_by_names(suspect: Suspect, task: str) -> str:
    """The numbers of its classes in the order of the task's. Raises UsageError if their names do not tell."""
    theirs = [name.casefold() for name in TASKS.get(task).label_names]
    ours = [name.casefold().replace("_", " ").replace("-", " ") for name in suspect.label_names]
    if all(name.casefold().startswith(NUMBERED) for name in suspect.label_names):
        return _joined(range(suspect.classes))
    if sorted(ours) != sorted(theirs):
        raise UsageError(
            f"--victim {suspect.folder}: its classes are called {', '.join(suspect.label_names)}, and those of {task} "
            f"{', '.join(theirs)}; say which is which with -A {ATTACK}.order={_joined(range(suspect.classes))}: the numbers of "
            "its classes in the order of the task's"
        )
    return _joined(ours.index(name) for name in theirs)


def _joined(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))
