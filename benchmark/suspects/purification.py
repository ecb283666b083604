"""A user's own classifier repaired by any repair of the registry, or a composition of repairs, and stored as a new directory.

The repairs run as in a cell of the matrix: the same seeds, the same loops, the same checks. With the same rows, settings and
number of threads they leave the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bdbench.attacks.base import PhraseTrigger
from bdbench.data import TextSet
from bdbench.defenses.base import Defense, ModelRepair
from bdbench.engine.classifiers import classifier_skeleton
from bdbench.engine.tensor_digest import tensors_digest
from bdbench.engine.tokenizers import unchanged_tokenizer
from bdbench.errors import UsageError
from bdbench.fence import fenced
from bdbench.protocol.compositions import Choice, defense_of, name_of, params_by_plugin, parts_of_choice, text_of
from bdbench.protocol.contexts import AttackContext, Context, DefenseContext, Pretrained
from bdbench.protocol.notes import checked_notes
from bdbench.protocol.plugins import asks_for, needs_of, plugin_spec
from bdbench.protocol.quotas import cores
from bdbench.protocol.repairs import component_seeds, repaired_by
from bdbench.protocol.row_checks import class_words, twofold
from bdbench.protocol.site import Site
from bdbench.protocol.victims import fields_of_context
from bdbench.registry import DEFENSES
from bdbench.seeds import derive
from bdbench.specs.resources import RESOURCES
from bdbench.specs.work import component_names
from bdbench.suspects.card import card
from bdbench.suspects.insertion import Progress
from bdbench.suspects.loading import Base, Suspect, load_base, load_suspect, usable_precision
from bdbench.suspects.rates import Rate
from bdbench.suspects.reading import read_labelled
from bdbench.suspects.writing import check_out, write_directory

GIVEN = ("clean", "validation", "unlabelled", "pretrained")  # the resources that a user can have
TASK = "given"


class GivenTrigger(PhraseTrigger):
    """The word or sentence of --trigger, put into a text as an attack of the matrix puts it."""

    name = "--trigger"


@dataclass(frozen=True)
class TriggerRates:
    """What a trigger does to the rows whose label is not `target`, the class to which the classifier sends most of them.

    `asr` is the share sent there with the trigger, `base` without it.
    """

    trigger: str
    target: str
    asr: Rate
    base: Rate


@dataclass(frozen=True)
class Scores:
    """What was measured of one classifier: its accuracy, and what the trigger does. None where there was nothing to measure."""

    accuracy: Rate | None
    trigger: TriggerRates | None


@dataclass(frozen=True)
class Purification:
    """What was done, and what came of it.

    - `components` are (name, version, hyperparameters) of the defense in order; `notes` what they noted, by name.
    - `digest` is that of the suspect's files, `base_digest` of the base's, `repaired_digest` of the repaired parameters.
    - `rows` counts the clean and the validation rows. `measured_on` says which rows the scores are of.
    - `folder` is the new directory; None if none was asked for. `model` is the repaired classifier.
    """

    defense: str
    components: tuple[tuple[str, str, Mapping[str, Any]], ...]
    model_name: str
    base_name: str
    label_names: tuple[str, ...]
    digest: str
    base_digest: str
    repaired_digest: str
    rows: Mapping[str, int]
    measured_on: str | None
    before: Scores
    after: Scores
    differences: tuple[str, ...]
    settings: Mapping[str, Any]
    notes: Mapping[str, Any]
    folder: Path | None
    model: nn.Module

    def as_json(self) -> dict[str, Any]:
        """All fields under their names, but for the model and the folder."""
        values = {name: value for name, value in vars(self).items() if name not in ("model", "folder")}
        scores = {name: asdict(values[name]) for name in ("before", "after")}
        return values | scores


@dataclass(frozen=True, eq=False)
class Workshop:
    """A suspect, its base and the user's rows, ready for the components of a defense."""

    suspect: Suspect
    base: Base
    site: Site
    sets: Mapping[str, TextSet]
    max_length: int
    precision: str
    seed: int
    task: str

    def fields(self, seed: int) -> dict[str, Any]:
        """The fields of any context."""
        return fields_of_context(self.site, self.suspect.classes, self.max_length, self.precision, seed)

    def defense_context(self, part: Defense, seed: int) -> DefenseContext:
        """What one component sees: what it asks for, and nothing else."""
        weights = Pretrained(lambda: {name: w.clone() for name, w in self.base.weights.items()}, folder=self.base.source.folder)
        available = {**self.sets, "pretrained": weights}
        return DefenseContext(**self.fields(seed), resources={name: available[name] for name in sorted(asks_for(part))})

    def repaired(self, parts: Sequence[Defense]) -> tuple[nn.Module, dict[str, Any]]:
        """What the repairs among the components leave of the suspect, and what they noted, by name."""
        names = component_names(tuple(map(plugin_spec, parts)))
        seeds = component_seeds([part.name for part in parts], self.seed, self.task)
        model, notes = self.suspect.model, {}
        with unchanged_tokenizer(self.suspect.folder):
            for part, name, seed in zip(parts, names, seeds, strict=True):
                if part.kind == ModelRepair.kind:
                    ctx = self.defense_context(part, seed)
                    model = repaired_by(part, name, seed, model, ctx)
                    if noted := checked_notes(ctx.notes, part.name):
                        notes[name] = noted
        return model.eval(), notes


