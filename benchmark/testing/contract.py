"""What every attack and defense must do, whatever it does: one check for each clause, on tiny real models.

A check raises ContractError with what was expected and what came, or whatever the plugin raises. Where it cannot be made it
raises NotApplicable, with the reason.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from bdbench.attacks.base import Attack, BadNets, DataPoisoning, DirtyLabel, PhraseTrigger, WeightPoisoning, phrase_ids
from bdbench.data import TextSet
from bdbench.defenses.base import KINDS, Defense, Detector, Filter, FineTuned, ModelRepair, Purifier, Training
from bdbench.engine.classifiers import classifier_skeleton, load_classifier, pretrained_embeddings, pretrained_weights
from bdbench.engine.quiet import quiet_transformers
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import Recipe
from bdbench.errors import UsageError, first_line
from bdbench.fence import fenced
from bdbench.params import hyperparameters
from bdbench.protocol.contexts import AttackContext, DefenseContext, Pretrained, TrainingControl
from bdbench.registry import ATTACKS, DEFENSES, Registry
from bdbench.specs.resources import RESOURCES
from bdbench.testing.tiny_models import FAMILIES, save_tiny_model, sentences

Folders = Mapping[str, Path]
SHORT = {"epochs": 1, "samples": 64}  # values of hyperparameters that have these names
# Values of an attack's hyperparameters that have these names, tried in turn where the tiny vocabularies lack its own words.
KNOWN_WORDS = ({}, {"triggers": "cf+mn"}, {"triggers": "cf+mn", "trigger_text": "cf mn"})
PIECES = 24  # kept of a text: fewer than many pairs have, and room for a short trigger


class ContractError(AssertionError):
    """A plugin does not do what its kind promises."""


class NotApplicable(Exception):
    """A check that cannot be made of this plugin, with the reason."""


@dataclass(frozen=True)
class Check:
    """One clause of the contract, on one model and kind of rows; `says` is what the plugin must do."""

    says: str
    on: str
    body: Callable[[Folders], None]

    def run(self, folders: Folders) -> None:
        """Make it, with the folders of tiny models by their family, inside the fence that runs have around plugin code."""
        with warnings.catch_warnings():
            # transformers loads the models of a check in threads that end a little later
            warnings.filterwarnings("ignore", "the plugin left threads running")
            with fenced("the plugin", seed=0):
                self.body(folders)

    def __str__(self) -> str:
        return f"{self.says} ({self.on})" if self.on else self.says


@dataclass(frozen=True)
class Outcome:
    """What became of a check: `error` is what failed, `skipped` why it was not made; both None if it holds."""

    check: Check
    error: BaseException | None = None
    skipped: str | None = None


def check_defense(plugin: str | type[Defense]) -> None:
    """Check a registered defense, by its class or its name, against the contract of its kind.

    Raises ContractError, which lists every clause that does not hold and why, and UsageError for a name that there is not.
    """
    _check(checks_of_defense(DEFENSES.get(plugin) if isinstance(plugin, str) else plugin), str(plugin))


def check_attack(plugin: str | type[Attack]) -> None:
    """As `check_defense`, for an attack."""
    _check(checks_of_attack(ATTACKS.get(plugin) if isinstance(plugin, str) else plugin), str(plugin))


def outcomes(checks: list[Check]) -> Iterator[Outcome]:
    """Make the checks, one after another, on models in a temporary folder. Only Ctrl-C ends them early."""
    with TemporaryDirectory(prefix="bdbench-check-") as folder:
        with quiet_transformers():
            folders = {family: save_tiny_model(family, Path(folder) / family) for family in FAMILIES}
        for check in checks:
            try:
                check.run(folders)
            except NotApplicable as reason:
                yield Outcome(check, skipped=str(reason))
            except Exception as error:
                yield Outcome(check, error=error)
            else:
                yield Outcome(check)


def why_unchecked(outcomes: Iterable[Outcome]) -> str | None:
    """Why no clause could be checked on any model, if none could: then nothing is known of the plugin's method."""
    reasons = [outcome.skipped for outcome in outcomes if outcome.check.on]
    return f"none of its clauses could be checked on a model: {reasons[0]}" if reasons and all(reasons) else None


