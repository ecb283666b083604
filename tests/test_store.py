"""What the stores keep, and what they never throw away."""

import json
import math
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_protocol import SPLITS, VICTIM, cell, old_record

from bdbench.cli.app import main
from bdbench.errors import UsageError
from bdbench.files import sha256
from bdbench.matrix.results import Results, read_predictions, read_records
from bdbench.matrix.victim_store import VictimStore
from bdbench.plugin_files import PluginFile
from bdbench.protocol.victims import Victim
from bdbench.registry import ATTACKS, DEFENSES
from bdbench.specs.keys import key_of
from bdbench.specs.metrics import Metric
from bdbench.specs.records import Record, VictimDigests

CLASSES = {"clean": np.array([1], dtype=np.int8)}
GONE = object()


def ok_record() -> Record:
    return Record(cell(), "ok", metrics={"cacc": Metric(0.5, 20)}, victim=VictimDigests("a" * 64, None))


def victim(weight: float = 1.0) -> Victim:
    return Victim(
        spec=VICTIM,
        weights={"w": torch.full((3, 2), weight)},
        triggered=SPLITS.test,
        predictions={"clean": np.array([0, 1], dtype=np.int8)},
        metrics={"cacc": Metric(0.5, 20)},
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
    with pytest.raises(ValueError, match="read-only"):  # all cells of the victim share them
        back.predictions["clean"][0] = 1


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


@pytest.mark.parametrize("notes", [{"n": 2**64}, {"file": os.fsdecode(b"caf\xe9.csv")}, {"deep": math.inf}])
def test_a_record_that_nobody_could_read_is_a_failed_one_that_says_so(tmp_path, notes):
    results = Results(tmp_path)
    results.write(Record(cell(), "ok", metrics={"cacc": Metric(0.5, 20)}, notes=notes), {"clean": np.array([1], dtype=np.int8)})
    (record,) = read_records(tmp_path)
    assert record.status == "failed" and "what the cell left is no record that can be read" in record.error
    assert not results.done(record.key) and not list((tmp_path / "predictions").iterdir())


def test_what_is_kept_of_a_record_has_the_order_of_what_is_read(tmp_path):
    """A report of a run that has just ended is to be the one that is made of its files."""
    results = Results(tmp_path)
    results.write(replace(ok_record(), seconds={"total": 2.0, "attack": 1.0}, notes={"b": {"y": 1, "x": 2}, "a": 3}))
    (kept,), (read,) = results.records.values(), read_records(tmp_path)
    assert json.dumps(kept.to_json()) == json.dumps(read.to_json())
    assert list(kept.seconds) == ["attack", "total"] and list(kept.notes["b"]) == ["x", "y"]


def test_a_good_record_is_not_lost_to_a_later_failure(tmp_path):
    results = Results(tmp_path)
    results.write(Record(cell(), "failed", "once"))
    results.write(Record(cell(), "ok", metrics={"cacc": Metric(0.5, 20)}), {"clean": np.array([1], dtype=np.int8)})
    results.write(Record(cell(), "failed", "again"))
    (record,) = read_records(tmp_path)
    assert record.status == "ok" and results.done(record.key)
    assert read_predictions(tmp_path, record)["clean"].tolist() == [1]


def test_only_records_that_have_changed_are_read_again(tmp_path):
    results = Results(tmp_path)
    results.write(ok_record())
    (written,) = results.read()
    assert results.read()[0] is written and written == read_records(tmp_path)[0] == Results(tmp_path).read()[0]
    file = tmp_path / "records" / f"{written.key}.json"
    file.write_text(file.read_text().replace('"value": 0.5', '"value": 0.25'))
    assert results.read()[0].metrics["cacc"].value == 0.25
    other = cell(VICTIM, words=7)
    Results(tmp_path).write(replace(ok_record(), spec=other))
    assert {record.key for record in results.read()} == {written.key, other.key()}
    file.unlink()
    assert [record.key for record in results.read()] == [other.key()]


def test_a_failure_does_not_replace_what_another_process_finished_meanwhile(tmp_path):
    first, second = Results(tmp_path), Results(tmp_path)
    first.write(Record(cell(), "ok", metrics={"cacc": Metric(0.5, 20)}), {"clean": np.array([1], dtype=np.int8)})
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
    with pytest.raises(UsageError, match=r"called sys.exit\(0\), which would have ended the run"):
        load(tmp_path, "import sys\nsys.exit(0)\n")


@pytest.fixture
def record_file(tmp_path):
    """The file of an "ok" record, beside its predictions."""
    Results(tmp_path).write(ok_record(), CLASSES)
    return tmp_path / "records" / f"{cell().key()}.json"


def edited(raw: dict, path: str, value: object) -> str:
    """The text of a record with another value at a path such as "metrics.cacc.n", and the key that fits its spec."""
    *parents, last = path.split(".")
    place = raw
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    if path.startswith("spec.") and isinstance(raw["spec"]["victim"], dict):
        raw["key"] = key_of({**raw["spec"], "victim": {**raw["spec"]["victim"], "model": model_in_key(raw)}})
    return json.dumps(raw)


def model_in_key(raw: dict) -> dict:
    return {name: value for name, value in raw["spec"]["victim"]["model"].items() if name != "name"}


def refused_reading(file, reader=None) -> str:
    """The line with which reading the records is refused."""
    with pytest.raises(UsageError) as refusal:
        (reader or read_records)(file.parents[1])
    line = str(refusal.value)
    assert len(line.splitlines()) == 1 and line.isprintable() and len(line) < 600
    assert str(file) in line and "move it away and run the cell again, or use another --out" in line
    return line


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metrics.cacc.value", "0.5"),
        ("metrics.cacc.value", None),
        ("metrics.cacc.value", True),
        ("metrics.cacc.value", 1.5),
        ("metrics.cacc.value", -0.1),
        ("metrics.cacc.value", 0.51),  # of 20 rows
        ("metrics.cacc", {"value": 0.5, "n": 40}),  # of more than were tested
        ("metrics.cacc.n", -2),
        ("metrics.cacc.n", 0),
        ("metrics.cacc.n", 2.5),
        ("metrics.cacc.n", 10**400),
        ("metrics.cacc", [0.5, 2]),
        ("metrics.cacc", GONE),
        ("metrics.asr", {"value": 0.5, "n": 2}),  # without base and floor
        ("metrics", GONE),
        ("metrics", []),
        ("metrics", None),
        ("status", "fine"),
        ("status", []),
        ("status", "failed"),
        ("error", 3),
        ("schema", "2"),
        ("schema", None),
        ("key", 3),
        ("spec", None),
        ("spec", []),
        ("spec.victim", "x"),
        ("spec.defense", "none"),
        ("spec.defense", [3]),
        ("spec.clean_rows", "16"),
        ("spec.clean_rows", True),
        ("spec.victim.seed", "0"),
        ("spec.victim.seed", 10**300),
        ("spec.victim.task", 3),
        ("spec.victim.attack.params", {"rate": [1]}),
        ("spec.victim.data.test_rows", None),
        ("spec.victim.model.name", 3),
        ("needs", [1]),
        ("needs", "clean"),
        ("notes", 3),
        ("typed", []),
        ("victim", "abc"),
        ("victim", {"weights": 3, "triggered": None}),
        ("seconds", {"total": "1"}),
        ("env", []),
        ("env.source", 3),
        ("env.source", ["a"]),
        ("env.victim", "x"),
        ("error", "\ud800"),
        ("predictions", "../../etc/x.npz"),
        ("predictions", "/etc/x.npz"),
        ("predictions", "predictions/../x.npz"),
        ("predictions", "predictions/a/b.npz"),
        ("predictions", 3),
    ],
)
def test_a_record_with_a_damaged_field_is_one_line(path, value, record_file):
    record_file.write_text(edited(json.loads(record_file.read_text()), path, value))
    if "spec" in path and record_file.stem != (key := json.loads(record_file.read_text())["key"]):
        record_file = record_file.rename(record_file.with_name(f"{key}.json"))
    refused_reading(record_file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: f"[{text}]",
        lambda text: "null",
        lambda text: "3",
        lambda text: text.replace('"value": 0.5', '"value": NaN'),
        lambda text: text.replace('"value": 0.5', '"value": 1e999'),
        lambda text: text.replace('"value": 0.5', '"value": 0.75, "value": 0.5'),
        lambda text: text.replace('"n": 2', f'"n": {"9" * 5000}'),
        lambda text: text.replace('"notes": {}', '"notes": ' + "[" * 100_000 + "]" * 100_000),
        lambda text: text.replace('"notes": {}', '"notes": {"a": ' + "[" * 800 + "]" * 800 + "}"),
        lambda text: text.replace('"error": null', '"error": "\x1b[2J\x00"'),
        lambda text: text + text,
        lambda text: text.encode("utf-16"),
        lambda text: b"\xff\xfe\xfd",
    ],
)
def test_a_damaged_file_of_a_record_is_one_line_for_report_and_claims_and_run(damage, record_file, monkeypatch, capsys):
    damaged = damage(record_file.read_text())
    record_file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    refused_reading(record_file)
    refused_reading(record_file, Results)
    for command in ("report", "claims"):
        monkeypatch.setattr(sys, "argv", ["bdbench", command, str(record_file.parents[1])])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 2 and len(error.splitlines()) == 1 and record_file.name in error
    assert not list(record_file.parents[1].glob("leaderboard*"))


