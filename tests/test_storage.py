"""Results and victims on URIs: what a folder keeps, memory:// and an S3 server on this machine keep, too."""

import io
import json
import logging
import threading
import time
import urllib.request
from dataclasses import asdict, replace
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from extras import needs, skip_without
from test_protocol import VICTIM, cell
from test_store import CLASSES, ok_record, victim

from bdbench.errors import StorageError, UsageError
from bdbench.matrix import remote_lock, remote_place
from bdbench.matrix.remote_lock import lock_of_place, locked_place
from bdbench.matrix.remote_victims import MOST_VICTIMS, Errands, RemoteVictims, victims_at
from bdbench.matrix.results import Results, read_predictions, read_records
from bdbench.matrix.storage import LocalPlace, place_of
from bdbench.matrix.victim_store import VictimStore
from bdbench.specs.records import Record

SECRET = "hush"


@pytest.fixture(scope="module")
def s3():
    """A function: a bucket's name -> its URI, but for the path, on a server that speaks S3; the bucket is made."""
    skip_without("moto")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()

    def uri(path: str) -> str:
        bucket = path.partition("/")[0]
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{bucket}", method="PUT")).close()
        return f"s3://user:{SECRET}@{path}?endpoint_override={quote(f'127.0.0.1:{port}', safe='')}&scheme=http&region=us-east-1"

    yield uri
    server.stop()


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def uri(request, tmp_path):
    """A place that is not there yet, in each kind of storage."""
    name = f"{tmp_path.name.replace('_', '-').lower()}-{time.monotonic_ns()}"
    if request.param == "s3":
        return request.getfixturevalue("s3")(f"bucket/{name}/run")
    return {"folder": f"{tmp_path}/run", "file": f"{(tmp_path / 'run').as_uri()}", "memory": f"memory://{name}/run"}[
        request.param
    ]


@pytest.fixture
def memory(tmp_path):
    """A place in memory, prepared."""
    place = place_of(f"memory://{tmp_path.name}-{time.monotonic_ns()}/run")
    place.prepare("--out")
    return place


def test_a_place_keeps_whole_files_by_name(uri):
    place = place_of(uri).absolute()
    with pytest.raises(FileNotFoundError):
        place.names()
    place.prepare("--out")
    place.prepare("--out")
    assert place.names() == [] and not place.exists("a.json")
    with pytest.raises(FileNotFoundError):
        place.read("a.json")
    assert place.write("a.json", b"1") == place.at("a.json") == f"{place}/a.json"
    place.write("a.json", b"22")
    sub = place.sub("b")
    sub.prepare("--out")
    sub.write("c", b"\0" * 300_000)
    assert place.read("a.json") == b"22" and place.names() == ["a.json", "b"] and sub.names() == ["c"]
    assert len(sub.read("c")) == 300_000
    place.rename("a.json", "d")
    place.write("e", b"333")  # in memory all readers of one file share its position, so each has its own
    assert list(place.map(place.read, ["d", "e"])) == [b"22", b"333"] and not place.exists("a.json") and place.exists("d")
    beside = place.beside("victims")
    beside.prepare("--victims")
    beside.write("x", b"")
    assert place.beside("victims").names() == ["x"] and str(beside) == str(place).removesuffix("run") + "victims"


def test_results_are_kept_wherever_the_run_is(uri, caplog):
    results = Results(uri)
    results.write(ok_record(), CLASSES)
    results.write(Record(cell(), "failed", "again"))  # of less worth: the first one stays
    (record,) = read_records(uri)
    assert (record.status, record.predictions) == ("ok", f"predictions/{cell().key()}.npz")
    assert read_predictions(uri, record)["clean"].tolist() == [1]
    assert Results(uri).done(record.key)
    place = place_of(uri)
    place.sub("records").write(f"{record.key}.json", b"{")
    with pytest.raises(UsageError, match=f"{record.key}.json: not a record"):
        read_records(uri)
    results.write(ok_record(), CLASSES)
    assert f"{record.key}.json.damaged" in place.sub("records").names() and len(read_records(uri)) == 1
    with pytest.raises(UsageError, match="not in that folder's own"):
        read_predictions(uri, replace(record, predictions="predictions/../records/x.json"))
    place.sub("predictions").write(f"{record.key}.npz", b"PK")
    with pytest.raises(UsageError, match="damaged predictions"):
        read_predictions(uri, record)