def purify_model(
    model: str | Path,
    base: str | Path,
    clean: str | Path | TextSet | None = None,
    defense: Choice = "e-pur+fine-mixing",
    validation: str | Path | TextSet | None = None,
    trigger: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    *,
    target: str | int | None = None,
    params: Mapping[str, Any] | None = None,
    task: str = TASK,
    max_length: int = 128,
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Purification:
    """Repair a fine-tuned classifier; write it to the new directory `out`, if one is given. MODEL itself stays as it is.

    - `clean` and `validation` are files of labelled rows (`reading.read_labelled`), or rows. A defense that asks for what is
      not given is refused.
    - `defense` names repairs joined by "+", with values in brackets, or is a plugin or a tuple of these; `params` are
      "plugin.parameter" values.
    - Accuracy, and with a `trigger` what that does, are measured before and after: on the validation rows, or else on the clean
      ones. `target` is the class of the trigger, by name or number; without one it is that which the suspect sends most to.
    - `task` enters the seeds: with a task's name they are those of the matrix.

    Raises UsageError for bad input; nothing is written then.
    """
    parts = parts_of(defense, params or {})
    for part in parts:
        if part.kind != ModelRepair.kind:
            raise UsageError(
                f"--defense {text_of(defense)}: {part.name} is a {part.kind}, which leaves no other weights to be stored; "
                "give repairs (bdbench list), or guard the classifier in Python with bdbench.guard"
            )
    if out is not None:
        check_out(Path(out))
    shop = workshop(
        model,
        base,
        parts,
        clean=clean,
        validation=validation,
        max_length=max_length,
        precision=precision,
        device=device,
        threads=threads,
        seed=seed,
        task=task,
    )
    measured_on = next((name for name in ("validation", "clean") if name in shop.sets), None)
    if trigger is not None and measured_on is None:
        raise UsageError("--trigger: what it does is measured on labelled rows; give --validation FILE or --clean FILE")
    number = None if target is None else class_number(target, shop.suspect.label_names)
    rows = None if measured_on is None else shop.sets[measured_on]
    progress("the suspect", 0, 3)
    shop.suspect.model.to(shop.site.torch_device())
    before, number = scores(shop, shop.suspect.model, rows, trigger, number)
    progress("repair", 1, 3)
    repaired, notes = shop.repaired(parts)
    progress("the repaired classifier", 2, 3)
    after, _ = scores(shop, repaired, rows, trigger, number)
    progress("the repaired classifier", 3, 3)
    purification = Purification(
        defense="+".join(part.name for part in parts),
        components=tuple((part.name, part.version, part.values()) for part in parts),
        model_name=shop.suspect.source.spec.name,
        base_name=shop.base.source.spec.name,
        label_names=shop.suspect.label_names,
        digest=shop.suspect.source.spec.digest,
        base_digest=shop.base.source.spec.digest,
        repaired_digest=tensors_digest({name: weight.detach().cpu() for name, weight in repaired.named_parameters()}),
        rows={name: len(shop.sets[name]) for name in ("clean", "validation") if name in shop.sets},
        measured_on=measured_on,
        before=before,
        after=after,
        differences=shop.base.differences,
        settings={
            "seed": seed,
            "task": task,
            "max_length": max_length,
            "precision": shop.precision,
            "threads": shop.site.threads,
        },
        notes=notes,
        folder=None if out is None else Path(out),
        model=repaired,
    )
    if out is not None:
        write_directory(repaired, shop.suspect, Path(out), card(purification), purification.as_json())
    return purification


def parts_of(defense: Choice, params: Mapping[str, Any]) -> tuple[Defense, ...]:
    """The components that a user names. Raises UsageError for a bad name, value or composition, or if there is none."""
    used = [name_of(part) for part in parts_of_choice(defense)]
    if not used:
        raise UsageError("--defense: names none; give one, such as e-pur+fine-mixing (bdbench list shows them)")
    return defense_of(defense, params_by_plugin(params, used, "-D", DEFENSES))


def workshop(
    model: str | Path,
    base: str | Path,
    parts: Sequence[Defense],
    *,
    clean: str | Path | TextSet | None,
    validation: str | Path | TextSet | None,
    max_length: int,
    precision: str,
    device: str,
    threads: int | None,
    seed: int,
    task: str,
) -> Workshop:
    """Everything loaded and checked. Clean texts without their labels are the unlabelled ones. Raises UsageError."""
    needs = needs_of(parts)
    for name in needs:
        if name not in GIVEN:
            raise UsageError(f"--defense: {parts[-1].name} needs {RESOURCES[name].says}, which nobody can give here")
    suspect = load_suspect(model)
    fitted = load_base(base, suspect)
    given = {"clean": clean, "validation": validation}
    sets = {
        name: rows if isinstance(rows, TextSet) else read_labelled(Path(rows), suspect.label_names, f"--{name}")
        for name, rows in given.items()
        if rows is not None
    }
    if len({rows.second is None for rows in sets.values()}) > 1:
        raise UsageError("--clean and --validation: one has pairs, the other single texts; give the same columns in both")
    if "clean" in sets:
        sets["unlabelled"] = sets["clean"].without_labels()
    for name in needs:
        if name not in (*sets, "pretrained"):
            flag = "--clean" if name == "unlabelled" else f"--{name}"
            raise UsageError(f"--defense: it needs {RESOURCES[name].says}; give {flag} FILE")
    site = Site(model=suspect.folder, threads=threads or cores(), device=device, widened=False)
    site.enter()
    paired = any(rows.second is not None for rows in sets.values())
    precision = usable_precision(suspect, site.torch_device(), precision, max_length, paired)
    skeleton = classifier_skeleton(suspect.folder, suspect.classes)
    for part in parts:
        with fenced(f"'{part.name}'", seed=0):
            reason = None if part.unchanged else part.unfit(skeleton)
        if reason:
            raise UsageError(f"--defense: {part.name} cannot be used with this model: {reason}")
    return Workshop(suspect, fitted, site, sets, max_length, precision, seed, task)


def class_number(target: str | int, label_names: Sequence[str]) -> int:
    """The class of this name, or number; an integer is a number. Raises UsageError if there is none, or if it may be two."""
    if isinstance(target, str):
        words = class_words(label_names)
        if target in words:
            return words[target]
        if both := twofold(target, label_names):
            raise UsageError(
                f"--target {target}: {both} of MODEL; give the classes other names (id2label in its config.json), or in Python "
                "the number as an integer"
            )
    elif not isinstance(target, bool) and 0 <= target < len(label_names):
        return int(target)
    known = ", ".join(f"{number} ({name})" for number, name in enumerate(label_names))
    raise UsageError(f"--target {target}: no class of MODEL; its classes are {known}")


def scores(
    shop: Workshop, model: nn.Module, rows: TextSet | None, trigger: str | None, target: int | None
) -> tuple[Scores, int | None]:
    """What is measured of a classifier, and the class that the trigger was measured for."""
    if rows is None:
        return Scores(None, None), target
    ctx = Context(**shop.fields(seed=0))  # evaluation draws nothing
    with fenced("'evaluation'", derive(shop.seed, "evaluation")):
        classes = ctx.classify(model, rows)
        accuracy = Rate.of(int((classes == rows.labels).sum()), len(rows))
        if trigger is None:
            return Scores(accuracy, None), target
        attack = GivenTrigger(trigger_text=trigger)
        attack.check(rows, shop.suspect.classes, ctx.tokenizer, shop.max_length)
        drawn = AttackContext(**shop.fields(derive(shop.seed, "trigger", shop.task)))
        triggered = ctx.classify(model, attack.trigger(rows, drawn))

    def sent_to(number: int) -> tuple[Rate, Rate]:
        others = rows.labels != number
        return tuple(Rate.of(int((of[others] == number).sum()), int(others.sum())) for of in (triggered, classes))

    if target is None:
        gained = [asr.value - base.value for asr, base in map(sent_to, range(shop.suspect.classes))]
        target = gained.index(max(gained))
    asr, base = sent_to(target)
    return Scores(accuracy, TriggerRates(trigger, shop.suspect.label_names[target], asr, base)), target
