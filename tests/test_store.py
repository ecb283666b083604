"""What the stores keep, and what they never throw away."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_protocol import SPLITS, VICTIM, cell, old_record

from bdbench.errors import UsageError
from bdbench.matrix.results import Results, read_predictions, read_records
from bdbench.matrix.victim_store import VictimStore
from bdbench.protocol.victims import Victim
from bdbench.registry import ATTACKS, DEFENSES, PluginFile
from bdbench.specs.metrics import Metric
from bdbench.specs.records import Record, VictimDigests


def victim(weight: float = 1.0) -> Victim:
    return Victim(
        spec=VICTIM,
        weights={"w": torch.full((3, 2), weight)},
        triggered=SPLITS.test,
        predictions={"clean": np.array([0, 1], dtype=np.int8)},
        metrics={"cacc": Metric(0.5, 2)},
        digests=VictimDigests("a" * 64, SPLITS.test.digest()),
        seconds={"attack": 1.0},
    )


def test_a_victim_comes_back_as_it_was(tmp_path):
    store = VictimStore(tmp_path)
    assert store.load(VICTIM) is None
    store.save(victim())
    back = store.load(VICTIM)
    assert torch.equal(back.weights["w"], victim().weights["w"]) and back.metrics == victim().metrics
    assert back.digests == victim().digests
    assert back.triggered.digest() == SPLITS.test.digest()
    assert back.predictions["clean"].tolist() == [0, 1]


def test_a_whole_victim_stays_and_a_damaged_one_gives_way(tmp_path):
    store = VictimStore(tmp_path)
    store.save(victim(1.0))
    store.save(victim(2.0))
    assert store.load(VICTIM).weights["w"][0, 0] == 1.0
    weights = tmp_path / VICTIM.key() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert store.load(VICTIM) is None
    store.save(victim(2.0))
    assert store.load(VICTIM).weights["w"][0, 0] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == [VICTIM.key()]


def test_a_good_record_is_not_lost_to_a_later_failure(tmp_path):
    results = Results(tmp_path)
    results.write(Record(cell(), "failed", "once"))
    results.write(Record(cell(), "ok", metrics={"cacc": Metric(0.5, 2)}), {"clean": np.array([1], dtype=np.int8)})
    results.write(Record(cell(), "failed", "again"))
    (record,) = read_records(tmp_path)
    assert record.status == "ok" and results.done(record.key)
    assert read_predictions(tmp_path, record)["clean"].tolist() == [1]


def test_a_failure_does_not_replace_what_another_process_finished_meanwhile(tmp_path):
    first, second = Results(tmp_path), Results(tmp_path)
    first.write(Record(cell(), "ok", metrics={"cacc": Metric(0.5, 2)}), {"clean": np.array([1], dtype=np.int8)})
    second.write(Record(cell(), "failed", "here"))
    assert [record.status for record in read_records(tmp_path)] == ["ok"] and second.done(cell().key())


def test_a_record_under_another_name_and_one_cell_in_two_files_are_refused(tmp_path):
    results = Results(tmp_path)
    results.write(Record(cell(), "failed", "once"))
    copy = tmp_path / "records" / "copy.json"
    copy.write_bytes((tmp_path / "records" / f"{cell().key()}.json").read_bytes())
    with pytest.raises(UsageError, match=f"copy.json: .*{cell().key()}.json"):
        read_records(tmp_path)
    copy.unlink()
    old = old_record()
    results.write(Record.from_json(old))
    (tmp_path / "records" / f"{old['key']}.json").write_text(json.dumps(old))  # the same in the older schema
    with pytest.raises(UsageError, match="the same cell as"):
        read_records(tmp_path)


def test_a_victim_under_another_key_or_with_an_incomplete_description_is_not_used(tmp_path):
    store, other = VictimStore(tmp_path), replace(VICTIM, seed=1)
    store.save(victim())
    (tmp_path / VICTIM.key()).rename(tmp_path / other.key())
    assert store.load(other) is None and store.load(VICTIM) is None
    store.save(victim())
    meta = tmp_path / VICTIM.key() / "meta.json"
    whole = json.loads(meta.read_text())
    for name in ("digests", "sha256", "env", "spec"):
        meta.write_text(json.dumps({field: value for field, value in whole.items() if field != name}))
        assert store.load(VICTIM) is None
    meta.write_text(json.dumps(whole | {"sha256": {}}))
    assert store.load(VICTIM) is None
    store.save(victim(2.0))
    assert store.load(VICTIM).weights["w"][0, 0] == 2.0


def test_a_plugin_file_that_comes_back_to_its_old_text_is_run_again(tmp_path):
    source = (
        "from bdbench.defenses.base import ModelRepair, register\n"
        '@register("returning", paper="none")\n'
        "class Returning(ModelRepair):\n"
        "    def repair(self, model, ctx):\n"
        "        return model\n"
    )
    versions = []
    for text in (source, source + "# edited\n", source):
        load(tmp_path, text)
        versions.append(DEFENSES.get("returning").version)
    assert versions[0] == versions[2] != versions[1]
    del DEFENSES._classes["returning"]


def test_a_plugin_that_exits_while_it_is_loaded_is_refused(tmp_path):
    with pytest.raises(UsageError, match="fails to run: SystemExit: 0"):
        load(tmp_path, "import sys\nsys.exit(0)\n")


@pytest.mark.parametrize("content", ["[]", "{", "3", json.dumps({"schema": 1})])
def test_a_file_that_is_no_record_is_named(content, tmp_path):
    Results(tmp_path)
    (tmp_path / "records" / "odd.json").write_text(content)
    with pytest.raises(UsageError, match="odd.json: not a record"):
        read_records(tmp_path)


def load(tmp_path, source: str) -> None:
    (tmp_path / "plugin.py").write_text(source)
    PluginFile.read(tmp_path / "plugin.py").load()


def test_a_plugin_that_forgets_the_dataclass_is_refused(tmp_path):
    source = (
        "from bdbench.defenses.base import ModelRepair, register\n"
        "from bdbench.params import hp\n"
        '@register("forgetful", paper="none")\n'
        "class Forgetful(ModelRepair):\n"
        '    share: float = hp(0.5, help="share")\n'
        "    def repair(self, model, ctx):\n"
        "        return model\n"
    )
    with pytest.raises(UsageError, match=r"no @dataclass\(frozen=True\)"):
        load(tmp_path, source)
    assert "forgetful" not in DEFENSES.names()


def test_a_plugin_cannot_take_the_name_of_a_built_in_that_is_not_imported_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(ATTACKS, "_classes", {})
    source = (
        "from bdbench.attacks.base import BadNets, register\n"
        '@register("badnets-sentence", paper="none")\n'
        "class Mine(BadNets):\n"
        "    pass\n"
    )
    with pytest.raises(UsageError, match=r"two attacks are named 'badnets-sentence': bdbench \(badnets_sentence.py\)"):
        load(tmp_path, source)