def test_a_run_that_is_not_there_is_refused(uri):
    with pytest.raises(UsageError, match="no folder 'records' that can be read"):
        read_records(uri)


def refusal(uri: str) -> str:
    with pytest.raises(UsageError) as refused:
        place_of(uri).prepare("--out")
    line = str(refused.value)
    assert len(line.splitlines()) == 1 and len(line) < 700 and SECRET not in line
    return line


def test_a_uri_that_cannot_be_used_is_one_line_without_its_secrets(s3, monkeypatch):
    monkeypatch.setattr(remote_place, "ATTEMPTS", 1)
    nobody = f"s3://user:{SECRET}@bucket/run?endpoint_override=127.0.0.1%3A9&scheme=http&region=us-east-1"
    began = time.monotonic()
    assert "--out s3://bucket/run: cannot be written to" in refusal(nobody)
    assert time.monotonic() - began < 30
    with pytest.raises(UsageError, match="no folder 'records'"):
        read_records(nobody)
    assert "s3://nosuchbucket/run: cannot be written to" in refusal(s3("bucket/run").replace("@bucket/", "@nosuchbucket/"))
    assert "nosuch://a/b: no storage that can be opened" in refusal(f"nosuch://user:{SECRET}@a/b?key={SECRET}")
    assert "known: endpoint_override, region, scheme" in refusal(f"s3://bucket/run?secret={SECRET}")
    assert "it names no bucket" in refusal("s3:///run?region=us-east-1")
    with pytest.raises(UsageError, match="s3://bucket: a whole bucket; name a folder in it, such as s3://bucket/run"):
        place_of(s3("bucket")).beside("victims")


@needs("moto")
def test_what_stops_answering_is_a_storage_error_and_moves_no_record_aside(tmp_path, monkeypatch):
    """A server that ends meanwhile."""
    from moto.server import ThreadedMotoServer

    monkeypatch.setattr(remote_place, "ATTEMPTS", 1)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/gone", method="PUT")).close()
    results = Results(f"s3://user:{SECRET}@gone/run?endpoint_override=127.0.0.1%3A{port}&scheme=http&region=us-east-1")
    server.stop()
    with pytest.raises(StorageError, match="s3://gone/run/records/.*json: cannot be read"):
        results.write(ok_record(), CLASSES)
    with pytest.raises(StorageError, match="s3://gone/run/x: cannot be written .*run the same command again"):
        results.place.write("x", b"")
    with pytest.raises(StorageError, match="cannot be read"):
        RemoteVictims(results.place).is_whole("k")


def packed(folder) -> dict[str, bytes]:
    store = VictimStore(folder)
    store.save(victim())
    return dict(store.pack(VICTIM.key()))


@pytest.mark.parametrize("uri", ["memory", "s3"], indirect=True)
def test_a_remote_victim_is_there_once_its_meta_is(uri, tmp_path, caplog):
    store, files, key = victims_at(place_of(uri)).prepare(), packed(tmp_path / "here"), VICTIM.key()
    home = place_of(uri).sub(key)
    assert not store.is_whole(key) and store.pack(key) is None
    for name in files:
        assert not store.is_whole(key)
        if name != "meta.json":
            home.write(name, files[name])
    store.unpack(key, files)
    assert store.is_whole(key) and store.pack(key) == files
    assert not caplog.records
    home.remove("triggered.parquet")
    assert not store.is_whole(key) and "no triggered.parquet" in caplog.text
    store.unpack(key, files)
    assert store.pack(key) == files


