"""From a spec to a victim: poison rows, train, evaluate. One process, no file written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bdbench.attacks.base import Attack, DataPoisoning, MadeElsewhere
from bdbench.data import TextSet
from bdbench.engine.classifiers import classifier_with, finetuned_classifier, load_classifier, pretrained_embeddings, reordered
from bdbench.engine.folders import count_weights
from bdbench.engine.models import DIGITS_SHOWN, called, check_model, weights_digest
from bdbench.engine.tensor_digest import tensors_digest
from bdbench.engine.tokenizers import load_tokenizer, unchanged_tokenizer
from bdbench.engine.training import Recipe
from bdbench.fence import fenced
from bdbench.goals import goals
from bdbench.protocol.contexts import AttackContext, Context
from bdbench.protocol.environment import environment
from bdbench.protocol.notes import checked_notes
from bdbench.protocol.paired_texts import texts_made_elsewhere
from bdbench.protocol.plugins import attack_of, plugin_spec
from bdbench.protocol.rows import Rows, rows_of
from bdbench.protocol.scoring import evaluate, falsely_triggered_rows, rows_to_trigger, triggered_rows
from bdbench.protocol.site import Site
from bdbench.protocol.stealth import stealth_of
from bdbench.registry import ATTACKS, TASKS
from bdbench.seeds import derive
from bdbench.source import source_digest
from bdbench.specs.keys import PROTOCOL
from bdbench.specs.metrics import Metric, attack_success_rate
from bdbench.specs.records import AttackFacts, Predictions, VictimDigests
from bdbench.specs.work import CellSpec, VictimSpec

# See `threads_for`.
CLEAN_MODEL_THREADS, MANY_WEIGHTS = 2, 50_000_000


@dataclass(eq=False)
class Victim:
    """The suspect classifier and all that every defense of it shares.

    - `weights` are its parameters by name, float32 on the CPU.
    - `triggered` holds the test rows whose gold label is not the target, trigger inserted, gold labels kept; it is None where
      the attack has no trigger.
    - `predictions` and `metrics` are the victim's own evaluation, "floor" among the metrics.
    - `digests` says which victim this is, to the bit.
    - `facts` are what is known of the attack.
    - `seconds` are those of the "attack" and of the "evaluation", and among them those in the two loops, "training" and
      "prediction". `env` says what decided its bits (see `environment`).
    """

    spec: VictimSpec
    weights: dict[str, Tensor]
    triggered: TextSet | None
    predictions: Predictions
    metrics: dict[str, Metric]
    digests: VictimDigests
    seconds: dict[str, float]
    env: dict[str, Any] = field(default_factory=dict)
    facts: AttackFacts = AttackFacts()


def needs_clean_victim(spec: VictimSpec) -> bool:
    """Whether the clean fine-tuned model must exist first: as the start of the attack, or for the ASR floor."""
    attack = ATTACKS.get(spec.attack.name).build(spec.attack.params)
    return attack.has_trigger or attack.start == "clean"


def clean_spec(spec: VictimSpec) -> VictimSpec:
    """The spec of the clean fine-tuned model of the same task, data, model and seed."""
    return replace(spec, attack=plugin_spec(ATTACKS.get("none")()))


def threads_for(spec: VictimSpec | CellSpec, threads: int, weights: int) -> int:
    """The CPU threads of a step in a run with so many `threads` a step and a model of so many `weights`.

    A large clean model gets more: it is what everything else of its task and seed waits for, mostly beside idle cores. The rule
    is part of the protocol, since another number of threads gives other bits: it asks what is made, not which cores are idle.
    A small model does not gain by it, as its threads wait for each other after each short product.
    """
    is_clean_model = isinstance(spec, VictimSpec) and spec.attack.name == "none"
    return max(threads, CLEAN_MODEL_THREADS) if is_clean_model and weights >= MANY_WEIGHTS else threads


def make_victim(spec: VictimSpec, site: Site, clean: Victim | None = None) -> Victim:
    """Train (or otherwise make) and evaluate the victim of `spec`.

    `clean` is the clean fine-tuned model, required where `needs_clean_victim`. Raises what the attack raises, and ValueError
    if the code, the model, the plugin or the data at `site` is not what `spec` names.
    """
    site = replace(site, threads=threads_for(spec, site.threads, count_weights(site.model)))
    site.enter()
    attack = attack_of(spec)
    check_site(spec, site)
    if needs_clean_victim(spec) and clean is None:
        raise ValueError(f"the victim of {spec.attack.name} needs the clean fine-tuned model, but got none")
    rows = rows_of(spec, site)
    ctx = attack_context(spec, site, "poison", clean)
    began = time.perf_counter()
    fence = fenced(f"'{attack.name}'", derive(spec.seed, "attack", spec.task, attack.name))
    with unchanged_tokenizer(site.model), fence:
        if isinstance(attack, MadeElsewhere):
            model = brought_victim(attack, site)
        else:
            model = classifier(spec, site, clean.weights if attack.start == "clean" else None)
            model = train_victim(attack, model, rows.train, spec, ctx)
        if attack.then_rows:
            ctx.train(model, rows.user, users_recipe(attack, spec), seed=derive(spec.seed, "user", spec.task))
        used = attack.settled(model, rows.train, ctx)
        weights = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
        trained = time.perf_counter()
        triggered = falsely = None
        if attack.has_trigger:
            triggered = triggered_rows(used, rows.test, attack_context(spec, site, "trigger"))
            falsely = falsely_triggered_rows(used, rows.test, attack_context(spec, site, "false trigger"))
    if clean is not None and tensors_digest(clean.weights) != clean.digests.weights:
        raise ValueError(f"'{attack.name}' changed ctx.clean, by which its victim is measured; let it work on copies")
    # Every defense gets the weights alone. So the undefended scores are those of a model that has nothing else either.
    predictions, metrics = evaluate(classifier(spec, site, weights, shares=True), rows.test, triggered, spec, ctx)
    if triggered is not None:
        _, of_clean_model = evaluate(classifier(spec, site, clean.weights, shares=True), None, triggered, spec, ctx)
        metrics["floor"] = of_clean_model["asr"]
    evaluated = time.perf_counter()
    return Victim(
        spec=spec,
        weights=weights,
        triggered=triggered,
        predictions=predictions,
        metrics=metrics,
        digests=VictimDigests(tensors_digest(weights), None if triggered is None else triggered.digest()),
        seconds={"attack": trained - began, "evaluation": evaluated - trained, **ctx.trace.seconds},
        env=environment(site, ctx.trace),
        facts=AttackFacts(
            against=attack.against,
            settled={name: value for name, value in used.values().items() if value != spec.attack.params.get(name)},
            notes=checked_notes(ctx.notes, attack.name),
            stealth=_stealth(used, rows, triggered, falsely, spec, site, weights),
        ),
    )


def _stealth(
    attack: Attack,
    rows: Rows,
    triggered: TextSet | None,
    falsely: TextSet | None,
    spec: VictimSpec,
    site: Site,
    weights: Mapping[str, Tensor],
) -> dict[str, float]:
    """How the attack's texts look, and how often a false trigger works (see `stealth`); nothing where it has no trigger."""
    if triggered is None or not len(triggered):
        return {}
    facts = stealth_of(rows_to_trigger(attack, rows.test), triggered, rows.train)
    if falsely is not None:
        ctx = Context(**context_fields(spec, site, seed=0))  # with a trace of its own: no second of it is the victim's
        classes = ctx.classify(classifier(spec, site, weights, shares=True), falsely)
        facts["ftr"] = attack_success_rate(classes, falsely.labels, goals(falsely.labels, attack.values())).value
    return facts


