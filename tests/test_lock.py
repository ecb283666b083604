"""One driver per folder of results: who holds the lock is named, and the lock of one that is gone is taken over."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from test_store import Record, Results, cell

from bdbench.cli.app import main
from bdbench.errors import UsageError
from bdbench.matrix import lock
from bdbench.matrix.lock import locked
from bdbench.processes import place, start_of

HOLD = "import sys, time; from pathlib import Path; from bdbench.matrix.lock import locked\nwith locked(Path(sys.argv[1])):\n"


def left(folder, age: float = 0.0, **changed) -> None:
    """A lock as a driver leaves it that ended without releasing it, its last sign of life `age` seconds ago."""
    owner = {"user": "jane", "host": "node7", "pid": os.getpid(), "since": "2026-11-26 10:00 UTC"}
    owner |= {"place": place(), "started": start_of(os.getpid()), "token": "t"} | changed
    (folder / ".lock").write_text(json.dumps(owner))
    os.utime(folder / ".lock", (time.time() - age,) * 2)


def is_taken_over(folder) -> bool:
    try:
        with locked(folder):
            return True
    except UsageError as error:
        assert len(str(error).splitlines()) == 1 and "give another --out, or wait" in str(error)
        return False


def test_a_second_driver_is_refused_with_the_name_of_the_first(tmp_path):
    with locked(tmp_path / "run"):
        refusal = rf"{socket.gethostname()}, process {os.getpid()}, since 20.* another --out"
        with pytest.raises(UsageError, match=refusal), locked(tmp_path / "run"):
            pass
        with locked(tmp_path / "other"):
            pass
        assert not is_taken_over(tmp_path / "run")
    assert not list(tmp_path.rglob("*.*")) and is_taken_over(tmp_path / "run")


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_lock_is_released_however_the_run_ends(end, tmp_path):
    with pytest.raises(end), locked(tmp_path):
        raise end
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_driver_is_taken_over_and_said_so(tmp_path, caplog):
    command = [sys.executable, "-c", f"{HOLD}    print(flush=True); time.sleep(600)", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        assert not is_taken_over(tmp_path)
        first.send_signal(signal.SIGSTOP)
        assert not is_taken_over(tmp_path)  # it may go on
        first.kill()
        while start_of(first.pid) is not None:
            time.sleep(0.01)
        assert is_taken_over(tmp_path)  # its parent, this process, has not asked for it yet
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"process {first.pid}" in message and "taken over" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("changed", "age", "is_gone"),
    [
        ({}, 1e6, False),  # a process here that runs, however long it was silent
        ({"started": "1"}, 0, True),  # another process has its number now
        ({"pid": 2**22 + 5}, 0, True),
        ({"place": "elsewhere"}, 0, False),
        ({"place": "elsewhere", "pid": 2**22 + 5}, lock.STALE_SECONDS - 60, False),
        ({"place": "elsewhere"}, lock.STALE_SECONDS + 60, True),
        ({"pid": "1"}, 0, False),  # damaged: no owner to ask for
        ({"pid": "1"}, lock.STALE_SECONDS + 60, True),
    ],
)
def test_whose_lock_is_taken_over(changed, age, is_gone, tmp_path):
    left(tmp_path, age, **changed)
    assert is_taken_over(tmp_path) == is_gone
    assert [file.name for file in tmp_path.iterdir()] == ([] if is_gone else [".lock"])


@pytest.mark.parametrize("content", ["", "[]", "{", "3", '{"a": 1}', "[" * 100000])
def test_a_damaged_lock_counts_until_it_is_old(content, tmp_path):
    (tmp_path / ".lock").write_text(content)
    assert not is_taken_over(tmp_path)
    os.utime(tmp_path / ".lock", (1, 1))
    assert is_taken_over(tmp_path)


def test_the_owner_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / ".lock", (1, 1))
        while (tmp_path / ".lock").stat().st_mtime == 1:
            time.sleep(0.01)


RACE = """
import os, sys
from pathlib import Path
from bdbench.errors import UsageError
from bdbench.matrix.lock import locked

folder, rounds, drivers = Path(sys.argv[1]), 30, 6
for _ in range(rounds):
    go, started = os.pipe()
    ended, report = os.pipe()
    release, hold = os.pipe()
    children = []
    for _ in range(drivers):
        if not (child := os.fork()):
            os.close(started), os.close(hold)
            os.read(go, 1)
            try:
                with locked(folder):
                    os.write(report, b"w")
                    os.read(release, 1)
                    os._exit(0)  # as if killed: the lock stays
            except UsageError:
                os.write(report, b"-")
            os._exit(0)
        children.append(child)
    os.close(started)
    said = b""
    while len(said) < drivers:
        said += os.read(ended, drivers)
    os.close(hold)
    for child in children:
        os.waitpid(child, 0)
    for pipe in (go, ended, report, release):
        os.close(pipe)
    print(said.count(b"w"))
"""


def test_of_many_that_take_over_one_lock_a_single_one_gets_it(tmp_path):
    ended = subprocess.run([sys.executable, "-c", RACE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1"] * 30
    assert ended.stderr.count("taken over") == 29 and not list(tmp_path.glob(".lock-*"))


def test_a_run_is_refused_and_a_report_is_not_while_another_run_is_on(monkeypatch, capsys, tmp_path, tiny_bert, data_dir):
    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bdbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr().err

    flags = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "none", "-d", "none"]
    flags += ["--train-rows", 100, "--validation-rows", 20, "--inline", "--out", tmp_path / "run"]
    Results(tmp_path / "run").write(Record(cell(), "failed", "once"))
    with locked(tmp_path / "run"):
        status, error = call("run", *flags)
        assert status == 2 and "another run works in this folder" in error and len(error.splitlines()) == 1
        assert not (tmp_path / "victims").exists()
        assert call("report", tmp_path / "run", "--no-figures") == (0, "")
    status, error = call("run", *flags)
    assert status == 0, error
    assert not (tmp_path / "run" / ".lock").exists()
