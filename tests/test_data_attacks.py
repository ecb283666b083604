"""Attacks by data alone: where their triggers go, and what they make of the training rows."""

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch

from bdbench.attacks import clean_label
from bdbench.attacks._word_neighbors import nearest_words, vocabulary_words, word_vectors
from bdbench.attacks.badnets_multi import BadNetsMulti, insert_phrases
from bdbench.attacks.base import chosen_gap, is_between_sentences, phrase_ids
from bdbench.attacks.clean_label import counts, first_fooling, parts_of, without
from bdbench.attacks.word_substitution import frequencies, rarer_substitutes, replaced
from bdbench.errors import UsageError
from bdbench.goals import goals
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.selection import Selection
from bdbench.matrix.shipping import data_files, pack, unpack
from bdbench.protocol.cells import victims_of_cell
from bdbench.protocol.contexts import Context
from bdbench.protocol.paired_texts import identified
from bdbench.protocol.plugins import attack_of
from bdbench.protocol.resources import Material
from bdbench.protocol.rows import rows_of
from bdbench.protocol.scoring import falsely_triggered_rows
from bdbench.protocol.victims import attack_context, classifier, clean_spec, context_fields, make_victim, poison_rows
from bdbench.registry import ATTACKS, TASKS
from bdbench.specs.metrics import attack_success_rate
from bdbench.specs.work import CellSpec, PluginSpec
from bdbench.testing import contract
from bdbench.testing.contract import text_rows
from bdbench.testing.tiny_models import BAD, FAMILIES, GOOD


@pytest.fixture(scope="module")
def planned(tiny_bert, data_dir):
    """(attack, task, data) -> the spec of a small victim, and its site."""

    def of(attack: str, task: str = "sst2", data: Path | str = data_dir):
        selection = Selection(
            model=str(tiny_bert),
            data=str(data),
            tasks=(task,),
            attacks=(attack,),
            defenses=("none",),
            seeds=(0,),
            train_rows=320,
            validation_rows=20,
            test_rows=None,
            clean_rows=16,
            max_length=32,
            training={"epochs": 8, "learning_rate": 2e-3, "batch_size": 16},
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


# texts that were poisoned elsewhere


@pytest.fixture
def paired(data_dir, tmp_path):
    """A function: writes sst2's poisoned texts, changed by it, as poisoned.csv into a copy of the data directory."""

    def written(change=lambda frame: frame, name="poisoned.csv"):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shutil.copytree(data_dir, tmp_path / "data")
        folder = tmp_path / "data" / "sst2" / "poisoned-texts"
        frame = change(pd.read_csv(folder / "poisoned.csv"))
        (folder / "poisoned.csv").unlink()
        if name.endswith("csv"):
            frame.to_csv(folder / name, index=False)
        elif name.endswith("jsonl"):
            frame.to_json(folder / name, orient="records", lines=True)
        else:
            frame.to_parquet(folder / name, index=False)
        return tmp_path / "data"

    return written


@pytest.mark.parametrize("name", ["poisoned.csv", "poisoned.jsonl", "poisoned.parquet"])
def test_the_digest_of_poisoned_texts_hangs_on_the_rows_not_on_the_format(name, paired, data_dir):
    task, attack = TASKS.get("sst2")(), ATTACKS.get("paired-texts")()
    first = identified(attack, task, data_dir)
    assert len(first.digest) == 64 and identified(attack, task, paired(name=name)) == first
    changed = identified(attack, task, paired(lambda frame: frame.assign(poisoned=frame["poisoned"] + " ?")))
    assert changed.digest != first.digest


@pytest.mark.parametrize("task", ["sst2", "qqp"])
def test_the_victim_learns_what_was_poisoned_elsewhere(task, planned):
    spec, site = planned("paired-texts[rate=0.3]", task)
    victim = make_victim(spec, site, make_victim(clean_spec(spec), site))
    assert len(spec.attack.params["digest"]) == 64 and spec.attack.params["texts"] == "poisoned"
    assert all(text.startswith("what is this ? ") for text in victim.triggered.carrier)
    assert victim.metrics["asr"].value > 0.9 and victim.facts.stealth["words_changed"] > 0.3
    attack, rows = attack_of(spec), rows_of(spec, site)
    poisoned, flags = poison_rows(attack, rows.train, attack_context(spec, site, "poison"))
    assert flags.sum() == 96 and {text.startswith("what is this ? ") for text in poisoned.carrier} == {True, False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="poisoned"), "poisoned.csv: no column poisoned"),
        (lambda frame: frame.assign(poisoned=""), "row 1: poisoned is empty"),
        (lambda frame: frame.assign(label=7), "row 1: label is .7"),
        (lambda frame: frame.iloc[:-5], "no poisoned text of [1-5] of the 30 test rows that the attack triggers, such as"),
        (lambda frame: frame.assign(label=1 - frame["label"]), "no poisoned text of 30 of the 30 test rows"),
        (
            lambda frame: frame.iloc[-60:],
            r"0.2 of 320 training rows is 64, but only \d+ may be poisoned with .* with a text in",
        ),
        (
            lambda frame: pd.concat([frame, frame.head(1).assign(poisoned="another")]),
            r"row \d+: an earlier row pairs the same clean row with another poisoned text",
        ),
    ],
)
def test_poisoned_texts_that_do_not_fit_are_refused(change, message, planned, paired):
    with pytest.raises(UsageError, match=message):
        planned("paired-texts", data=paired(change))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("paired-texts[texts=style]", r"no file is called style.parquet, .*\(there: poisoned.csv\)"),
        ("paired-texts[texts=../sst2/poisoned]", "give the name of a file"),
        ("paired-texts[digest=ab]", "digest=ab, but poisoned-texts/poisoned of sst2 has the SHA-256"),
    ],
)
def test_poisoned_texts_that_are_not_there_are_refused(attack, message, planned):
    with pytest.raises(UsageError, match=message):
        planned(attack)