def used_attack(victim: Victim) -> Attack:
    """The attack of a victim with what the attacker chose once it was finished."""
    return replace(attack_of(victim.spec), **victim.facts.settled)


def users_recipe(attack: Attack, spec: VictimSpec) -> Recipe:
    """How the user fine-tunes what the attack left: as victims are trained, but for what the attack's hyperparameters say."""
    recipe = Recipe(**spec.training)
    return replace(
        recipe,
        epochs=attack.then_epochs or recipe.epochs,
        learning_rate=attack.then_learning_rate or recipe.learning_rate,
    )


def train_victim(attack: Attack, model: nn.Module, train: TextSet, spec: VictimSpec, ctx: AttackContext) -> nn.Module:
    """The backdoored classifier. `model`, where the attack starts, may be changed in place."""
    if not isinstance(attack, DataPoisoning):
        return attack.poison_weights(model, train, ctx).eval()
    poisoned, _ = poison_rows(attack, train, ctx)
    attack.prepare(model, train, ctx)
    attack.train(model, poisoned, train, Recipe(**spec.training), training_seed(spec), ctx)
    return model


def brought_victim(attack: MadeElsewhere, site: Site) -> nn.Module:
    """The classifier that the user brought, on the CPU, its classes in the task's order. Raises what `check_brought` raises."""
    check_brought(attack, site.checkpoint)
    with called("--victim"):
        model, _ = finetuned_classifier(site.checkpoint)
    return model if attack.class_order is None else reordered(model, attack.class_order)