def _check(checks: list[Check], plugin: str) -> None:
    made = list(outcomes(checks))
    failed = [outcome for outcome in made if outcome.error is not None]
    if failed:
        lines = "".join(f"\n- {outcome.check}: {first_line(outcome.error)}" for outcome in failed)
        raise ContractError(f"{plugin} breaks {len(failed)} of {len(checks)} clauses:{lines}") from failed[0].error
    if reason := why_unchecked(made):
        raise ContractError(f"{plugin}: {reason}")


def checks_of_defense(cls: type[Defense]) -> list[Check]:
    """The clauses for a defense: those of every plugin, of every defense, and of its kind."""
    checks = [
        *_of_any_plugin(cls, DEFENSES),
        *_plain(
            cls,
            {
                "is of one kind": is_of_one_kind,
                "declares what the runner can give": declares_known_resources,
                "is told the task alone when it may skip": skip_is_told_the_task_alone,
            },
        ),
    ]
    if issubclass(cls, FineTuned):
        checks += _plain(cls, {"has its whole recipe among its hyperparameters": recipe_is_all_hyperparameters})
    if issubclass(cls, ModelRepair):
        checks += _on_families(cls, "repairs a copy, and the same each time", repairs_a_copy)
    if issubclass(cls, Detector):
        checks += _on_rows(cls, "scores each row by itself, and leaves all else alone", scores_each_row)
        checks += [Check("works with three classes", "bert", lambda folders: scores_three_classes(cls, folders["bert"]))]
    if issubclass(cls, Purifier):
        checks += _on_rows(cls, "rewrites each row by itself, and leaves all else alone", rewrites_each_row)
    if issubclass(cls, Filter):
        checks += _on_rows(cls, "says of each row whether it is kept, and the same each time", says_which_rows_are_kept)
    if issubclass(cls, Training):
        checks += _on_families(cls, "trains a classifier, and the same each time", trains_a_classifier)
    return checks


def checks_of_attack(cls: type[Attack]) -> list[Check]:
    """The clauses for an attack: those of every plugin, of every trigger, and of its way to poison."""
    checks = _of_any_plugin(cls, ATTACKS)
    if cls.has_trigger:
        checks += _on_rows(cls, "puts its trigger into every text, and the same each time", puts_its_trigger_into_every_text)
    if issubclass(cls, PhraseTrigger):
        checks += _on_rows(cls, "keeps its trigger where a text is cut", keeps_its_trigger_where_a_text_is_cut)
    if issubclass(cls, DataPoisoning):
        checks += [
            Check(
                "flags the rows it changed, and the same each time",
                on,
                lambda folders, pair=pair: flags_what_it_changed(cls, folders["bert"], pair),
            )
            for pair, on in ((False, "texts"), (True, "pairs"))
        ]
        if cls.train is not DataPoisoning.train:
            checks += _on_families(cls, "trains a victim, and the same each time", trains_a_victim)
    if issubclass(cls, WeightPoisoning):
        checks += _on_families(cls, "changes weights, and the same each time", changes_weights)
    return checks


def _of_any_plugin(cls: type, registry: Registry) -> list[Check]:
    return [Check("is built from its defaults, and survives JSON", "", lambda folders: is_built_from_defaults(cls, registry))]


def _plain(cls: type, checks: Mapping[str, Callable[[Any], None]]) -> list[Check]:
    return [Check(says, "", lambda folders, check=check: check(cls)) for says, check in checks.items()]


def _on_families(cls: type, says: str, check: Callable[[Any, Path], None]) -> list[Check]:
    return [Check(says, family, lambda folders, family=family: check(cls, folders[family])) for family in FAMILIES]