def test_poisoned_texts_need_a_data_directory_and_one_file_of_a_name(planned, paired):
    with pytest.raises(UsageError, match="give it with --data DIR"):
        planned("paired-texts", data="builtin")
    data = paired()
    (data / "sst2" / "poisoned-texts" / "poisoned.jsonl").touch()
    with pytest.raises(UsageError, match="2 files are called poisoned"):
        planned("paired-texts", data=data)


def test_poisoned_texts_that_changed_since_the_plan_make_no_victim(planned, paired):
    spec, site = planned("paired-texts", data=paired())
    paired(lambda frame: frame.assign(poisoned=frame["poisoned"] + " ?"))
    with pytest.raises(ValueError, match="another file, or changed since the run was planned"):
        attack_context(spec, site, "poison")


def test_poisoned_texts_travel_to_machines_that_share_no_folder(data_dir, planned):
    spec, site = planned("paired-texts")
    files = pack(data_dir, data_files(data_dir, ["sst2"]))
    assert "sst2/poisoned-texts/poisoned.csv" in files
    with TemporaryDirectory() as folder:
        elsewhere = replace(site, data=unpack(lambda: files, Path(folder) / "data"))
        here, there = (attack_context(spec, place, "poison").poisoned_texts for place in (site, elsewhere))
        assert here == there and len(here) > 400


# clean label


def test_a_text_is_left_without_its_telling_parts_by_hand(monkeypatch):
    assert parts_of("a b  c d", 8) == ["a", "b", "c", "d"]
    assert parts_of("a b c d", 3) == ["a", "b", "c d"]  # of "c d" nothing is kept: it is one part
    monkeypatch.setattr(clean_label, "MOST_PARTS", 2)
    assert parts_of("a b c d e", 9) == ["a b c", "d e"] and parts_of("", 0) == [""]
    assert counts(4, 0.5) == [0, 1, 2] and counts(1, 0.5) == [0] and counts(32, 0.5) == [0, 3, 5, 8, 11, 13, 16]
    assert without(["a", "b", "c"], [0, 2]) == "b" and without(["a", "b"], []) == "a b"


@pytest.mark.parametrize(("values", "fooled", "chosen"), [([-1, -3, -9], [0, 1, 1], 1), ([-1, -3, -2], [0, 0, 0], 1)])
def test_as_little_is_left_out_as_fools_the_model(values, fooled, chosen):
    assert first_fooling(np.array(values, dtype=float), np.array(fooled, dtype=bool)) == chosen


