"""Keys are made from kept texts; they are those of the plain definition, to the digit."""

import copy
import pickle
from dataclasses import asdict, replace

import pytest

from bdbench.specs.keys import canonical, key_of
from bdbench.specs.work import CellSpec, DataSpec, ModelSpec, PluginSpec, VictimSpec

TEXTS = ("cf", "", 'a "quoted" \\ text', "new\nline\x00\x1f\x7f", "żółć 漢字 🙂", "\u2028", "</script>", "half \ud83d")
FLOATS = (0.1, 1e-07, 1.0, -0.0, 1e22, 5e-324, 1.7976931348623157e308, 2 / 3)
VALUES = (*TEXTS, *FLOATS, True, False, 0, -(2**63 - 1))


def cell_with(text: str, number: float) -> CellSpec:
    params = {f"p{place}": value for place, value in enumerate(VALUES)} | {text: number, "z": 1, "a": text}
    victim = VictimSpec(
        task=text,
        data=DataSpec("directory", "0" * 64, None if number > 1 else text, 12, 34),
        model=ModelSpec(text, "1" * 64, text, "3" * 64),
        max_length=64,
        training={"learning_rate": number, "epochs": 3, "batch_size": 16},
        precision="bf16",
        attack=PluginSpec("badnets-word", f"1+{text}", params),
        seed=2**62,
    )
    return CellSpec(victim, (PluginSpec("e-pur", "1", {}), PluginSpec(text, "2", dict(reversed(params.items())))), 64, 0, True)


LATER = {"unlabelled_rows": 0, "peers": (), "frr": None}  # fields that came after the first keys


def plain_key(spec: VictimSpec | CellSpec) -> str:
    values = asdict(spec)
    victims = [values["victim"], *values["peers"]] if isinstance(spec, CellSpec) else [values]
    for victim in victims:
        del victim["model"]["name"]
    return key_of({name: value for name, value in values.items() if name not in LATER or value != LATER[name]})


@pytest.mark.parametrize("number", FLOATS)
@pytest.mark.parametrize("text", TEXTS)
def test_keys_are_those_of_the_plain_definition(text, number):
    cell = cell_with(text, number)
    other = replace(cell.victim, seed=1)
    later = [replace(cell, **{field: value}) for field, value in (("unlabelled_rows", 5), ("peers", (other,)), ("frr", 0.05))]
    assert len({spec.key() for spec in (cell, *later)}) == 4
    for spec in (cell, cell.victim, replace(cell, defense=()), replace(cell, victim=other), *later):
        assert spec.key() == plain_key(spec) == spec.key()
    assert cell.defense[1].canonical == canonical(asdict(cell.defense[1]))
    assert cell.victim.data.canonical == canonical(asdict(cell.victim.data))


def test_a_kept_key_goes_neither_into_a_changed_spec_nor_into_a_copy():
    cell = cell_with("cf", 0.5)
    before = cell.key()
    assert replace(cell, clean_rows=63).key() != before
    for copied in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert copied == cell and not {"canonical", "_key"} & (vars(copied).keys() | vars(copied.victim).keys())
        copied.defense[1].params["a"] = "another"
        assert copied.key() == plain_key(copied) != before


def test_what_json_cannot_hold_has_no_key():
    with pytest.raises(ValueError, match="not JSON compliant"):
        cell_with("cf", float("nan")).key()
