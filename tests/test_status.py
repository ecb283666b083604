"""`bdbench status`: what another shell learns of a run that goes on, was killed, has ended, or never was."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from test_lock import left
from test_store import Results, cell, ok_record

from bdbench.cli.app import main
from bdbench.engine.meter import TRAINING, Progress
from bdbench.errors import StorageError, UsageError
from bdbench.matrix import progress as progress_module
from bdbench.matrix.lock import locked
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.status import NAME, RunState, SlotState, StatusFile, describe
from bdbench.specs.records import Record

SLOT = SlotState("worker 2", "victim sst2 / none / seed 0", 600.0, Progress(TRAINING, 1200, 2800, 1, 60.0))
STATE = RunState(
    process=os.getpid(),
    started="2026-11-26T10:00:00Z",
    updated="2099-11-26T10:10:00Z",
    cells=840,
    done=119,
    failed=1,
    victims=20,
    victims_done=20,
    victims_failed=0,
    retried=0,
    cells_per_minute=14.4,
    seconds_left=2890.0,
    slots=(SLOT,),
)


def put(folder, state=STATE, **changed) -> None:
    folder.mkdir(exist_ok=True)
    StatusFile.in_folder(folder).put(replace(state, **changed))


def test_the_counts_in_words():
    assert str(STATE) == "119 of 840 cells done, 1 running, 1 failed, 720 remaining, 14 cells/min, about 0:48:10 left"
    early = replace(STATE, victims_done=3, victims_failed=1, retried=2, cells_per_minute=1.25, seconds_left=None, slots=())
    words = "3 of 20 victims ready, 1 victims failed, 2 tried again, 1.2 cells/min"
    assert str(early) == f"119 of 840 cells done, 1 failed, 720 remaining, {words}"


def test_of_a_run_that_goes_on_the_counts_and_the_slots(tmp_path):
    run = tmp_path / "run"
    with locked(run):
        assert describe(run)[0].endswith("it is starting")
        put(run, process=1)  # of an earlier run
        assert describe(run)[0].endswith("it is starting")
        put(run)
        first, slot = describe(run)
        assert first.startswith("running (") and f"process {os.getpid()}, since 20" in first and first.endswith(f"): {STATE}")
        assert slot == (
            "  worker 2: victim sst2 / none / seed 0: training 1,200 of 2,800 steps, 0:10:00 so far, "
            "about 0:01:20 of this training left"
        )
        put(run, updated="2026-11-26T10:10:00Z")
        assert describe(run)[0].endswith("(as of 2026-11-26 10:10 UTC)")
        put(run, end="finished")
        assert describe(run)[0].endswith("it is writing its tables")


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (None, "the last run was killed at about 2099-11-26 10:10 UTC: "),
        ("finished", "the last run finished at 2099-11-26 10:10 UTC: "),
        ("interrupted", "the last run was interrupted at 2099-11-26 10:10 UTC: "),
    ],
)
def test_of_a_run_that_has_ended_how_and_its_records(end, words, tmp_path):
    results = Results(tmp_path)
    results.write(ok_record())
    results.write(Record(cell(ratio=0.5), "failed", "once"))
    (tmp_path / "records" / "damaged.json").write_text("[")
    put(tmp_path, end=end)
    assert describe(tmp_path) == [f"not running; {words}3 records: 1 ok, 1 failed, 0 skipped, 1 unreadable"]
    left(tmp_path, started="1")  # another process has its number now
    assert describe(tmp_path) == [f"not running; {words}3 records: 1 ok, 1 failed, 0 skipped, 1 unreadable"]
    (tmp_path / NAME).unlink()
    (line,) = describe(tmp_path)
    assert line.startswith("not running; a run was killed before its first cell: 3 records")
    (tmp_path / ".lock").unlink()
    assert describe(tmp_path) == ["not running; 3 records: 1 ok, 1 failed, 0 skipped, 1 unreadable"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"process": 1}'])
def test_a_damaged_file_is_none(content, tmp_path):
    Results(tmp_path)
    (tmp_path / NAME).write_bytes(content)
    assert describe(tmp_path) == ["not running; 0 records: 0 ok, 0 failed, 0 skipped"]


def test_a_file_with_nonsense_in_it_is_none(tmp_path):
    Results(tmp_path)
    for field, value in {"cells": "x", "slots": [3], "updated": "today", "end": "no", "seconds_left": "1"}.items():
        put(tmp_path)
        raw = json.loads((tmp_path / NAME).read_text()) | {field: value}
        (tmp_path / NAME).write_text(json.dumps(raw))
        assert describe(tmp_path) == ["not running; 0 records: 0 ok, 0 failed, 0 skipped"], field


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_is_no_run_is_refused(there, tmp_path, monkeypatch, capsys):
    if there:
        (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="not the folder of a run"):
        describe(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["bdbench", "status", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "end"), [(None, "finished"), (KeyboardInterrupt, "interrupted"), (StorageError, "broken off")]
)
def test_the_file_says_how_the_run_ended(error, end, tmp_path):
    progress = MatrixProgress(2, 0, status=StatusFile.in_folder(tmp_path))
    try:
        with progress.shown():
            progress.started("worker 1", "a")
            if error:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    raw = json.loads((tmp_path / NAME).read_text())
    assert (raw["end"], raw["slots"], raw["process"]) == (end, [], os.getpid())


def test_a_file_that_cannot_be_written_ends_nothing(monkeypatch):
    monkeypatch.setattr(progress_module, "TICK_SECONDS", 0.01)
    tried = []

    def write(name, content):
        tried.append(name)
        raise StorageError("the disk is full")

    status = StatusFile(write)
    with MatrixProgress(2, 0, status=status).shown():
        while not tried:
            time.sleep(0.01)
        for _ in range(3):
            status.put_if_due(STATE)
        assert tried == [NAME]  # not due yet
        status.put(STATE)
    assert tried == [NAME] * 3


def test_a_real_run_asked_from_another_process_while_it_goes_when_killed_and_when_done(tiny_bert, data_dir, bdbench, tmp_path):
    out = tmp_path / "run"
    flags = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "badnets-word", "-d", "none"]
    flags += ["--train-rows", 200, "--validation-rows", 20, "--max-length", 32, "--inline", "--out", out]
    command = [sys.executable, "-m", "bdbench", "run", *map(str, [*flags, "--epochs", 1000])]
    log = (tmp_path / "log").open("w")
    counts = set()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log) as process:
        try:
            while len(counts) < 2:
                assert process.poll() is None, (tmp_path / "log").read_text()
                if (out / NAME).exists():
                    state = json.loads((out / NAME).read_text())  # whole at any time
                    counts |= {slot["progress"]["done"] for slot in state["slots"] if slot["progress"]}
                time.sleep(0.02)
            asked = bdbench("status", out)
        finally:
            process.kill()
    log.close()
    assert asked.returncode == 0, asked.stderr
    first, slot = asked.stdout.splitlines()
    assert f"process {process.pid}, since" in first and "0 of 1 cells done, 1 running, 0 failed, 1 remaining" in first
    assert slot.startswith("  this process: victim sst2 / none / seed 0: training ") and "steps" in slot
    assert str(tmp_path) not in (out / NAME).read_text() and os.uname().nodename not in (out / NAME).read_text()
    (killed,) = describe(out)
    assert killed.startswith("not running; the last run was killed at about 20") and killed.endswith(
        ": 0 records: 0 ok, 0 failed, 0 skipped"
    )
    assert bdbench("run", *flags, "--epochs", 1).returncode == 0
    (done,) = describe(out)
    assert done.startswith("not running; the last run finished at 20") and done.endswith(
        ": 1 records: 1 ok, 0 failed, 0 skipped"
    )


ASK = """
import sys
from bdbench.cli.app import main
try:
    main()
finally:
    sys.stderr.write(" ".join({"torch", "ray", "transformers", "numpy", "pandas"} & set(sys.modules)))
"""


def test_it_imports_nothing_large(tmp_path):
    Results(tmp_path)
    put(tmp_path)
    command = [sys.executable, "-c", ASK, "status", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "") and "0 records" in ended.stdout