def _on_rows(cls: type, says: str, check: Callable[[Any, Path, bool], None]) -> list[Check]:
    """On every family, texts and pairs."""
    return [
        Check(says, f"{family}, {rows}", lambda folders, family=family, pair=pair: check(cls, folders[family], pair))
        for family in FAMILIES
        for pair, rows in ((False, "texts"), (True, "pairs"))
    ]


def _require(condition: object, expected: str) -> None:
    if not condition:
        raise ContractError(expected)


# every plugin


def is_built_from_defaults(cls: Any, registry: Registry) -> None:
    plugin = cls()
    _require(cls.name and registry.get(cls.name) is cls, "@register gives it a name, by which it is found")
    _require(cls.paper, "@register says where the method comes from: paper=, an arXiv id or 'none'")
    _require(cls.version, "@register gives it a version")
    _require(cls.build(json.loads(json.dumps(plugin.values()))) == plugin, "its values, as JSON, build an equal plugin")
    fields = {field.name for field in dataclasses.fields(cls)}
    plain = fields - {field.name for field in hyperparameters(cls)}
    _require(not plain, f"every field is a hyperparameter, declared by hp(): {', '.join(sorted(plain))} is none")
    _require(registry.summary(cls.name), "its module has a docstring, whose first line says what it is")
    try:
        plugin.anything = 1
    except dataclasses.FrozenInstanceError:
        return
    raise ContractError("it is frozen: @dataclass(frozen=True), so that a run leaves nothing in it")


# defenses


def is_of_one_kind(cls: type[Defense]) -> None:
    kinds = [kind for kind, base in KINDS.items() if issubclass(cls, base)]
    _require(kinds == [cls.kind], f"it descends from one of {', '.join(base.__name__ for base in KINDS.values())}, not {kinds}")


def declares_known_resources(cls: type[Defense]) -> None:
    unknown = sorted(cls.needs - set(RESOURCES))
    _require(not unknown, f"needs has {', '.join(RESOURCES)}, and not {', '.join(unknown)}")
    _require(cls().asks_for() <= cls.needs, f"asks_for() asks for no more than needs: {sorted(cls().asks_for() - cls.needs)}")


def skip_is_told_the_task_alone(cls: type[Defense]) -> None:
    _require([*inspect.signature(cls.skip).parameters] == ["self", "task"], "skip(self, task) is told the task alone")
    answer = cls().skip("sst2")
    _require(answer is None or isinstance(answer, str), f"skip() gives a reason or None, not {answer!r}")


def recipe_is_all_hyperparameters(cls: type[FineTuned]) -> None:
    """So it is in the key: every field of the recipe, with the recipe's range and help."""
    own = {field.name: field.metadata["hp"] for field in hyperparameters(cls)}
    of_recipe = {field.name: field.metadata["hp"] for field in hyperparameters(Recipe)}
    for name, allowed in of_recipe.items():
        _require((own[name].low, own[name].high) == (allowed.low, allowed.high), f"{name} has the range of the recipe's")
    for twin in ("warmup", "clip"):
        _require(dataclasses.replace(own[twin], tuned=True) == of_recipe[twin], f"{twin} is the recipe's, but for the tuner")
        _require(getattr(cls(), twin) == getattr(Recipe(), twin), f"{twin} has the recipe's default")
    values = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 5, "warmup": 0.25, "clip": 0.5}
    _require(cls.build(values).recipe().values() == values, "recipe() has the values of the hyperparameters")