@pytest.mark.parametrize("damaged", ["model.safetensors", "predictions.npz", "triggered.parquet"])
def test_a_remote_victim_with_another_digest_is_not_used_and_is_made_again(damaged, memory, tmp_path, caplog):
    store, files, key = victims_at(memory), packed(tmp_path / "here"), VICTIM.key()
    store.unpack(key, files)
    memory.sub(key).write(damaged, files[damaged][:-1])
    assert store.pack(key) is None and damaged in caplog.text
    assert not store.is_whole(key)
    store.unpack(key, files)
    assert store.is_whole(key) and victims_at(memory).pack(key) == files


def test_meta_is_sent_last_and_taken_away_before_a_damaged_victim_is_written_over(memory, tmp_path, monkeypatch):
    store, files, key = victims_at(memory), packed(tmp_path / "here"), VICTIM.key()
    store.unpack(key, files)
    memory.sub(key).write("model.safetensors", b"")
    assert store.pack(key) is None
    calls = []
    write = remote_place.RemotePlace.write

    def noted(place, name, content):
        calls.append((name, place.exists("meta.json")))
        return write(place, name, content)

    monkeypatch.setattr(remote_place.RemotePlace, "write", noted)
    store.unpack(key, files)
    assert calls == [(name, False) for name in ("model.safetensors", "predictions.npz", "triggered.parquet", "meta.json")]


def test_errands_bring_victims_here_and_send_what_was_made(memory, tmp_path):
    remote, here, key = victims_at(memory), tmp_path / "here", VICTIM.key()
    errands = Errands(remote, here)
    VictimStore(here).save(victim())
    assert not errands.has(key)
    errands.send(key)
    assert errands.has(key)
    elsewhere = Errands(remote, tmp_path / "elsewhere")
    elsewhere.fetch([key, "0" * 16])
    assert VictimStore(tmp_path / "elsewhere").load(VICTIM).metrics == victim().metrics
    for number in range(MOST_VICTIMS + 2):
        (tmp_path / "elsewhere" / f"other{number}").mkdir()
    elsewhere.fetch([key])
    left = {home.name for home in (tmp_path / "elsewhere").iterdir()}
    assert len(left) == MOST_VICTIMS + 1 and key in left


@pytest.mark.parametrize("uri", ["folder", "memory", "s3"], indirect=True)
def test_one_driver_at_a_time_wherever_the_run_is(uri):
    place = place_of(uri)
    with locked_place(place):
        assert "process" in str(lock_of_place(place)) and not lock_of_place(place).is_stale
        refused = pytest.raises(UsageError, match="another run works in this folder: .*process.*give another --out, or wait")
        with refused, locked_place(place):
            pass
        assert lock_of_place(place) is not None
    assert lock_of_place(place) is None and place.names() == []
    with pytest.raises(KeyboardInterrupt), locked_place(place):
        raise KeyboardInterrupt
    with locked_place(place):
        pass


@pytest.mark.parametrize(
    ("place_of_owner", "silent", "is_gone"), [("elsewhere", 0, False), ("elsewhere", 400, True), (None, 0, True)]
)
def test_a_claim_is_taken_over_once_its_driver_is_gone(place_of_owner, silent, is_gone, s3, tmp_path, monkeypatch, caplog):
    place = place_of(s3(f"bucket/{time.monotonic_ns()}"))
    place.prepare("--out")
    owner = remote_lock.Owner.this_process()
    owner = replace(owner, place=place_of_owner) if place_of_owner else replace(owner, pid=2**22 + 5)
    place.write(f".lock-{owner.token}", json.dumps(asdict(owner)).encode())
    now = remote_lock._now(place)
    monkeypatch.setattr(remote_lock, "_now", lambda _: now + silent)
    if is_gone:
        with locked_place(place):
            assert len([name for name in place.names() if name.startswith(".lock-")]) == 1
        assert "is taken over" in caplog.text and place.names() == []
    else:
        with pytest.raises(UsageError, match="last sign of life .* it is taken over after 300 s"), locked_place(place):
            pass
        assert place.names() == [f".lock-{owner.token}"]


def test_a_claim_is_written_again_while_its_driver_works(memory, monkeypatch):
    monkeypatch.setattr(remote_lock, "BEAT_SECONDS", 0.01)
    with locked_place(memory):
        (claim,) = memory.names()
        content = memory.read(claim)
        memory.write(claim, b"")
        for _ in range(500):
            if memory.read(claim) == content:
                break
            threading.Event().wait(0.01)
        assert memory.read(claim) == content


