"""A disk that is full, or a folder that cannot be written to, ends a run with one line; what ended before stays."""

import errno
import os
import resource
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from test_protocol import VICTIM, cell
from test_store import victim

from bdbench.cli.app import main
from bdbench.errors import StorageError, UsageError, WorkersLost
from bdbench.files import LEFTOVER_SECONDS, make_writable, unfinished, write_whole
from bdbench.matrix.execute import WRITERS, execute
from bdbench.matrix.graph import Step
from bdbench.matrix.lock import locked
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.results import Results, read_records
from bdbench.matrix.victim_store import VictimStore
from bdbench.matrix.worker import CellOutcome, VictimOutcome
from bdbench.processes import place
from bdbench.specs.metrics import Metric
from bdbench.specs.records import Record
from bdbench.specs.work import CellSpec, PluginSpec


@contextmanager
def files_of_at_most(size: int):
    """The system refuses to let any file of this process grow beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def run(monkeypatch, capsys, tiny_bert, data_dir):
    """`bdbench run` in this process on two small cells, the second on another victim; exit status and standard error."""

    def call(*flags: object) -> tuple[int, str]:
        small = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-d", "none", "--epochs", 1]
        small += ["-a", "none,badnets-word", "--train-rows", 100, "--validation-rows", 20, "--max-length", 32]
        monkeypatch.setattr(sys, "argv", ["bdbench", "run", *map(str, [*small, *flags])])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr().err

    return call


@pytest.mark.parametrize("pool", [["--inline"], ["--workers", 1]])
def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(pool, run, small_disk, tmp_path):
    home = small_disk(160)
    status, error = run("--victims", home / "victims", "--out", tmp_path / "run", *pool)
    (line,) = [line for line in error.splitlines() if line.startswith("bdbench: ")]
    assert status == 1 and "Traceback" not in error and "failed" not in error.replace("0 failed", "")
    assert str(home / "victims") in line and os.strerror(errno.ENOSPC) in line and "MB are free" in line
    assert "free space and run the same command again" in line
    (record,) = read_records(tmp_path / "run")
    assert record.status == "ok" and record.spec.victim.attack.name == "none"  # the other one is missing, not failed
    assert len(list(home.rglob("meta.json"))) == 1 and not list(tmp_path.rglob(".writing-*"))
    assert (tmp_path / "run" / "leaderboard.md").is_file() and not (tmp_path / "run" / ".lock").exists()

    small_disk(3000)
    status, error = run("--victims", home / "victims", "--out", tmp_path / "run", "--inline")
    assert status == 0 and "1 cells are there already; 1 to run" in error, error
    assert [record.status for record in read_records(tmp_path / "run")] == ["ok", "ok"]


def test_a_victim_that_fits_only_by_the_estimate_leaves_nothing_behind(run, tmp_path):
    with files_of_at_most(60_000):
        status, error = run("--out", tmp_path / "run", "--inline")
    (line,) = [line for line in error.splitlines() if line.startswith("bdbench: ")]
    assert status == 1 and os.strerror(errno.EFBIG) in line and "MB are needed" in line and "ulimit -f" in line
    assert "Traceback" not in error
    assert not read_records(tmp_path / "run") and not list((tmp_path / "victims").iterdir())
    assert not list(tmp_path.rglob(".writing-*"))


def test_there_is_room_for_a_victim_before_it_is_trained(small_disk, tiny_bert):
    store = VictimStore(small_disk(60))
    with pytest.raises(StorageError, match=r"0\.1 MB are free there, 0\.1 MB are needed"):
        store.check_room(tiny_bert)
    small_disk(1000)
    store.check_room(tiny_bert)
    gone = VictimStore(store.folder / "gone")  # a folder that was removed during the run is made anew
    gone.check_room(tiny_bert)
    gone.folder.rmdir()
    gone.save(victim())
    assert gone.load(VICTIM) is not None


def test_a_record_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    results = Results(tmp_path)
    results.write(Record(cell(), "failed", "once"))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    predictions = {"clean": np.random.default_rng(0).integers(0, 999, 9999).astype(np.int16)}
    with files_of_at_most(2000), pytest.raises(StorageError, match="predictions/.*npz: cannot be written"):
        results.write(Record(cell(), "ok", metrics={"cacc": Metric(0.5, 20)}), predictions)
    with files_of_at_most(100), pytest.raises(StorageError, match="records/.*json: cannot be written"):
        results.write(Record(cell(), "failed", "again"))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.*")} == before


class BreakingPool:
    """Starts every step at once, and all end together: cells well, a victim as `of_victim` says. Then there is no pool left."""

    slots = 1

    def __init__(self, error: Exception, of_victim: VictimOutcome | None = None) -> None:
        self._error, self._of_victim, self._steps, self._is_gone = error, of_victim, [], False

    @property
    def running(self) -> int:
        return len(self._steps)

    def has_room(self, step, mishaps) -> bool:
        return True

    def start(self, step, waited_for, mishaps) -> None:
        self._steps.append(step)

    def ended(self, wait=True) -> list:
        if self._is_gone:
            raise self._error
        self._is_gone = True
        return [(step, self._of_victim if step.spec is VICTIM else CellOutcome(well(step.spec))) for step in self._steps]


def well(spec: CellSpec) -> Record:
    return Record(spec, "ok", metrics={"cacc": Metric(0.5, 20)})


class SlowResults(Results):
    def write(self, *what) -> None:
        time.sleep(0.05)
        super().write(*what)


STEPS = [Step(VICTIM), *(Step(CellSpec(VICTIM, (PluginSpec(f"d{number}", "1", {}),), 0, 0)) for number in range(3 * WRITERS))]


@pytest.mark.parametrize("error", [WorkersLost("none is left"), RuntimeError("none is left")])
def test_whatever_breaks_a_run_off_every_cell_that_ended_is_written(error, tmp_path):
    with pytest.raises(type(error), match="none is left"):
        execute(STEPS[1:], BreakingPool(error), SlowResults(tmp_path), MatrixProgress(len(STEPS) - 1, 0))
    assert len(read_records(tmp_path)) == len(STEPS) - 1


def test_a_victim_that_cannot_be_stored_costs_no_cell_that_ended_with_it(tmp_path):
    pool = BreakingPool(WorkersLost("none is left"), VictimOutcome("victims/: cannot be written", unstored=True))
    with pytest.raises(StorageError, match="victims/: cannot be written"):
        execute(STEPS, pool, SlowResults(tmp_path), MatrixProgress(len(STEPS) - 1, 1))
    assert len(read_records(tmp_path)) == len(STEPS) - 1


def test_a_disk_that_takes_no_record_is_not_asked_for_each(capsys, tmp_path):
    """What is printed meanwhile goes to memory: the limit holds for all files of the process."""
    asked = []

    class CountedResults(SlowResults):
        def write(self, *what) -> None:
            asked.append(what)
            super().write(*what)

    lost = WorkersLost("no worker is left")
    with files_of_at_most(10), pytest.raises(StorageError, match="cannot be written"):
        execute(STEPS[1:], BreakingPool(lost), CountedResults(tmp_path), MatrixProgress(len(STEPS) - 1, 0))
    assert len(asked) < len(STEPS) - 1 and not read_records(tmp_path)


def test_tables_that_cannot_be_written_are_one_line(monkeypatch, capsys, tmp_path):
    Results(tmp_path).write(Record(cell(), "failed", "once"))
    monkeypatch.setattr(sys, "argv", ["bdbench", "report", str(tmp_path)])
    with files_of_at_most(100), pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 1 and len(error.splitlines()) == 1 and "leaderboard.md: cannot be written" in error
    assert not list(tmp_path.glob("leaderboard*"))


def test_a_read_only_folder_of_victims_is_one_line(run, small_disk, tmp_path):
    home = small_disk(1000, "ro")
    status, error = run("--victims", home, "--out", tmp_path / "run", "--inline")
    assert status == 2 and len(error.splitlines()) == 1 and f"--victims {home}" in error and "Read-only" in error


@contextmanager
def umask(mask: int):
    earlier = os.umask(mask)
    try:
        yield
    finally:
        os.umask(earlier)


@pytest.mark.parametrize(("mask", "folder_mode", "file_mode"), [(0o002, 0o2775, 0o664), (0o077, 0o2700, 0o600)])
def test_what_is_written_has_the_modes_and_the_group_of_its_place(mask, folder_mode, file_mode, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    if os.geteuid() == 0:
        os.chown(shared, -1, 4242)
    shared.chmod(0o2775)
    with umask(mask):
        VictimStore(shared / "victims").prepare().save(victim())
        Results(shared / "run").write(
            Record(cell(), "ok", metrics={"cacc": Metric(0.5, 20)}), {"clean": np.array([1], dtype=np.int16)}
        )
    entries = [path.stat() for path in shared.rglob("*")]
    assert len(entries) == 2 + 4 + 3 + 2
    assert {stat.S_IMODE(entry.st_mode) for entry in entries if stat.S_ISDIR(entry.st_mode)} == {folder_mode}
    assert {stat.S_IMODE(entry.st_mode) for entry in entries if stat.S_ISREG(entry.st_mode)} == {file_mode}
    assert {entry.st_gid for entry in entries} == {shared.stat().st_gid}


def test_leftovers_of_killed_saves_are_swept_and_those_of_running_ones_are_not(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    kept, swept = [], []
    for folder in ("victims", "run", "run/records", "run/predictions"):
        make_writable(tmp_path / folder, "--out")
        mine = unfinished(tmp_path / folder)
        elsewhere, older = tmp_path / folder / ".writing-00000000-1-aa", tmp_path / folder / ".writing-old"
        dead = tmp_path / folder / f".writing-{place()}-{gone.pid}-bb"
        for path in (mine, elsewhere, older, dead):
            path.mkdir() if folder == "victims" else path.touch()
        if folder == "victims":
            (dead / "model.safetensors").touch()
        os.utime(older, (1, 1))
        kept += [mine, elsewhere]
        swept += [older, dead]
    assert LEFTOVER_SECONDS >= 600
    VictimStore(tmp_path / "victims").prepare()
    Results(tmp_path / "run")
    assert all(path.exists() for path in kept) and not any(path.exists() for path in swept)


def test_a_lock_that_cannot_be_written_is_no_lock(tmp_path):
    with files_of_at_most(10), pytest.raises(StorageError, match=r"\.lock: cannot be written"), locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_disk_that_became_read_only_is_what_ends_a_run_and_not_its_lock(small_disk):
    folder = small_disk(1000) / "run"
    with pytest.raises(StorageError, match=r"run/table: cannot be written \(Read-only"), locked(folder):
        small_disk(1000, "ro")
        write_whole(folder / "table", lambda stream: stream.write(b""))
    assert [path.name for path in folder.iterdir()] == [".lock"]  # until it is taken over


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--victims .*file: cannot be written to \(File exists\); give a folder"):
        VictimStore(tmp_path / "file").prepare()
    with pytest.raises(StorageError, match="gone/x: cannot be written"):
        write_whole(tmp_path / "gone" / "x", lambda stream: stream.write(b""))


def test_a_damaged_victim_on_a_full_disk_stays_no_victim(small_disk):
    store = VictimStore(small_disk(200))
    store.save(victim())
    weights = store.folder / VICTIM.key() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    big = victim()
    big.weights["w"] = torch.zeros(100_000)
    with pytest.raises(StorageError, match="No space left"):
        store.save(big)
    assert store.load(VICTIM) is None and [path.name for path in store.folder.iterdir()] == [VICTIM.key()]