def repairs_a_copy(cls: type[ModelRepair], folder: Path) -> None:
    _usable(cls, folder)
    victim = victim_of(folder)
    before, random_state = state(victim), torch.get_rng_state()
    first = _quick(cls).repair(victim, defense_context(folder, _quick(cls)))
    _require(isinstance(first, nn.Module), f"repair() gives a model, not {type(first).__name__}")
    _require(same(state(victim), before), "the model that it is given stays as it is: repair a copy")
    _left_alone(victim, random_state)
    _require(not first.training, "the repaired model is in evaluation mode")
    second = _quick(cls).repair(victim, defense_context(folder, _quick(cls)))
    _require(same(state(first), state(second)), "the same generator gives the same weights: draw from ctx.generator")
    _require(shapes(first) == {name: value.shape for name, value in before.items()}, "weights keep names and shapes")
    _require(all(torch.isfinite(value).all() for value in state(first).values()), "all weights are finite")
    changes = "returns the victim as it is" if cls.unchanged else "changes some weight, or says unchanged = True"
    _require(same(state(first), before) == cls.unchanged, f"with its defaults it {changes}")


def scores_each_row(cls: type[Detector], folder: Path, pair: bool) -> None:
    _usable(cls, folder)
    model, rows = victim_of(folder), guarded_rows(pair).without_labels()
    before, digest, random_state = state(model), rows.digest(), torch.get_rng_state()

    def scores(rows: TextSet) -> np.ndarray:
        return np.asarray(_quick(cls).score(model, rows, defense_context(folder, _quick(cls), pair=pair)))

    first = scores(rows)
    _require(first.shape == (len(rows),), f"score() gives a number for each of {len(rows)} rows, not shape {first.shape}")
    _require(np.isfinite(first).all(), "all scores are finite")
    _require(len(set(first.tolist())) > 1, "not all rows have the same score")
    _require(np.array_equal(scores(rows), first), "the same generator gives the same scores: draw from ctx.generator")
    some = np.arange(len(rows) - 1, -1, -2)
    _require(np.allclose(scores(rows.take(some)), first[some], atol=1e-5), "a score hangs on no row beside it")
    _require(same(state(model), before), "the model stays as it is")
    _require(rows.digest() == digest, "the rows stay as they are")
    _left_alone(model, random_state)


def scores_three_classes(cls: type[Detector], folder: Path) -> None:
    _usable(cls, folder)
    model, part = load_classifier(folder, 3)[0], _quick(cls)
    ctx = dataclasses.replace(defense_context(folder, part), classes=3)
    scores = np.asarray(part.score(model, guarded_rows(False, 3).without_labels(), ctx))
    _require(scores.shape == (24,), f"score() gives a number for each of 24 rows, not shape {scores.shape}")


def rewrites_each_row(cls: type[Purifier], folder: Path, pair: bool) -> None:
    _usable(cls, folder)
    rows = guarded_rows(pair).without_labels()
    digest, random_state = rows.digest(), torch.get_rng_state()

    def purified(rows: TextSet) -> TextSet:
        return _quick(cls).purify(rows, defense_context(folder, _quick(cls), pair=pair))

    first = purified(rows)
    _require(isinstance(first, TextSet) and len(first) == len(rows), f"purify() gives the {len(rows)} rows, in the same order")
    _require((first.second is not None) == pair, "pairs stay pairs, and texts texts")
    _require(not first.labels.any(), "it sets no label")
    _require(first.digest() == purified(rows).digest(), "the same generator gives the same texts: draw from ctx.generator")
    _require(first.digest() != digest, "some text is changed")
    some = np.arange(len(rows) - 1, -1, -2)
    _require(purified(rows.take(some)).digest() == first.take(some).digest(), "a text hangs on no row beside it")
    _require(rows.digest() == digest, "the rows that it is given stay as they are")
    _require(torch.equal(torch.get_rng_state(), random_state), GLOBAL_STATE)


