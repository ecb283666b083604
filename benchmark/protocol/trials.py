"""One trial of a tuner: one setting of a defense on one victim, scored on the defender's validation rows. One process, no Ray.

No test row comes here: the rows are dealt out of splits that have no test split, and of a victim only its weights are kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor, nn

from bdbench.attacks.base import Attack
from bdbench.data import TextSet
from bdbench.engine.tokenizers import unchanged_tokenizer
from bdbench.engine.trace import Trace
from bdbench.fence import fenced
from bdbench.goals import goals
from bdbench.protocol.cells import apply_defense
from bdbench.protocol.contexts import AttackContext, Context
from bdbench.protocol.planting import PlantedTrigger, plant
from bdbench.protocol.plugins import parts_of
from bdbench.protocol.resources import Material
from bdbench.protocol.rows import DefenderSets, Rows, draw_rows, splits_of
from bdbench.protocol.scoring import join_rows, triggered_rows
from bdbench.protocol.site import Site
from bdbench.protocol.victims import Victim, attack_context, check_site, classifier, context_fields, used_attack
from bdbench.seeds import derive
from bdbench.specs.metrics import Labels, attack_success_rate, clean_accuracy
from bdbench.specs.work import CellSpec, VictimSpec

# Whose trigger a trial is scored by: none, the defender's own, or the attack's, which no defender knows.
Measure = Literal["accuracy", "planted", "oracle"]


@dataclass(frozen=True)
class Measured:
    """What a classifier scores on validation rows, and what it took.

    `cacc` and `asr` are in [0, 1]; `asr` is None without a trigger. `trained_rows` counts the rows trained on, as often as they
    were visited.
    """

    cacc: float
    asr: float | None
    trained_rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Suspect:
    """The classifier that trials repair, and the rows that they are scored on.

    - `victim` has nothing but its spec and the weights: its own, or those of the copy with the planted backdoor.
    - `rows` are the defender's; the test set is empty.
    - `scored` are validation rows. `triggered` are those of them that are not where the attack sends them, with the trigger.
      `goals`, (n,), are the classes that it sends these to. Both are None where the attack has no trigger.
    """

    victim: Victim
    rows: Rows
    scored: TextSet
    triggered: TextSet | None = None
    goals: Labels | None = None


def plant_in(victim: Victim, sets: DefenderSets, site: Site) -> tuple[dict[str, Tensor], PlantedTrigger]:
    """A copy of the victim's weights with a backdoor of the defender's own (see `planting`)."""
    site.enter()
    check_site(victim.spec, site)
    rows = defender_rows(victim.spec, site, sets)
    return plant(victim.spec, victim.weights, rows.clean, rows.validation, site)


def suspect_of(
    victim: Victim,
    measure: Measure,
    sets: DefenderSets,
    site: Site,
    planted: tuple[Mapping[str, Tensor], PlantedTrigger] | None = None,
) -> Suspect:
    """What the trials on a victim are about. `planted` is required for the measure "planted"."""
    site.enter()
    check_site(victim.spec, site)
    rows = defender_rows(victim.spec, site, sets)
    if measure == "planted":
        weights, trigger = planted
        scored = rows.validation.take(range(trigger.borrowed, len(rows.validation)))
        ctx = AttackContext(**context_fields(victim.spec, site, derive(victim.spec.seed, "planted trigger", victim.spec.task)))
        return _suspect(victim, weights, rows, scored, trigger.trigger(), ctx)
    attack = used_attack(victim)
    if measure == "accuracy" or not attack.has_trigger:
        return Suspect(_weights_alone(victim, victim.weights), rows, rows.validation)
    ctx = attack_context(victim.spec, site, "trigger")
    with unchanged_tokenizer(site.model), fenced(f"'{attack.name}'", derive(victim.spec.seed, "trigger", attack.name)):
        return _suspect(victim, victim.weights, rows, rows.validation, attack, ctx)


def undefended(suspect: Suspect, site: Site) -> Measured:
    """The score of the classifier before any defense."""
    spec = suspect.victim.spec
    return _measured(classifier(spec, site, suspect.victim.weights, shares=True).eval(), suspect, site, "none", Trace())


def run_trial(cell: CellSpec, suspect: Suspect, site: Site) -> Measured:
    """Apply the defense of `cell` to the suspect, and score what it leaves. Raises what the defense raises."""
    site.enter()
    check_site(cell.victim, site)
    if suspect.victim.spec.key() != cell.victim.key():
        raise ValueError(f"the trial is of the victim {cell.victim.key()}, but got the victim {suspect.victim.spec.key()}")
    began = time.perf_counter()
    with unchanged_tokenizer(site.model):
        repaired = apply_defense(cell, parts_of(cell), suspect.victim, Material(cell, site, suspect.rows))
    measured = _measured(repaired.model.eval(), suspect, site, cell.defense_name, repaired.trace)
    return replace(measured, seconds=time.perf_counter() - began)


def defender_rows(spec: VictimSpec, site: Site, sets: DefenderSets) -> Rows:
    """The rows of `draw_rows`, dealt out of splits without test rows: `test` is empty."""
    splits = splits_of(spec, site)
    return draw_rows(spec, replace(splits, test=splits.validation.take(())), sets)


def _suspect(
    victim: Victim, weights: Mapping[str, Tensor], rows: Rows, scored: TextSet, attack: Attack, ctx: AttackContext
) -> Suspect:
    triggered = triggered_rows(attack, scored, ctx)
    return Suspect(_weights_alone(victim, weights), rows, scored, triggered, goals(triggered.labels, attack.values()))


def _weights_alone(victim: Victim, weights: Mapping[str, Tensor]) -> Victim:
    """The victim without what its evaluation on test rows left."""
    return replace(victim, weights=dict(weights), triggered=None, predictions={}, metrics={})


def _measured(model: nn.Module, suspect: Suspect, site: Site, defense: str, trace: Trace) -> Measured:
    spec, scored, triggered = suspect.victim.spec, suspect.scored, suspect.triggered
    ctx = Context(**context_fields(spec, site, seed=0), trace=trace)  # evaluation draws nothing
    with fenced(f"'{defense}'", derive(spec.seed, "evaluation")):  # a repaired model may be its own code
        classes = ctx.classify(model, scored if triggered is None else join_rows([scored, triggered])).astype(np.int64)
    cacc = clean_accuracy(classes[: len(scored)], scored.labels).value
    if triggered is None:
        return Measured(cacc, None, trace.trained_rows)
    asr = attack_success_rate(classes[len(scored) :], triggered.labels, suspect.goals).value
    return Measured(cacc, asr, trace.trained_rows)
