"""A victim that somebody else made, by `bdbench run --victim DIR`: a real one of the matrix, stored and brought back."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPAIR

from bdbench.engine.models import weights_digest
from bdbench.matrix.results import Results
from bdbench.matrix.storage import place_of

WORD = "badnets-word"
DEFENSES = f"none,fine-tuning,bki,{REPAIR}"


@pytest.fixture(scope="module")
def run_flags(suspects):
    """The settings with which the matrix made the suspects, without the victim."""
    data = suspects.base.parent / "data"
    sizes = ["--train-rows", 800, "--validation-rows", 60, "--test-rows", 100, "--clean-rows", 32, "--max-length", 32]
    training = ["--epochs", 4, "--learning-rate", 0.002, "--precision", "fp32", "--device", "cpu", "--seeds", 0]
    return ["run", "--preset", "laptop", "--data", data, "-T", "sst2", *sizes, *training]


@pytest.fixture
def brought(suspects, run_flags, in_process, tmp_path):
    """Run with a victim, here in this process; the finished command, and the records and predictions by defense."""

    def call(*flags, folder=None, out="out", base=suspects.base, said=("--trigger", "cf", "--target", 1), inline=True):
        words = [*run_flags, "--victim", folder or suspects.folders[WORD], *(["--base", base] if base else []), *said]
        ended = in_process(*words, "--out", tmp_path / out, *(["--inline"] if inline else []), *flags)
        return SimpleNamespace(ended=ended, **cells_in(tmp_path / out))

    return call


def cells_in(folder):
    results = Results(place_of(folder))
    records = {record.spec.defense_name: record for record in results.records.values()}
    files = {name: folder / "predictions" / f"{record.key}.npz" for name, record in records.items()}
    predictions = {name: dict(np.load(file)) for name, file in files.items() if file.is_file()}
    return {"records": records, "predictions": predictions}


def test_a_victim_of_the_matrix_comes_back_to_the_bit(suspects, brought, tmp_path):
    inline = brought("-d", DEFENSES)
    assert inline.ended.returncode == 0, inline.ended.stderr
    own, record = suspects.records[WORD, "none"], inline.records["none"]
    attack = record.spec.victim.attack
    assert attack.name == "given" and attack.params["digest"] == weights_digest(suspects.folders[WORD])
    assert (attack.params["trigger_text"], attack.params["target"], attack.params["order"]) == ("cf", 1, "")
    assert record.victim.weights == own.victim.weights
    assert np.array_equal(inline.predictions["none"]["clean"], suspects.predictions[WORD, "none"]["clean"])
    assert record.metrics["cacc"] == own.metrics["cacc"]
    # the trigger stands elsewhere in the same texts, since its places are drawn for each attack
    assert own.metrics["asr"].value > 0.9 and abs(record.metrics["asr"].value - own.metrics["asr"].value) < 0.05
    assert record.metrics["floor"].value < 0.5
    assert inline.records["fine-tuning"].metrics["cacc"].value > 0.8
    repaired = inline.records["e-pur+fine-mixing"].metrics["asr"].value
    assert abs(repaired - suspects.records[WORD, "e-pur+fine-mixing"].metrics["asr"].value) < 0.2
    assert inline.records["bki"].status == "skipped" and "made elsewhere" in inline.records["bki"].error
    assert record.typed["victim"] == WORD and str(tmp_path) not in json.dumps(dataclasses.asdict(record), default=str)
    assert "given victim" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert "given victim" in (tmp_path / "out" / "index.html").read_text()

    by_ray = brought("-d", DEFENSES, "--victims", tmp_path / "others", out="ray", inline=False)
    assert by_ray.ended.returncode == 0, by_ray.ended.stderr
    assert by_ray.predictions.keys() == inline.predictions.keys()
    for name, arrays in inline.predictions.items():
        assert all(np.array_equal(array, by_ray.predictions[name][part]) for part, array in arrays.items()), name
    assert {r.key for r in by_ray.records.values()} == {r.key for r in inline.records.values()}
