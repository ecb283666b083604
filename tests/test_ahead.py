"""Ray starts while a run is planned, if the run will need it, and ends whatever becomes of the plan."""

import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bdbench.api.execution import Order, ray_ahead
from bdbench.errors import UsageError
from bdbench.matrix import ahead as ahead_module
from bdbench.matrix.capacity import local_capacity
from bdbench.matrix.ray_start import PREFIX, RayHead, ray_started
from bdbench.matrix.storage import LocalPlace, place_of
from bdbench.processes import place


def left() -> list[str]:
    """What is there of a Ray of this process: its processes, and its folders."""
    prefix, left = f"{PREFIX}{place()}-{os.getpid()}-", []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has just ended
            left += [process.name()] if prefix in " ".join([*process.cmdline(), process.cwd()]) else []
    return left + [folder.name for base in ("/tmp", tempfile.gettempdir()) for folder in Path(base).glob(f"{prefix}*")]


def nothing_is_left() -> bool:
    """Whether all of it goes; a worker may take a moment to notice."""
    deadline = time.monotonic() + 15
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left()


def test_workers_have_imported_all_before_they_have_work_and_nothing_is_left(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    expected = {"transformers.modeling_utils", "bdbench.matrix.station"}

    class Actor:  # here, so that it travels as text
        def imported(self):
            return sys.modules.keys() & expected, os.environ["OMP_NUM_THREADS"]

    with ray_started(1, head=RayHead(1, 0, preload=True)) as ray:
        assert ray.cluster_resources()["CPU"] == 1
        modules, threads = ray.get(ray.remote(Actor).remote().imported.remote())
        assert left()
    assert modules == expected and threads == "1"
    assert "OMP_NUM_THREADS" not in os.environ and not ray.is_initialized()
    assert nothing_is_left()


def test_a_refused_plan_ends_with_its_error_and_leaves_no_ray(in_process, tiny_bert, data_dir, tmp_path, monkeypatch):
    heads = []
    monkeypatch.setattr(ahead_module, "RayHead", lambda *args, **more: heads.append(RayHead(*args, **more)) or heads[-1])
    flags = ["--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "badnets-word", "-A", "badnets-word.target=7"]
    flags += ["-d", "none", "--train-rows", 80, "--validation-rows", 20, "--precision", "fp32", "--device", "cpu"]
    ended = in_process("run", "--preset", "laptop", *flags, "--out", tmp_path / "out")
    assert ended.returncode == 2
    assert ended.stderr == "bdbench: badnets-word.target=7, but the task's classes are 0 to 1\n"
    assert len(heads) == 1 and nothing_is_left()


def test_a_head_that_fails_says_why():
    with pytest.raises(UsageError, match=r"Ray does not start here \(.+\); --inline runs without it"), ray_started(-1, 0):
        raise AssertionError
    assert nothing_is_left()


@pytest.fixture
def starts(monkeypatch):
    """What was started: the arguments, and "end"."""
    started = []

    class Head:
        def __init__(self, cpus, preload):
            started.append((cpus, preload))

        def end(self):
            started.append("end")

    monkeypatch.setattr(ahead_module, "RayHead", Head)
    monkeypatch.setattr(ahead_module, "devices", list)
    return started


def test_a_dry_run_starts_no_ray(starts, in_process, tiny_bert, data_dir, tmp_path):
    flags = ["--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "none", "-d", "none", "--device", "cpu"]
    sizes = ["--train-rows", 80, "--validation-rows", 20, "--precision", "fp32"]
    assert not in_process("run", "--preset", "laptop", *flags, *sizes, "--out", tmp_path / "out", "--dry-run").returncode
    assert not starts


@pytest.fixture
def order(tmp_path, tiny_bert, data_dir):
    """A function: the order of a run, with other values than usual."""

    def of(preset: str = "laptop", overrides=(), **more) -> Order:
        usual = {
            "model": str(tiny_bert),
            "data": str(data_dir),
            "tasks": ("sst2",),
            "attacks": ("none",),
            "defenses": ("none",),
        }
        place = more.pop("out", LocalPlace(tmp_path / "out"))
        return Order(preset, {**usual, **dict(overrides)}, place, LocalPlace(tmp_path / "victims"), **more)

    return of


def test_ray_starts_for_a_new_run_and_ends_with_it(order, starts, tiny_bert):
    with ray_ahead(order(workers=3, threads=2)) as ahead:
        assert starts == [(6, False)] and ahead.held.workers == 3
    assert starts == [(6, False), "end"]
    with pytest.raises(ZeroDivisionError), ray_ahead(order()) as ahead:
        assert ahead.held == local_capacity(tiny_bert, 1, None)
        raise ZeroDivisionError
    assert starts[2:] == [(ahead.held.workers, True), "end"]


@pytest.mark.parametrize(
    "changed",
    [
        {"inline": True},
        {"address": "auto"},
        {"device": "cuda"},
        {"device": "auto"},
        {"preset": "no-such-preset"},
        {"out": place_of("memory://bucket/out")},
        {"overrides": {"tasks": ("sst3",)}},
        {"overrides": {"attacks": ("badnet-word",)}},
        {"overrides": {"defenses": ("none+nothing",)}},
        {"overrides": {"defenses": ("none[",)}},
        {"overrides": {"model": "some/model"}},
        {"overrides": {"model": "x" * 5000}},
    ],
)
def test_ray_does_not_start_where_it_may_be_for_nothing(changed, order, starts, monkeypatch):
    if changed == {"device": "auto"}:
        monkeypatch.setattr(ahead_module, "devices", lambda: [Path("/dev/nvidia0")])
    with ray_ahead(order(**changed)) as ahead:
        assert ahead is None and not starts


def test_ray_does_not_start_for_a_model_without_weights_or_a_run_with_records(order, starts, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with ray_ahead(order(overrides={"model": str(folder)})) as ahead:
        assert ahead is None and not starts
    (tmp_path / "out" / "records").mkdir(parents=True)
    (tmp_path / "out" / "records" / "0123456789abcdef.json").write_text("{}")
    with ray_ahead(order()) as ahead:
        assert ahead is None and not starts
    with ray_ahead(order(force=True)) as ahead:
        assert ahead is not None


def test_names_may_come_from_plugin_files(order, starts):
    with ray_ahead(order(overrides={"defenses": ("not-known-yet",)}), with_plugin_files=True) as ahead:
        assert ahead is not None


def test_ray_started_by_the_caller_is_told_before_anything_starts(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(UsageError, match="this process has started Ray already"):
        RayHead(1)
    assert nothing_is_left()
