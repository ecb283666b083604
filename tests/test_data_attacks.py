"""Attacks by data alone: where their triggers go, and what they make of the training rows."""

import numpy as np
import pytest

from bdbench.attacks.badnets_multi import BadNetsMulti, insert_phrases
from bdbench.attacks.base import chosen_gap, is_between_sentences, phrase_ids
from bdbench.errors import UsageError
from bdbench.goals import goals
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.selection import Selection
from bdbench.protocol.contexts import Context
from bdbench.protocol.plugins import attack_of
from bdbench.protocol.rows import rows_of
from bdbench.protocol.scoring import falsely_triggered_rows
from bdbench.protocol.victims import attack_context, classifier, clean_spec, context_fields, make_victim
from bdbench.registry import ATTACKS
from bdbench.specs.metrics import attack_success_rate
from bdbench.testing import contract
from bdbench.testing.contract import text_rows
from bdbench.testing.tiny_models import FAMILIES


@pytest.fixture(scope="module")
def planned(tiny_bert, data_dir):
    """(attack, task) -> the spec of a small victim, and its site."""

    def of(attack: str, task: str = "sst2"):
        selection = Selection(
            model=str(tiny_bert),
            data=str(data_dir),
            tasks=(task,),
            attacks=(attack,),
            defenses=("none",),
            seeds=(0,),
            train_rows=160,
            validation_rows=20,
            test_rows=None,
            clean_rows=16,
            max_length=32,
            training={"epochs": 3, "learning_rate": 3e-3, "batch_size": 16},
            precision="fp32",
        )
        small = plan(selection, "cpu")
        return small.cells[0].victim, site_for(small, device="cpu")

    return of


@pytest.fixture(scope="module")
def clean_victim(planned):
    spec, site = planned("badnets-word")
    return make_victim(clean_spec(spec), site)


# between sentences

TEXT = 'It ran . "It fell." She won! so what'


def test_gaps_between_sentences_by_hand():
    gaps = [0, 3, 7, 9, 13, 20, 24, 29, 32, 36]
    assert [gap for gap in gaps if is_between_sentences(TEXT, gap)] == [0, 9, 20, 29, 36]


@pytest.mark.parametrize(("number", "gap"), [(0.0, 0), (0.2, 9), (0.4, 20), (0.6, 29), (0.8, 36), (0.99, 36)])
def test_a_gap_between_sentences_is_drawn(number, gap):
    assert chosen_gap(TEXT, len(TEXT), 0, "sentence", number) == gap


def test_without_a_boundary_that_is_kept_any_gap_is_drawn():
    assert chosen_gap("one two three four", 9, 1, "sentence", 0.9) == 8  # of 4 and 8: the end is cut off
    assert [chosen_gap("one two. three", 10, 1, "sentence", number) for number in (0.0, 0.9)] == [9, 9]


# several triggers


def test_several_phrases_go_where_they_were_drawn():
    assert insert_phrases("one two", ["cf", "mn"], [0, 4]) == "cf one mn two"
    assert insert_phrases("one two", ["cf", "mn"], [4, 4]) == "one mn cf two"
    assert insert_phrases("one", ["cf", "mn"], [3, 0]) == "mn one cf"


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("drawn", [1, 2])
def test_every_text_keeps_as_many_triggers_as_are_drawn(drawn, family, pair, tiny_models):
    attack, rows = BadNetsMulti(drawn=drawn), text_rows(60, pair)  # cut at fewer pieces than most have
    ctx = contract.attack_context(tiny_models[family], max_length=16 if pair else 10)
    triggered = attack.trigger(rows, ctx)
    encoded = ctx.encode(triggered)
    found = set()
    for i, (text, original) in enumerate(zip(triggered.carrier, rows.carrier, strict=True)):
        inserted = [word for word in text.split() if word in attack.phrases]
        assert len(set(inserted)) == len(inserted) == drawn
        assert [word for word in text.split() if word not in attack.phrases] == original.split()
        pieces = encoded.ids[i].tolist()
        for ids in (phrase_ids(ctx.tokenizer, word) for word in inserted):
            assert any(pieces[start : start + len(ids)] == ids for start in range(len(pieces)))
        found |= set(inserted)
    assert found == set(attack.phrases)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"triggers": "cf+cf"}, "distinct"),
        ({"triggers": "+"}, "distinct"),
        ({"drawn": 4}, "there are 3 triggers"),
        ({"triggers": "cf+zebra"}, "does not know"),
        ({"rate": 0.0}, "no row"),
    ],
)
def test_triggers_that_cannot_be_used_are_refused(values, message, tiny_bert):
    ctx = contract.attack_context(tiny_bert)
    with pytest.raises(UsageError, match=f"badnets-multi.*{message}"):
        BadNetsMulti(**values).check(text_rows(20), 2, ctx.tokenizer, 32)


def test_part_of_the_triggers_is_a_false_trigger_whose_rate_is_on_record(planned, clean_victim):
    spec, site = planned("badnets-multi[drawn=2,rate=0.3]")
    victim, attack = make_victim(spec, site, clean_victim), attack_of(spec)
    false = falsely_triggered_rows(attack, rows_of(spec, site).test, attack_context(spec, site, "false trigger"))
    assert all(sum(word in attack.phrases for word in text.split()) == 1 for text in false.carrier)
    ctx = Context(**context_fields(spec, site, seed=0))
    classes = ctx.classify(classifier(spec, site, victim.weights), false)
    rate = attack_success_rate(classes, false.labels, goals(false.labels, attack.values())).value
    assert victim.facts.stealth["ftr"] == rate
    assert len(false) == victim.metrics["asr"].n and np.array_equal(false.labels, victim.triggered.labels)
    assert victim.facts.stealth["words_changed"] > 0.1


def test_one_trigger_of_several_has_no_part(tiny_bert):
    assert BadNetsMulti().false_trigger(text_rows(4), contract.attack_context(tiny_bert)) is None
    assert ATTACKS.get("badnets-word")().false_trigger(text_rows(4), contract.attack_context(tiny_bert)) is None