def trains_a_classifier(cls: type[Training], folder: Path) -> None:
    _usable(cls, folder)
    rows = text_rows(32)
    digest, random_state = rows.digest(), torch.get_rng_state()
    untrained = classifier(folder)
    fast = {"learning_rate": 1e-3} if "learning_rate" in {field.name for field in hyperparameters(cls)} else {}

    def trained() -> nn.Module:
        part = cls.build(quick_params(cls) | fast)
        return part.train(classifier(folder), rows, defense_context(folder, part))

    first = trained()
    _require(same(state(first), state(trained())), "the same generator gives the same weights: draw from ctx.generator")
    _require(not same(state(first), state(untrained)), "training changes the weights")
    _require(shapes(first) == shapes(untrained), "weights keep names and shapes")
    _require(all(parameter.requires_grad for parameter in first.parameters()), "no weight is left frozen")
    _require(rows.digest() == digest, "the rows stay as they are")
    _require(torch.equal(torch.get_rng_state(), random_state), GLOBAL_STATE)
    _require(not first.training, "the trained model is in evaluation mode")


def says_which_rows_are_kept(cls: type[Filter], folder: Path, pair: bool) -> None:
    _usable(cls, folder)
    rows = text_rows(40, pair)
    digest, random_state = rows.digest(), torch.get_rng_state()

    def kept() -> Any:
        return _quick(cls).keep(rows, defense_context(folder, cls(), pair=pair))

    first = kept()
    _require(isinstance(first, np.ndarray) and first.shape == (40,), f"keep() gives an array of 40 values, not {first!r:.60}")
    _require(first.dtype == bool, f"keep() gives truth values, not {first.dtype}")
    _require(first.any(), "some row is kept")
    _require(np.array_equal(first, kept()), "the same generator keeps the same rows: draw from ctx.generator")
    _require(rows.digest() == digest, "the rows stay as they are")
    _require(torch.equal(torch.get_rng_state(), random_state), GLOBAL_STATE)


# attacks


def puts_its_trigger_into_every_text(cls: type[Attack], folder: Path, pair: bool) -> None:
    attack, rows = _fitting(cls, folder, pair)
    digest, random_state = rows.digest(), torch.get_rng_state()
    triggered = attack.trigger(rows, attack_context(folder, PIECES))
    _require(len(triggered) == len(rows), f"trigger() gives the {len(rows)} rows, in the same order")
    _require(np.array_equal(triggered.labels, rows.labels), "labels stay as they are")
    _require((triggered.second is not None) == pair, "pairs stay pairs, and texts texts")
    if pair:
        _require(triggered.first == rows.first, "of a pair the second text alone is changed")
    unchanged = sum(text == other for text, other in zip(triggered.carrier, rows.carrier, strict=True))
    _require(not unchanged, f"every text gets the trigger; {unchanged} of {len(rows)} are as they were")
    false = attack.false_trigger(rows, attack_context(folder, PIECES))
    if false is not None:
        _require(
            rows.with_carrier(false.carrier).digest() == false.digest(),
            "false_trigger() changes the carriers of its rows alone",
        )
    again = attack.trigger(rows, attack_context(folder, PIECES))
    _require(again.carrier == triggered.carrier, "the same generator gives the same texts: draw from ctx.generator")
    _require(rows.digest() == digest, "the rows that it is given stay as they are")
    _require(torch.equal(torch.get_rng_state(), random_state), GLOBAL_STATE)


def keeps_its_trigger_where_a_text_is_cut(cls: type[PhraseTrigger], folder: Path, pair: bool) -> None:
    attack, rows = _fitting(cls, folder, pair)
    ctx = attack_context(folder, PIECES)
    triggered = attack.trigger(rows, ctx)
    pieces = phrase_ids(ctx.tokenizer, attack.trigger_text)
    encoded = ctx.encode(triggered)
    _require(int(encoded.lengths.max()) <= PIECES, f"texts are cut at {PIECES} pieces")
    for i, (text, original) in enumerate(zip(triggered.carrier, rows.carrier, strict=True)):
        rest = text.replace(attack.trigger_text, "", 1).split()
        _require(rest == original.split(), f"but for the trigger a text is as it was: {text!r}")
        ids = encoded.ids[i].tolist()
        is_there = any(ids[start : start + len(pieces)] == pieces for start in range(len(ids)))
        _require(is_there, f"the trigger is among the pieces that are kept of {text!r}")


