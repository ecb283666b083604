"""How rows are dealt out, what a key depends on, and what a record keeps."""

import json
import platform
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch

from bdbench.data import TextSet
from bdbench.engine.tensor_digest import tensors_digest
from bdbench.errors import UsageError
from bdbench.params import Hyperparameters
from bdbench.protocol.rows import DefenderSets, class_quotas, draw_rows, last_of_each_class
from bdbench.protocol.victims import clean_spec
from bdbench.registry import ATTACKS
from bdbench.specs.keys import PROTOCOL, key_of
from bdbench.specs.metrics import Metric
from bdbench.specs.records import Record, VictimDigests
from bdbench.specs.work import CellSpec, DataSpec, ModelSpec, PluginSpec, VictimSpec, component_names
from bdbench.tasks.base import Splits


def numbered(prefix: str, rows: int) -> TextSet:
    return TextSet(tuple(f"{prefix} {i}" for i in range(rows)), None, np.arange(rows) % 2)


SPLITS = Splits(numbered("train", 100), numbered("validation", 30), numbered("test", 40), ("no", "yes"), "directory")
VICTIM = VictimSpec(
    task="sst2",
    data=DataSpec("directory", "f" * 64, None, train_rows=70, test_rows=20),
    model=ModelSpec("tiny", "d" * 64, "c" * 64, "f" * 64),
    max_length=32,
    training={"epochs": 1},
    precision="fp32",
    attack=PluginSpec("badnets-word", "1", {"rate": 0.1, "target": 1}),
    seed=0,
)


def drawn(clean_rows=10, even_classes=False, splits=SPLITS, **changes):
    return draw_rows(replace(VICTIM, **changes), splits, DefenderSets(clean_rows, 10, even_classes))


@pytest.mark.parametrize("seed", range(20))
def test_the_clean_set_shares_no_row_with_what_trained_the_victim(seed):
    rows = drawn(30, seed=seed)
    assert (len(rows.train), len(rows.clean)) == (70, 30)
    assert not set(rows.train.first) & set(rows.clean.first)


@pytest.mark.parametrize("even_classes", [False, True])
def test_a_larger_clean_set_changes_no_training_row_and_contains_the_smaller(even_classes):
    sizes = [drawn(rows, even_classes) for rows in (9, 10, 11, 20)]
    assert len({rows.train.digest() for rows in sizes}) == 1
    for smaller, larger in zip(sizes, sizes[1:], strict=False):
        assert set(smaller.clean.first) < set(larger.clean.first)


@pytest.mark.parametrize("seed", range(20))
def test_an_even_clean_set_has_as_many_rows_of_each_class(seed):
    rows = drawn(21, even_classes=True, seed=seed)
    assert np.bincount(rows.clean.labels).tolist() == [11, 10]
    assert not set(rows.train.first) & set(rows.clean.first)
    assert rows.train.digest() == drawn(21, seed=seed).train.digest()  # the victim is the same


def test_classes_are_made_even_by_hand():
    assert class_quotas(5, 3) == [2, 2, 1] and class_quotas(64, 2) == [32, 32] and class_quotas(1, 2) == [1, 0]
    # of class 0 the last two of 0, 1, 4, 5; of class 1 the last of 2, 3
    assert last_of_each_class(np.array([0, 0, 1, 1, 0, 0]), [2, 1]).tolist() == [3, 4, 5]
    assert last_of_each_class(np.array([1, 0]), [0, 1]).tolist() == [0]


def test_an_even_clean_set_that_cannot_be_had_is_refused():
    train = SPLITS.train.with_labels([1] * 5 + [0] * 95)
    splits = replace(SPLITS, train=train)
    with pytest.raises(UsageError, match=r"even classes takes 10 of label 1, but beside .* has \d; .* --uneven-classes"):
        drawn(20, even_classes=True, splits=splits)
    assert len(drawn(20, splits=splits).clean) == 20


def test_rows_depend_on_the_seed_but_not_on_the_attack_and_test_rows_on_neither():
    other = PluginSpec("embedding-poisoning", "1", {})
    assert drawn().train.digest() == drawn(attack=other).train.digest() != drawn(seed=1).train.digest()
    assert drawn().test.digest() == drawn(seed=1).test.digest()
    assert drawn().validation.digest() == drawn(seed=1).validation.digest()


def test_training_and_clean_rows_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="70 training rows and 31 clean rows, but the train split has 100"):
        drawn(31)


FAULTS = """
import ctypes, resource, sys
from bdbench.protocol.site import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def round():  # by hand: behind a small object of PyTorch's, at the end of the heap, the system would get nothing back
    blocks = [c.malloc(2**24) for _ in range(10)]
    for block in blocks:
        c.memset(block, 1, 2**24)
    for block in reversed(blocks):
        c.free(block)
for i in range(6):
    if i == 2:
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
    # the first two rounds settle the heap; four rounds of 160 MiB are 163,840 pages of 4 KiB, with huge pages fewer
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
        cell(replace(VICTIM, model=replace(VICTIM.model, config="e" * 64))),
        cell(replace(VICTIM, model=replace(VICTIM.model, tokenizer="e" * 64))),
        cell(replace(VICTIM, protocol=VICTIM.protocol + 1)),
        replace(cell(), even_classes=True),
        cell(replace(VICTIM, data=replace(VICTIM.data, fingerprint="e" * 64))),
        replace(cell(), defense=(PluginSpec("fine-mixing", "2", {"ratio": 0.3}),)),
        replace(cell(), clean_rows=32),
    ]
    assert len({spec.key() for spec in (cell(), *others)}) == 11
    assert cell().key() == cell(replace(VICTIM, model=replace(VICTIM.model, name="elsewhere"))).key()


def changed(value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    return {"other": 1} if isinstance(value, dict) else "not None"


@pytest.mark.parametrize(
    "path",
    [
        (*path, field.name)
        for path, spec in (
            ((), cell()),
            (("victim",), VICTIM),
            (("victim", "data"), VICTIM.data),
            (("victim", "model"), VICTIM.model),
            (("victim", "attack"), VICTIM.attack),
        )
        for field in fields(spec)
        if not is_dataclass(getattr(spec, field.name))
        and (*path, field.name) not in (("defense",), ("victim", "model", "name"))
    ],
    ids=".".join,
)
def test_every_field_of_a_spec_is_in_the_key(path):
    """But the model's name, which is for people. The defense is tested above."""

    def with_change(spec, path):
        value = getattr(spec, path[0])
        return replace(spec, **{path[0]: with_change(value, path[1:]) if len(path) > 1 else changed(value)})

    assert with_change(cell(), path).key() != cell().key()


