"""How rows are dealt out, what a key depends on, and what a context hands over."""

import platform
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bdbench.data import TextSet
from bdbench.errors import UsageError
from bdbench.params import Hyperparameters
from bdbench.protocol.cells import clean_spec, draw_rows
from bdbench.registry import ATTACKS
from bdbench.specs.records import CellSpec, DataSpec, Metric, ModelSpec, PluginSpec, Record, VictimSpec
from bdbench.tasks.base import Splits


def numbered(prefix: str, rows: int) -> TextSet:
    return TextSet(tuple(f"{prefix} {i}" for i in range(rows)), None, np.arange(rows) % 2)


SPLITS = Splits(numbered("train", 100), numbered("validation", 30), numbered("test", 40), ("no", "yes"), "directory")
VICTIM = VictimSpec(
    task="sst2",
    data=DataSpec("directory", "f" * 64, None, train_rows=70, test_rows=20),
    model=ModelSpec("tiny", "d" * 64, "f" * 64),
    max_length=32,
    training={"epochs": 1},
    precision="fp32",
    attack=PluginSpec("badnets-word", "1", {"rate": 0.1, "target": 1}),
    seed=0,
)


def drawn(clean_rows=10, **changes):
    return draw_rows(replace(VICTIM, **changes), SPLITS, clean_rows, validation_rows=10)


@pytest.mark.parametrize("seed", range(20))
def test_the_clean_set_shares_no_row_with_what_trained_the_victim(seed):
    rows = drawn(30, seed=seed)
    assert (len(rows.train), len(rows.clean)) == (70, 30)
    assert not set(rows.train.first) & set(rows.clean.first)


def test_a_larger_clean_set_changes_no_training_row_and_contains_the_smaller():
    assert drawn(10).train.digest() == drawn(30).train.digest()
    assert set(drawn(10).clean.first) < set(drawn(30).clean.first)


def test_rows_depend_on_the_seed_but_not_on_the_attack_and_test_rows_on_neither():
    other = PluginSpec("embedding-poisoning", "1", {})
    assert drawn().train.digest() == drawn(attack=other).train.digest() != drawn(seed=1).train.digest()
    assert drawn().test.digest() == drawn(seed=1).test.digest()
    assert drawn().validation.digest() == drawn(seed=1).validation.digest()


def test_training_and_clean_rows_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="70 training rows and 31 clean rows, but the train split has 100"):
        drawn(31)


FAULTS = """
import resource, sys, torch
from bdbench.protocol.cells import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
def round():
    held = [torch.ones(2**22) for _ in range(10)]  # 16 MiB each
for i in range(6):
    if i == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_memory_is_kept_for_the_next_use():
    faults = {
        word: int(subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True).stdout)
        for word in ("keep", "leave")
    }
    # three rounds of 160 MiB are 122,880 pages of 4 KiB; with huge pages fewer, but far from none
    assert faults["keep"] < 50 < faults["leave"]


def cell(victim=VICTIM, **params) -> CellSpec:
    return CellSpec(victim, (PluginSpec("fine-mixing", "1", {"ratio": 0.3, **params}),), clean_rows=64, validation_rows=0)


def test_a_key_is_that_of_the_effective_values_in_any_order():
    reordered = replace(VICTIM, attack=PluginSpec("badnets-word", "1", {"target": 1, "rate": 0.1}))
    assert cell().key() == cell(reordered).key()
    others = [
        cell(ratio=0.5),
        cell(replace(VICTIM, seed=1)),
        cell(replace(VICTIM, model=replace(VICTIM.model, digest="e" * 64))),
        cell(replace(VICTIM, model=replace(VICTIM.model, files="e" * 64))),
        cell(replace(VICTIM, data=replace(VICTIM.data, fingerprint="e" * 64))),
        replace(cell(), defense=(PluginSpec("fine-mixing", "2", {"ratio": 0.3}),)),
        replace(cell(), clean_rows=32),
    ]
    assert len({spec.key() for spec in (cell(), *others)}) == 8
    assert cell().key() == cell(replace(VICTIM, model=replace(VICTIM.model, name="elsewhere"))).key()


def test_the_clean_victim_is_the_same_for_every_attack():
    other = replace(VICTIM, attack=PluginSpec("embedding-poisoning", "1", {"rate": 1.0}))
    assert clean_spec(VICTIM) == clean_spec(other) != VICTIM
    assert clean_spec(clean_spec(VICTIM)) == clean_spec(VICTIM)
    assert clean_spec(VICTIM).attack.name == "none" and not ATTACKS.get("none").has_trigger


def test_a_record_survives_json_and_an_edited_one_is_refused():
    record = Record(cell(), "ok", metrics={"cacc": Metric(0.9, 20)}, needs=("clean",), given={"seeds": [0]})
    raw = record.to_json()
    assert Record.from_json(raw).to_json() == raw
    raw["spec"]["victim"]["seed"] = 3
    with pytest.raises(ValueError, match="the file was edited"):
        Record.from_json(raw)


def test_texts_and_labels_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"2 texts but labels of shape \(3,\)"):
        TextSet(("a", "b"), None, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="2 first texts but 1 second texts"):
        TextSet(("a", "b"), ("c",), np.array([0, 1]))


def test_the_digest_of_a_text_set_sees_every_boundary():
    sets = [
        TextSet(("ab", "c"), None, np.array([0, 1])),
        TextSet(("a", "bc"), None, np.array([0, 1])),
        TextSet(("ab", "c"), None, np.array([1, 1])),
        TextSet(("ab",), ("c",), np.array([0])),
        TextSet(("ab", "c"), ("", ""), np.array([0, 1])),
    ]
    assert len({rows.digest() for rows in sets}) == len(sets)
    with pytest.raises(ValueError, match="read-only"):
        sets[0].labels[0] = 1


def test_hyperparameters_are_of_their_declared_type():
    assert ATTACKS.get("badnets-word").build({"rate": "1", "target": "0"}).values()["rate"] == 1.0
    with pytest.raises(UsageError, match="badnets-word.target=True is not of type int"):
        ATTACKS.get("badnets-word").build({"target": True})
    with pytest.raises(UsageError, match="has no hyperparameter 'word'"):
        ATTACKS.get("badnets-word").build({"word": "cf"})
    assert Hyperparameters().values() == {}
