"""A step that hangs ends at its limit, in this process and in Ray's; Ray starts on machines that make it hard."""

import contextlib
import signal
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_protocol import VICTIM, cell

from bdbench.errors import OutOfTime, UsageError
from bdbench.fence import fenced
from bdbench.matrix import pool as pool_module
from bdbench.matrix import ray_start
from bdbench.matrix.deadline import TimeLimit, deadline
from bdbench.matrix.execute import InlinePool, execute
from bdbench.matrix.graph import steps_of
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.pool import RayPool
from bdbench.matrix.presets import PRESETS
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.ray_start import short_folder
from bdbench.matrix.results import Results, read_records
from bdbench.matrix.victim_store import VictimStore
from bdbench.matrix.worker import Worker
from bdbench.plugin_files import PluginFile
from bdbench.processes import place

HANGS = '''"""Hangs, and swallows what an exception handler can swallow; or warns."""

import logging
import time
import warnings
from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register


@register("hangs", paper="none")
@dataclass(frozen=True)
class Hangs(ModelRepair):
    def repair(self, model, ctx):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass


@register("warns", paper="none")
@dataclass(frozen=True)
class Warns(ModelRepair):
    def repair(self, model, ctx):
        warnings.warn("the clean set\\nis small")
        logging.getLogger("bdbench.plugin").warning("%d rows are few", 3)
        return model
'''


class Shown(MatrixProgress):
    """The display, and the warnings that it got."""

    def __init__(self, cells: int) -> None:
        super().__init__(cells, 0)
        self.texts: list[str] = []

    def warn(self, texts):
        self.texts += texts


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> PluginFile:
    file = tmp_path_factory.mktemp("plugins") / "hangs.py"
    file.write_text(HANGS)
    plugin = PluginFile.read(file)
    plugin.load()
    return plugin


@pytest.fixture
def matrix(tiny_bert, data_dir, plugin, tmp_path):
    """A function of defenses and a time limit: the cells on one victim, and the worker for them."""

    def call(*defenses: str, limit: float):
        overrides = {
            **{"model": str(tiny_bert), "data": str(data_dir), "tasks": ("sst2",), "attacks": ("none",), "defenses": defenses},
            **{"train_rows": 60, "validation_rows": 20, "clean_rows": 8, "max_length": 32, "training": {"epochs": 1}},
        }
        planned = plan(PRESETS["laptop"].select(overrides), "cpu")
        store = VictimStore(tmp_path / "victims")
        return planned.cells, Worker(site_for(planned, [plugin], device="cpu"), store.folder, {}, time_limit=TimeLimit(limit))

    return call


def test_a_block_is_ended_at_its_deadline_whatever_it_swallows():
    earlier = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    with pytest.raises(OutOfTime, match="not done after 0 seconds, the limit; .* raise it with --cell-timeout"), deadline(0.1):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)
    assert 0.1 <= time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) == earlier and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_swallows_the_exception_or_takes_the_alarm_is_too_late_all_the_same():
    with pytest.raises(OutOfTime), deadline(0.1):
        with contextlib.suppress(BaseException):
            time.sleep(5)
        assert time.monotonic()  # goes on, and ends as if nothing had happened
    with pytest.raises(OutOfTime), deadline(0.1):
        signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(0.2)


def test_an_alarm_that_a_plugin_took_away_is_set_anew_for_what_comes_after_it():
    began = time.monotonic()
    with pytest.raises(OutOfTime), deadline(0.5):
        with fenced("'alarmer'", 0):
            signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(0.1)
        assert time.monotonic() - began < 0.5  # not too early
        while True:
            time.sleep(0.01)
    assert time.monotonic() - began < 5


def test_a_deadline_that_is_not_reached_changes_nothing():
    earlier = signal.getsignal(signal.SIGALRM)
    for seconds in (0.05, None):
        with deadline(seconds):
            pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) == earlier