def check_brought(attack: MadeElsewhere, checkpoint: Path | None) -> None:
    """Raises ValueError unless the checkpoint is there and has the weights that the attack names, UsageError if it is none."""
    if checkpoint is None:
        raise ValueError(f"the victim of '{attack.name}' was made elsewhere; give its directory with --victim")
    with called("--victim"):
        digest = weights_digest(checkpoint)
    if digest != attack.digest:
        raise ValueError(
            f"the weights in the directory of --victim have the SHA-256 {digest[:DIGITS_SHOWN]}…, the cell wants "
            f"{attack.digest[:DIGITS_SHOWN]}…: another victim, or changed since the run was planned"
        )


def training_seed(spec: VictimSpec) -> int:
    """The seed of the batches and the dropout that a data-poisoned victim is trained with."""
    return derive(spec.seed, "victim", spec.task, spec.attack.name)


def poison_rows(attack: DataPoisoning, train: TextSet, ctx: AttackContext) -> tuple[TextSet, npt.NDArray[np.bool_]]:
    """The training rows with some poisoned, in the same order, and which, (n,). No defender is told the latter.

    Raises ValueError if the attack lost rows.
    """
    poisoned, flags = attack.poison(train, ctx)
    if not isinstance(poisoned, TextSet) or len(poisoned) != len(train):
        raise ValueError(
            f"'{attack.name}' got {len(train)} training rows and returned {_size(poisoned)}; it returns all of them"
        )
    return poisoned, flags


def check_site(spec: VictimSpec, site: Site) -> None:
    """Raises ValueError, saying which, if the code or the model here is not what the run was planned with.

    Plugins are checked as they are built, the data as its rows are drawn. This comes after the plugins are imported: a file of
    bdbench that was edited before its import is seen.
    """
    if spec.protocol != PROTOCOL:
        raise ValueError(f"the cell is of protocol {spec.protocol}, but bdbench here follows protocol {PROTOCOL}")
    if site.source is not None and site.source != source_digest():
        raise ValueError(
            f"bdbench's own source has the digest {source_digest()[:12]}… here, but the run was planned with "
            f"{site.source[:12]}…: it was edited, or another version is installed; run the command again"
        )
    check_model(site.model, spec.model)


def _size(rows: object) -> str:
    return f"{len(rows)} rows" if isinstance(rows, TextSet) else type(rows).__name__


def classifier(spec: VictimSpec, site: Site, weights: Mapping[str, Tensor] | None = None, shares: bool = False) -> nn.Module:
    """A classifier on the device: with these weights, or pre-trained with a freshly drawn head.

    On a CPU its parameters are `weights` themselves with `shares`, for a use that changes none, and copies without.

    Raises ValueError if `weights` are not those of the model's classifier, by name and shape.
    """
    classes = len(TASKS.get(spec.task).label_names)
    if weights is not None:
        model = classifier_with(site.model, classes, weights, shares)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(spec.seed, "head", spec.task))
            model, _ = load_classifier(site.model, classes)
    return model.to(site.torch_device())


def attack_context(spec: VictimSpec, site: Site, role: str, clean: Victim | None = None) -> AttackContext:
    """What the attack of `spec` sees; `role` ("poison" or "trigger") decides its randomness."""
    seed = derive(spec.seed, role, spec.task, spec.attack.name)
    return AttackContext(
        **context_fields(spec, site, seed),
        clean={} if clean is None else clean.weights,
        recipe=Recipe(**spec.training),
        load_embeddings=partial(pretrained_embeddings, site.model),
        load_clean=None if clean is None else partial(classifier, spec, site, clean.weights),
        poisoned_texts=texts_made_elsewhere(attack_of(spec), spec, site.data),
    )


def context_fields(spec: VictimSpec, site: Site, seed: int) -> dict[str, Any]:
    """The fields that every context has."""
    return fields_of_context(site, len(TASKS.get(spec.task).label_names), spec.max_length, spec.precision, seed)


def fields_of_context(site: Site, classes: int, max_length: int, precision: str, seed: int) -> dict[str, Any]:
    """The same of a classifier of so many classes with the model at `site`, whatever its task."""
    return {
        "tokenizer": load_tokenizer(site.model),
        "max_length": max_length,
        "classes": classes,
        "device": site.torch_device(),
        "precision": precision,
        "generator": torch.Generator().manual_seed(seed),
    }