@pytest.fixture
def small(tiny_bert, data_dir):
    sizes = ["--train-rows", 100, "--validation-rows", 20, "--clean-rows", 16, "--max-length", 32, "--epochs", 1]
    cells = ["-T", "sst2", "-a", "badnets-word", "-d", "none,fine-tuning", "-D", "fine-tuning.epochs=1"]
    return ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, *cells, *sizes]


def test_a_run_on_s3_leaves_all_there_and_goes_on_from_there(small, in_process, s3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = s3("bucket/study/run")
    first = in_process("run", *small, "--inline", "--out", out)
    assert first.returncode == 0, first.stderr
    assert not list(tmp_path.iterdir()) and SECRET not in first.stdout + first.stderr
    assert first.stdout.splitlines()[0] == "s3://bucket/study/run/leaderboard.md"
    place = place_of(out)
    tables = [f"leaderboard{end}" for end in ("-tables.tex", ".csv", ".md", ".tex")]
    assert place.names() == [".status.json", "index.html", *tables, "predictions", "records"]
    records = read_records(out)
    assert (
        [record.status for record in records] == ["ok", "ok"]
        and SECRET not in str(records)
        and str(tmp_path) not in str(records)
    )
    assert set(read_predictions(out, records[0])) == {"clean", "clean_gold", "triggered", "triggered_gold"}
    victims = place.beside("victims")
    assert len(victims.names()) == 2 and all("meta.json" in victims.sub(key).names() for key in victims.names())

    again = in_process("run", *small, "--inline", "--out", out)
    assert again.returncode == 0 and "2 cells are there already; 0 to run" in again.stderr
    local = in_process("run", *small, "--inline", "--out", tmp_path / "here" / "run", "--victims", s3("bucket/study/victims"))
    assert local.returncode == 0, local.stderr
    assert not (tmp_path / "here" / "victims").exists()
    assert {record.key: (record.victim, record.metrics) for record in read_records(tmp_path / "here" / "run")} == {
        record.key: (record.victim, record.metrics) for record in records
    }
    made = {key: json.loads(victims.sub(key).read("meta.json")) for key in victims.names()}
    assert len(made) == 2  # none was made again: they would have other seconds, and their records other victims

    report = place.read("leaderboard.md")
    place.write("leaderboard.md", b"")
    assert in_process("report", out).stdout == first.stdout and place.read("leaderboard.md") == report
    frame = pd.read_csv(io.BytesIO(place.read("leaderboard.csv")))
    assert len(frame) and np.isin(["defense"], frame.columns).all()
    assert "2 records: 2 ok" in in_process("status", out).stdout
    assert in_process("claims", out).returncode == 0


def test_a_remote_victim_that_is_damaged_is_made_again_in_the_same_run(small, in_process, tmp_path, caplog):
    victims = f"memory://{tmp_path.name}-{time.monotonic_ns()}/victims"
    assert in_process("run", *small, "--inline", "--out", tmp_path / "a", "--victims", victims).returncode == 0
    first = {record.key: record.metrics for record in read_records(tmp_path / "a")}
    place = place_of(victims)
    for key in place.names():
        place.sub(key).write("model.safetensors", b"")
    ended = in_process("run", *small, "--inline", "--out", tmp_path / "b", "--victims", victims)
    assert ended.returncode == 0 and caplog.text.count("is damaged (model.safetensors)") == 2, ended.stderr
    assert {record.key: record.metrics for record in read_records(tmp_path / "b")} == first
    assert all(RemoteVictims(place).pack(key) for key in place.names())


def test_a_path_stays_a_path(tmp_path):
    assert place_of(tmp_path) == place_of(str(tmp_path)) == place_of(tmp_path.as_uri()) == LocalPlace(tmp_path)
    assert place_of("a:b/c") == LocalPlace(place_of("a:b/c").folder) and str(place_of("a:b/c")) == "a:b/c"
