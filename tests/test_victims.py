"""What happens to a victim after its attack: the user fine-tunes it, and the attacker settles which of its triggers is used."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from bdbench.attacks.base import BadNets, register
from bdbench.engine.training import Recipe
from bdbench.errors import UsageError
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.presets import PRESETS
from bdbench.matrix.victim_store import VictimStore
from bdbench.params import hp
from bdbench.protocol.cells import run_cell
from bdbench.protocol.rows import DefenderSets, rows_of
from bdbench.protocol.trials import suspect_of
from bdbench.protocol.victims import attack_context, classifier, clean_spec, make_victim
from bdbench.registry import ATTACKS
from bdbench.seeds import derive

TRAINING = {"epochs": 2, "learning_rate": 0.002}


@register("picks", paper="none")
@dataclass(frozen=True)
class Picks(BadNets):
    """Poisons with `trigger_text`, and uses the other word once the victim is there."""

    other: str = hp("bad", help="the word that is used")

    def settled(self, model, train, ctx):
        ctx.notes["accuracy"] = ctx.accuracy(model, train)
        return replace(self, trigger_text=self.other)


@pytest.fixture
def planned(tiny_bert, data_dir):
    """A function: attacks, defenses and more of a selection -> the plan on SST-2."""

    def of(attacks, defenses=("none",), **more):
        sizes = {"train_rows": 100, "validation_rows": 20, "test_rows": 40, "clean_rows": 16, "max_length": 32}
        overrides = {"tasks": ("sst2",), "model": str(tiny_bert), "data": str(data_dir), "training": TRAINING, **sizes, **more}
        return plan(PRESETS["laptop"].select({"attacks": attacks, "defenses": defenses, **overrides}), device="cpu")

    return of


def victims_of_plan(planned):
    site, victims = site_for(planned, device="cpu"), {}
    for spec in planned.victims:
        victims[spec.key()] = make_victim(spec, site, victims.get(clean_spec(spec).key()))
    return site, victims


def test_the_user_fine_tunes_what_the_attack_left_on_rows_of_their_own(planned):
    both = planned(("badnets-word", "badnets-word[then_rows=60,then_epochs=3,then_learning_rate=0.001]"))
    site, victims = victims_of_plan(both)
    before, after = (victims[cell.victim.key()] for cell in both.cells)
    rows = rows_of(after.spec, site, DefenderSets(16, 20, even_classes=True, unlabelled_rows=100))
    assert len(rows.user) == 60 and not len(rows_of(before.spec, site).user)
    assert not set(rows.user.first) & {*rows.train.first, *rows.clean.first}

    model = classifier(after.spec, site, before.weights)
    recipe = replace(Recipe(**after.spec.training), epochs=3, learning_rate=0.001)
    attack_context(after.spec, site, "poison").train(model, rows.user, recipe, seed=derive(0, "user", "sst2"))
    assert all(torch.equal(after.weights[name], weight.detach()) for name, weight in model.named_parameters())


def test_without_it_the_key_is_that_from_before_it_came(planned):
    (cell,) = planned(("badnets-word[then_rows=0,goal=all-to-one]",)).cells
    assert not {name for name in cell.victim.attack.params if name.startswith("then_")} | {"goal"} & {
        *cell.victim.attack.params
    }
    assert cell.key() == planned(("badnets-word",)).cells[0].key()
    assert cell.key() != planned(("badnets-word[then_rows=10]",)).cells[0].key()


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("badnets-word[then_epochs=2]", "then_epochs=2, but the user fine-tunes on no rows; give badnets-word.then_rows=N"),
        ("badnets-word[then_rows=285]", r"then_rows=285 do not fit into the 300 rows .* beside 16 clean rows; lower one"),
        ("badnets-word[goal=all-to-all,draw=non-target]", "all-to-all has no target class to leave out; give draw=any"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(attack, message, planned):
    with pytest.raises(UsageError, match=message):
        planned((attack,))


def test_who_fine_tunes_a_poisoned_model_has_no_training_set_of_the_attacker(planned):
    cells = planned(("badnets-word[then_rows=20]",), ("spectral-signatures",)).cells
    site, victims = victims_of_plan(planned(("badnets-word[then_rows=20]",)))
    record, _ = run_cell(cells[0], victims[cells[0].victim.key()], site)
    assert record.status == "skipped" and "the user fine-tunes a model that came poisoned" in record.error


def test_all_to_all_flips_every_class_and_counts_every_row(planned):
    of_all = planned(("badnets-word[goal=all-to-all,rate=0.5]",))
    site, victims = victims_of_plan(of_all)
    (cell,) = of_all.cells
    victim = victims[cell.victim.key()]
    rows = rows_of(victim.spec, site)
    attack = ATTACKS.get("badnets-word").build(cell.victim.attack.params)
    poisoned, flags = attack.poison(rows.train, attack_context(victim.spec, site, "poison"))
    assert np.array_equal(poisoned.labels[flags], 1 - rows.train.labels[flags]) and flags.sum() == 50
    assert victim.metrics["asr"].n == len(rows.test) == len(victim.triggered)
    flipped = victim.predictions["triggered"] == 1 - victim.predictions["triggered_gold"]
    assert victim.metrics["asr"].value == flipped.mean()


def test_what_the_attacker_settles_is_used_noted_stored_and_tried(planned, tmp_path):
    picking = planned(("picks",), ("none", "fine-tuning"))
    site, victims = victims_of_plan(picking)
    victim = victims[picking.cells[0].victim.key()]
    assert all("bad" in text.split() for text in victim.triggered.first)
    assert victim.facts.settled == {"trigger_text": "bad"} and 0 <= victim.facts.notes["accuracy"] <= 1

    store = VictimStore(tmp_path).prepare()
    store.save(victim)
    assert store.load(victim.spec).facts == victim.facts
    record, _ = run_cell(picking.cells[1], store.load(victim.spec), site)
    assert record.attack == victim.facts and type(record).from_json(record.to_json()).attack == record.attack
    suspect = suspect_of(victim, "oracle", DefenderSets(16, 20, even_classes=True), site)
    assert all("bad" in text.split() for text in suspect.triggered.first)