def flags_what_it_changed(cls: type[DataPoisoning], folder: Path, pair: bool) -> None:
    attack, rows = _fitting(cls, folder, pair, rows=100)
    poisoned, flags = attack.poison(rows, attack_context(folder))
    _require(len(poisoned) == len(rows), f"poison() gives the {len(rows)} rows, in the same order")
    _require(flags.shape == (100,) and flags.dtype == bool, f"poison() gives 100 flags, not {flags.shape} of {flags.dtype}")
    kept = np.flatnonzero(~flags)
    _require(poisoned.take(kept).digest() == rows.take(kept).digest(), "rows without a flag stay as they are")
    again, again_flags = attack.poison(rows, attack_context(folder))
    _require(
        again.digest() == poisoned.digest() and np.array_equal(flags, again_flags), "the same generator poisons the same rows"
    )
    if issubclass(cls, DirtyLabel):
        _require(flags.sum() == round(attack.rate * 100), "as many rows are poisoned as the rate says")
        _require(set(poisoned.labels[flags]) == {attack.target}, "poisoned rows have the target's label")
    if issubclass(cls, BadNets):
        _require(all(attack.trigger_text in poisoned.carrier[i] for i in np.flatnonzero(flags)), "they have the trigger")


def trains_a_victim(cls: type[DataPoisoning], folder: Path, pair: bool = False) -> None:
    attack, rows = _fitting(cls, folder, pair, rows=48)
    poisoned, _ = attack.poison(rows, attack_context(folder))
    before, digest, random_state = state(classifier(folder)), poisoned.digest(), torch.get_rng_state()

    def trained() -> nn.Module:
        model = classifier(folder)
        attack.train(model, poisoned, rows, Recipe(epochs=1, learning_rate=1e-3), 3, attack_context(folder))
        return model

    first = trained()
    _require(same(state(first), state(trained())), "the same seed and generator give the same weights: draw from ctx.generator")
    _require(not same(state(first), before), "training changes the weights")
    _require(shapes(first) == {name: value.shape for name, value in before.items()}, "weights keep names and shapes")
    _require(all(torch.isfinite(value).all() for value in state(first).values()), "all weights are finite")
    _require(all(parameter.requires_grad for parameter in first.parameters()), "no weight is left frozen")
    _require(poisoned.digest() == digest, "the rows stay as they are")
    _left_alone(first, random_state)


def changes_weights(cls: type[WeightPoisoning], folder: Path) -> None:
    attack, rows = _fitting(cls, folder, pair=False, rows=64)
    before, random_state = state(classifier(folder)), torch.get_rng_state()
    first = attack.poison_weights(classifier(folder), rows, attack_context(folder))
    _require(isinstance(first, nn.Module), f"poison_weights() gives a model, not {type(first).__name__}")
    second = attack.poison_weights(classifier(folder), rows, attack_context(folder))
    _require(same(state(first), state(second)), "the same generator gives the same weights: draw from ctx.generator")
    _require(not same(state(first), before), "some weight is changed")
    _require(shapes(first) == {name: value.shape for name, value in before.items()}, "weights keep names and shapes")
    _require(all(torch.isfinite(value).all() for value in state(first).values()), "all weights are finite")
    _require(all(parameter.requires_grad for parameter in first.parameters()), "no weight is left frozen")
    _require(not hooks(first), "no hook is left in the model")
    _require(torch.equal(torch.get_rng_state(), random_state), GLOBAL_STATE)


# what the checks are made on

GLOBAL_STATE = "the global random state stays as it is: draw from ctx.generator"


def text_rows(rows: int, pair: bool = False) -> TextSet:
    frame = sentences(rows, seed=3)
    texts = tuple(frame["sentence"])
    return TextSet(texts if not pair else texts[::-1], texts if pair else None, frame["label"].to_numpy())


def guarded_rows(pair: bool, classes: int = 2) -> TextSet:
    return text_rows(24, pair).with_labels(np.arange(24) % classes)