def test_a_record_that_is_a_folder_or_a_loop_is_named(record_file):
    record_file.unlink()
    record_file.mkdir()
    assert "Is a directory" in refused_reading(record_file)
    record_file.rmdir()
    record_file.symlink_to(record_file)
    assert "symbolic links" in refused_reading(record_file)


def test_a_record_that_was_damaged_meanwhile_is_moved_aside_and_the_run_goes_on(record_file, caplog):
    results = Results(record_file.parents[1])
    for number in ("", "1"):
        record_file.write_text(f"damaged{number}")
        results.write(Record(cell(), "failed", "again"))
        assert record_file.with_name(f"{record_file.name}.damaged{number}").read_text() == f"damaged{number}"
        assert f"it is now {record_file.name}.damaged{number}" in caplog.records[-1].getMessage()
    record_file.unlink()
    record_file.mkdir()
    results.write(ok_record(), CLASSES)
    record_file.unlink()
    results.write(ok_record(), CLASSES)  # one that vanished
    assert [record.status for record in read_records(record_file.parents[1])] == ["ok"]


@pytest.mark.parametrize("earlier", ["failed", "skipped", "ok"])
@pytest.mark.parametrize("later", ["failed", "skipped", "ok"])
def test_a_record_is_never_replaced_by_one_of_less_worth(earlier, later, tmp_path):
    made = {status: Record(cell(), status, f"{status} once") for status in ("failed", "skipped")} | {"ok": ok_record()}
    first, second = Results(tmp_path), Results(tmp_path)
    first.write(made[earlier])
    second.write(made[later])  # which has not seen the first one's
    order = ["failed", "skipped", "ok"]
    assert [record.status for record in read_records(tmp_path)] == [max(earlier, later, key=order.index)]
    assert second.done(cell().key()) == ({earlier, later} != {"failed"})