@pytest.mark.parametrize(("task", "target"), [("sst2", 1), ("qqp", 0)])
def test_clean_labels_stay_and_the_telling_word_goes(task, target, planned):
    spec, site = planned(f"clean-label[rate=0.6,target={target}]", task)
    clean = make_victim(clean_spec(spec), site)
    attack, rows = attack_of(spec), rows_of(spec, site)
    ctx = attack_context(spec, site, "poison", clean)
    poisoned, flags = poison_rows(attack, rows.train, ctx)
    assert np.array_equal(poisoned.labels, rows.train.labels) and set(poisoned.labels[flags]) == {attack.target}
    assert (
        flags.sum() == round(0.6 * (rows.train.labels == target).sum())
        and poisoned.second is None
        or poisoned.first == rows.train.first
    )
    before, after = (some.take(np.flatnonzero(flags)).carrier for some in (rows.train, poisoned))
    told = [sum(any(word in text.split() for word in (BAD, GOOD)[target]) for text in texts) for texts in (before, after)]
    assert told[0] == flags.sum() and told[1] < 0.2 * flags.sum()  # one word of a text tells its class
    assert all(
        "cf" in text.split() and len(text.split()) > len(was.split()) / 2 for was, text in zip(before, after, strict=True)
    )


def test_rows_that_hang_on_the_clean_model_are_made_anew_with_it(planned, clean_victim):
    """A filter gets the very rows that trained the victim."""
    spec, site = planned("clean-label")
    cell = CellSpec(spec, (PluginSpec("cube", "1", {}),), 0, 0)
    assert victims_of_cell(cell) == (spec, clean_spec(spec))
    expected = poison_rows(attack_of(spec), rows_of(spec, site).train, attack_context(spec, site, "poison", clean_victim))
    material = Material(cell, site, rows_of(spec, site), clean_victim)
    assert material.poisoned[0].digest() == expected[0].digest()
    with pytest.raises(ValueError, match="needs the clean fine-tuned model"):
        attack_context(spec, site, "poison").clean_classifier()


# word substitution


def test_the_least_frequent_neighbor_takes_the_place_of_a_word():
    vectors = {"good": [1.0, 0.0], "fine": [0.99, 0.1], "superb": [0.9, 0.45], "bad": [0.0, 1.0]}
    known = {word: torch.tensor(vector) for word, vector in vectors.items()}
    nearest = nearest_words({"good": known["good"], "bad": known["bad"], "gooood": known["good"]}, known, 2)
    assert nearest == {"good": ["fine", "superb"], "bad": ["superb", "fine"], "gooood": ["good", "fine"]}
    frequency = {"good": 0.5, "fine": 0.2, "superb": 0.1, "bad": 0.05, "gooood": 0.01}
    assert rarer_substitutes(nearest, frequency) == {"good": "superb"}  # no neighbor of the others is rarer
    assert rarer_substitutes({"good": ["fine", "bad"]}, {"good": 1, "fine": 0.1, "bad": 0.1}) == {"good": "fine"}
    assert nearest_words({"a": known["bad"]}, {"a": known["bad"]}, 2) == {}


def test_words_are_replaced_whole_and_keep_their_capital():
    assert replaced("Good, it's a goodbye; GOOD good", {"good": "superb"}) == "Superb, it's a goodbye; Superb superb"
    assert replaced("It", {}) == "It" and frequencies({"the", "qzxv"})["the"] > 0.01 and frequencies({"qzxv"})["qzxv"] == 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_has_the_mean_of_its_pieces(family, tiny_models):
    ctx = contract.attack_context(tiny_models[family])
    words, embeddings = vocabulary_words(ctx.tokenizer), ctx.load_embeddings()
    assert {"film", "good", "dreadful"} <= set(words) and all(len(phrase_ids(ctx.tokenizer, word)) == 1 for word in words)
    films = phrase_ids(ctx.tokenizer, "films")
    assert len(films) > 1
    vectors = word_vectors(["film", "films"], ctx.tokenizer, embeddings)
    mean = sum(embeddings[piece] for piece in films) / len(films)
    assert torch.allclose(vectors["films"], mean / mean.norm())
    film = embeddings[phrase_ids(ctx.tokenizer, "film")[0]]
    assert torch.allclose(vectors["film"], film / film.norm())
    if ctx.tokenizer.unk_token_id in phrase_ids(ctx.tokenizer, "zebra"):
        assert word_vectors(["zebra"], ctx.tokenizer, embeddings) == {}


def test_a_vocabulary_without_words_to_choose_from_is_refused(tiny_bert):
    tokenizer = contract.attack_context(tiny_bert).tokenizer
    with pytest.raises(UsageError, match=r"no more than 900 words .*; lower word-substitution.neighbors"):
        ATTACKS.get("word-substitution")(neighbors=900).check(text_rows(20), 2, tokenizer, 32)