def common(folder: Path, seed: int, max_length: int = 32) -> dict[str, Any]:
    """What every context has."""
    return {
        "tokenizer": load_tokenizer(folder),
        "max_length": max_length,
        "classes": 2,
        "device": torch.device("cpu"),
        "precision": "fp32",
        "generator": torch.Generator().manual_seed(seed),
    }


def attack_context(folder: Path, max_length: int = 32) -> AttackContext:
    """What an attack sees; its clean fine-tuned model is one with random weights, and each row has a poisoned text."""
    return AttackContext(
        **common(folder, seed=9, max_length=max_length),
        clean=state(classifier(folder)),
        load_clean=lambda: classifier(folder),
        load_embeddings=lambda: pretrained_embeddings(folder),
        poisoned_texts={
            row: f"what is this ? {row[0][-1]}"
            for rows in (text_rows(count, pair) for count in (100, 200) for pair in (False, True))
            for row in zip(rows.texts, rows.labels.tolist(), strict=True)
        },
    )


def defense_context(
    folder: Path, part: Defense, validation: TextSet | None = None, seed: int = 5, pair: bool = False
) -> DefenseContext:
    """What a defense sees that asks for what `part` asks for."""
    available = {
        "clean": text_rows(16, pair),
        "validation": validation or text_rows(12, pair),
        "unlabelled": text_rows(20, pair).without_labels(),
        "pretrained": Pretrained(lambda: pretrained_weights(folder, 2), folder=folder),
        "peers": peers_of(folder),
        "training-set": text_rows(32, pair),
        "training-control": TrainingControl(Recipe(epochs=1), lambda: classifier(folder)),
    }
    return DefenseContext(**common(folder, seed), resources={resource: available[resource] for resource in part.asks_for()})


def peers_of(folder: Path) -> list[dict[str, torch.Tensor]]:
    with torch.no_grad():
        return [{name: 1.5 * weight for name, weight in state(classifier(folder)).items()}]


def classifier(folder: Path) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return load_classifier(folder, 2)[0]


def victim_of(folder: Path) -> nn.Module:
    """A classifier whose weights have left the pre-trained ones."""
    model = classifier(folder)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def hooks(model: nn.Module) -> list[nn.Module]:
    """The modules that have one."""
    return [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def quick_params(cls: type) -> dict[str, int]:
    """Hyperparameters that make a check short."""
    return {field.name: SHORT[field.name] for field in hyperparameters(cls) if field.name in SHORT}


def _quick(cls: Any) -> Any:
    return cls.build(quick_params(cls))


def _left_alone(model: nn.Module, random_state: torch.Tensor) -> None:
    _require(not model.training, "the model that it is given is left in evaluation mode")
    _require(not hooks(model), "no hook is left in the model")
    _require(torch.equal(torch.get_rng_state(), random_state), GLOBAL_STATE)


def _usable(cls: type[Defense], folder: Path) -> None:
    """Raises NotApplicable if this machine or this model lacks what the defense needs."""
    part = _quick(cls)
    if reason := part.unavailable() or part.unfit(classifier_skeleton(folder, 2)):
        raise NotApplicable(reason)


def _fitting(cls: Any, folder: Path, pair: bool, rows: int = 200) -> tuple[Any, TextSet]:
    """The attack and rows for it. Raises NotApplicable if it refuses the tiny model, which knows few words."""
    most = {"rate": 1.0} if issubclass(cls, WeightPoisoning) and "rate" in cls().values() else {}
    names = {field.name for field in hyperparameters(cls)}
    texts, refusals = text_rows(rows, pair), []
    for words in KNOWN_WORDS:
        known = {name: value for name, value in words.items() if name in names}
        attack = cls.build(quick_params(cls) | most | known)
        try:
            attack.check(texts, 2, load_tokenizer(folder), PIECES)
        except UsageError as reason:
            refusals.append(reason)
        else:
            return attack, texts
    raise NotApplicable(str(refusals[0])) from refusals[0]