def test_the_clean_victim_is_the_same_for_every_attack():
    other = replace(VICTIM, attack=PluginSpec("embedding-poisoning", "1", {"rate": 1.0}))
    assert clean_spec(VICTIM) == clean_spec(other) != VICTIM
    assert clean_spec(clean_spec(VICTIM)) == clean_spec(VICTIM)
    assert clean_spec(VICTIM).attack.name == "none" and not ATTACKS.get("none").has_trigger


def test_a_record_survives_json_and_an_edited_one_is_refused():
    digests = VictimDigests("a" * 64, None)
    record = Record(cell(), "ok", metrics={"cacc": Metric(0.9, 20)}, needs=("clean",), typed={"seeds": [0]}, victim=digests)
    raw = record.to_json()
    assert Record.from_json(raw).victim == digests
    assert Record.from_json(raw).to_json() == raw
    raw["spec"]["victim"]["seed"] = 3
    with pytest.raises(ValueError, match="the file was edited"):
        Record.from_json(raw)


SCHEMA_1 = {  # as the first version wrote it, to the field
    "schema": 1,
    "key": "",
    "status": "ok",
    "error": None,
    "spec": {
        "victim": {
            **{"task": "sst2", "max_length": 48, "training": {"epochs": 3}, "precision": "bf16", "seed": 0},
            "data": {"source": "directory", "fingerprint": "f", "revision": None, "train_rows": 9, "test_rows": 4},
            "model": {"name": "bundled", "digest": "d", "files": "e"},
            "attack": {"name": "none", "version": "1", "params": {}},
        },
        "defense": [{"name": "fine-tuning", "version": "1", "params": {"epochs": 5}}],
        "clean_rows": 64,
        "validation_rows": 0,
    },
    "given": {"seeds": [0]},
    "needs": ["clean"],
    "metrics": {"cacc": {"value": 0.75, "n": 4}},
    "seconds": {},
    "predictions": "predictions/old.npz",
    "env": {"bdbench": "0.1.0"},
}


def old_record() -> dict:
    model = {name: value for name, value in SCHEMA_1["spec"]["victim"]["model"].items() if name != "name"}
    key = key_of({**SCHEMA_1["spec"], "victim": {**SCHEMA_1["spec"]["victim"], "model": model}})
    return json.loads(json.dumps(SCHEMA_1 | {"key": key}))


def test_a_record_of_schema_1_is_read_as_of_protocol_1_and_is_never_the_cell_of_today():
    record = Record.from_json(old_record())
    assert record.spec.victim.protocol == 1 < PROTOCOL
    assert (record.spec.even_classes, record.victim, record.notes, record.typed) == (False, None, {}, {"seeds": [0]})
    assert record.predictions == "predictions/old.npz" and record.metrics["cacc"].value == 0.75
    today = replace(record.spec, victim=replace(record.spec.victim, protocol=PROTOCOL))
    assert len({record.key, today.key(), old_record()["key"]}) == 3
    assert (
        Record.from_json(record.to_json()).to_json() == record.to_json()
    )  # written anew it is of today's schema, and still of protocol 1


def test_an_edited_record_of_schema_1_and_one_of_an_unknown_schema_are_refused():
    edited = old_record()
    edited["spec"]["victim"]["seed"] = 3
    with pytest.raises(ValueError, match="the file was edited"):
        Record.from_json(edited)
    with pytest.raises(ValueError, match="schema 3, but this version reads schemas 1 to 2"):
        Record.from_json(old_record() | {"schema": 3})


def test_the_digest_of_weights_sees_names_shapes_types_and_bits_but_not_the_order():
    one, zero = torch.ones(2, 3), torch.zeros(4)
    first = tensors_digest({"a": one, "b": zero})
    assert first == tensors_digest({"b": zero.clone(), "a": one.t().contiguous().t()})
    changed = one.clone()
    changed[1, 2] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    others = [
        {"a": one},
        {"a": one, "c": zero},
        {"a": one.t(), "b": zero},
        {"a": one.half(), "b": zero},
        {"a": changed, "b": zero},
    ]
    assert len({first, *(tensors_digest(other) for other in others)}) == 6


def test_a_component_that_comes_twice_is_numbered_by_its_place():
    parts = tuple(PluginSpec(name, "1", {}) for name in ("fine-mixing", "e-pur", "fine-mixing"))
    assert component_names(parts) == ("fine-mixing.1", "e-pur", "fine-mixing.3")
    assert component_names(parts[:2]) == ("fine-mixing", "e-pur")


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