def test_the_limit_grows_with_the_expected_work_unless_the_user_sets_it():
    spec = replace(VICTIM, max_length=10, training={**VICTIM.training, "epochs": 2})
    spec = replace(spec, data=replace(spec.data, train_rows=100, test_rows=50))
    # 10 pieces a row: 6 operations for each of 200 trained rows, 2 for each of 150 predicted ones
    operations = 10**9 * 10 * (6 * 200 + 2 * 150)
    limit = TimeLimit(parameters=10**9)
    assert limit.seconds(spec) == limit.seconds(replace(cell(), victim=spec)) == 3600 + operations / 5e9
    assert replace(limit, threads=4).seconds(spec) == 3600 + operations / 2e10
    assert TimeLimit(fixed=7.0).seconds(spec) == 7.0 and TimeLimit(fixed=0.0).seconds(spec) is None


def test_a_cell_that_hangs_fails_alone_and_warnings_arrive(matrix, tmp_path):
    cells, worker = matrix("none", limit=0)
    execute(steps_of(cells), InlinePool(worker), Results(tmp_path / "run"), MatrixProgress(1, 1))
    cells, worker = matrix("hangs", "warns", "fine-tuning", limit=3)
    shown = Shown(3)
    execute(steps_of(cells), InlinePool(worker), Results(tmp_path / "run"), shown)
    status = {record.spec.defense_name: record.status for record in read_records(tmp_path / "run")}
    assert status == {"none": "ok", "hangs": "failed", "warns": "ok", "fine-tuning": "ok"}
    (error,) = [record.error for record in read_records(tmp_path / "run") if record.status == "failed"]
    assert "OutOfTime: not done after 3 seconds" in error and "hangs.py" in error  # with the place where it hung
    assert shown.texts == ["3 rows are few", "UserWarning: the clean set is small"]


def test_ray_kills_what_does_not_end_and_starts_where_home_and_temporary_folder_are_unfit(matrix, tmp_path, monkeypatch):
    long_folder = tmp_path / "slurm_jobdir_slurm_jobdir_slurm_jobdir_slurm_jobdir"
    long_folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long_folder))
    monkeypatch.setenv("TMPDIR", str(long_folder))
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setattr(pool_module, "GRACE", 1.0)
    cells, worker = matrix("warns", "hangs", limit=0)
    warns, hangs = cells
    shown = Shown(2)
    with RayPool(worker, workers=1) as pool:
        execute(steps_of([warns]), pool, Results(tmp_path / "run"), shown)
        # the processes have the worker that knows no limit, so the pool alone ends the next step
        pool._worker = replace(worker, time_limit=TimeLimit(1.0))
        execute(steps_of([hangs]), pool, Results(tmp_path / "run"), shown)
    (failed,) = [record for record in read_records(tmp_path / "run") if record.status == "failed"]
    assert failed.spec.defense_name == "hangs" and "not done after 1 seconds" in failed.error and "was killed" in failed.error
    assert shown.texts == ["3 rows are few", "UserWarning: the clean set is small"]
    assert not list(long_folder.iterdir())


@pytest.mark.parametrize("length", [1, 40])
def test_the_folder_of_rays_sockets_is_short_enough_or_elsewhere(length, tmp_path, monkeypatch):
    base = tmp_path / ("x" * length) if length > 1 else Path("/tmp")
    base.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = base / f"{ray_start.PREFIX}{place()}-{ended.pid}-abcdefgh"
    left.mkdir()
    folder = short_folder()
    assert len(str(folder / ray_start.SOCKET)) <= ray_start.SOCKET_PATH_BYTES
    assert (folder.parent == base) == (length == 1) and not left.exists()
    folder.rmdir()


def test_a_ray_that_cannot_start_is_one_line_that_names_inline(matrix, monkeypatch):
    import ray

    def refuse(*args, **kwargs):
        raise RuntimeError("the raylet died\n" + "line\n" * 40)

    monkeypatch.setattr(ray, "init", refuse)
    _, worker = matrix("none", limit=0)
    with pytest.raises(
        UsageError, match=r"Ray does not start here \(RuntimeError: the raylet died\); --inline runs"
    ) as refused:
        RayPool(worker, workers=1).__enter__()
    assert len(str(refused.value).splitlines()) == 1