def test_predictions_are_read_from_the_runs_own_folder_alone(record_file, tmp_path):
    (record,) = read_records(tmp_path)
    assert read_predictions(tmp_path, record)["clean"].tolist() == [1]
    outside = tmp_path.parent / "outside.npz"
    np.savez(outside, clean=np.array([7]))
    file = tmp_path / record.predictions
    whole = file.read_bytes()
    file.unlink()
    file.symlink_to(outside)
    for place in (record.predictions, "../outside.npz", str(outside), "predictions/../../outside.npz", None):
        with pytest.raises(UsageError, match=f"record {record.key} .* not in that folder's own"):
            read_predictions(tmp_path, replace(record, predictions=place))
    file.unlink()
    for damaged in (None, b"", whole[:-30], b"PK" + whole):
        if damaged is not None:
            file.write_bytes(damaged)
        with pytest.raises(UsageError, match=f"{file.name}: damaged predictions .*--force"):
            read_predictions(tmp_path, record)
    np.savez(file, clean=np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="allow_pickle=False"):
        read_predictions(tmp_path, record)


@pytest.mark.parametrize(
    "damage", ["weights", "texts", "pickles", "no classes", "a list", "deep", "metrics", "outside", "no files"]
)
def test_a_victim_that_is_damaged_beneath_its_digests_is_not_used(damage, tmp_path, caplog):
    store = VictimStore(tmp_path)
    store.save(victim())
    home = tmp_path / VICTIM.key()
    meta = json.loads((home / "meta.json").read_text())
    if damage == "weights":
        (home / "model.safetensors").write_bytes((home / "model.safetensors").read_bytes()[:-4])
    if damage == "texts":
        (home / "triggered.parquet").write_bytes(b"PAR1PAR1")
    if damage == "pickles":
        np.savez(home / "predictions.npz", clean=np.array([print], dtype=object))
    if damage == "no classes":
        np.savez(home / "predictions.npz", clean=np.array([0.5]))
    meta["sha256"] = {name: sha256(home / name) for name in meta["sha256"]}
    if damage == "metrics":
        meta["metrics"]["cacc"]["value"] = "0.5"
    if damage == "outside":
        (tmp_path / "outside").touch()
        meta["sha256"]["../outside"] = sha256(tmp_path / "outside")
    text = {"a list": "[]", "deep": "[" * 100_000}.get(damage, json.dumps(meta))
    (home / "meta.json").write_text(text)
    if damage == "no files":
        (home / "model.safetensors").unlink()
        (home / "model.safetensors").mkdir()
    assert store.load(VICTIM) is None
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"victim {VICTIM.key()} is damaged (") and len(message.splitlines()) == 1
    store.save(victim(2.0))
    assert store.load(VICTIM).weights["w"][0, 0] == 2.0


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
