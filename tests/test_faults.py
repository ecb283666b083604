"""What goes wrong on real machines: processes that are killed, victims that are lost, signals. No cell is lost by it.

Short by default; BDBENCH_FAULTS=20 kills so many times (make test-faults).
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from test_end_to_end import outcomes

from bdbench.errors import WorkersLost
from bdbench.matrix.execute import InlinePool, execute
from bdbench.matrix.freight import cargo_of
from bdbench.matrix.graph import steps_of
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.pool import RayPool
from bdbench.matrix.presets import PRESETS
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.results import Results, read_records
from bdbench.matrix.station import Station
from bdbench.matrix.victim_store import VictimStore
from bdbench.matrix.worker import Worker, mishap_of

KILLS = int(os.environ.get("BDBENCH_FAULTS", "2"))

LOSES = '''"""Damages its own victim in the store, or removes it and its clean model, once; or reports a GPU in error."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bdbench.defenses.base import ModelRepair, register

STORE = Path(os.environ["LOSES_STORE"])


@register("loses", paper="none")
@dataclass(frozen=True)
class Loses(ModelRepair):
    def repair(self, model, ctx):
        for home in STORE.glob("*"):
            shutil.rmtree(home)
        return model


@register("fails-on-gpu", paper="none")
@dataclass(frozen=True)
class FailsOnGpu(ModelRepair):
    def repair(self, model, ctx):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
'''

KILLS_ITS_PROCESS = '''"""Leaves the model as it is; one kills its process."""

import os
from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register
from bdbench.params import hp


@register("quick", paper="none")
@dataclass(frozen=True)
class Quick(ModelRepair):
    number: int = hp(0, low=0, help="tells one from another")
    unchanged = True

    def repair(self, model, ctx):
        return model


@register("kills", paper="none")
@dataclass(frozen=True)
class Kills(Quick):
    def skip(self, task):
        os._exit(1)
'''


@pytest.fixture
def flags(tiny_bert, data_dir):
    sizes = ["--train-rows", 200, "--validation-rows", 20, "--clean-rows", 16, "--max-length", 32, "--epochs", 2]
    sizes += ["--learning-rate", 0.003, "-D", "fine-tuning.epochs=2"]
    return ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, *sizes]


def test_a_lost_victim_is_made_again_and_what_a_gpu_in_error_did_is_tried_again(flags, in_process, tmp_path, monkeypatch):
    monkeypatch.setenv("LOSES_STORE", str(tmp_path / "victims"))
    (tmp_path / "loses.py").write_text(LOSES)
    what = ["-T", "sst2", "-a", "badnets-word", "-d", "fine-tuning,loses,none", "--plugin", tmp_path / "loses.py"]
    ended = in_process("run", *flags, *what, "--out", tmp_path / "run", "--inline")
    assert ended.returncode == 0, ended.stderr
    mishaps = {record.spec.defense_name: record.env.get("mishaps") for record in read_records(tmp_path / "run")}
    # fine-tuning is the longest, so it comes first; then what loses the victim; then what misses it
    assert mishaps["fine-tuning"] is None and mishaps["loses"] is None
    (reason,) = mishaps["none"]
    assert "is gone from the store, or damaged" in reason and "tried again" in ended.stderr
    homes = sorted((tmp_path / "victims").iterdir())
    assert len(homes) == 2  # the clean model, too: the victim that was made again needed it
    what[5] = "fails-on-gpu,fine-tuning"
    failed = in_process("run", *flags, *what, "--out", tmp_path / "run", "--inline")
    (record,) = [record for record in read_records(tmp_path / "run") if record.status == "failed"]
    assert failed.returncode == 1 and len(record.env["mishaps"]) == 2
    assert all("the GPU is in error (RuntimeError: CUDA error" in reason for reason in record.env["mishaps"])


def test_a_cell_that_kills_its_process_costs_those_that_travel_with_it_one_try(flags, bdbench, tmp_path):
    plugin = tmp_path / "kills.py"
    plugin.write_text(KILLS_ITS_PROCESS)
    quick = [f"quick[number={number}]" for number in range(40)]
    defenses = ",".join([*quick[:20], "kills", *quick[20:]])
    matrix = ["-T", "sst2", "-a", "none", "--seeds", 0, "-d", defenses, "--plugin", plugin, "--workers", 1]
    ended = bdbench("run", *flags[:-2], *matrix, "--out", tmp_path / "run")
    assert ended.returncode == 1
    records = {record.spec.defense[0].name: record for record in read_records(tmp_path / "run") if record.status != "ok"}
    assert list(records) == ["kills"] and "its process died" in records["kills"].error
    assert len(records["kills"].env["mishaps"]) == 2
    tried = [record.env.get("mishaps", []) for record in read_records(tmp_path / "run") if record.status == "ok"]
    assert len(tried) == 40 and 0 < sum(map(len, tried)) < 16  # in one journey, once each


def test_only_what_is_not_a_steps_own_fault_is_a_mishap():
    import torch

    assert mishap_of(RuntimeError("CUDA error: device-side assert triggered")).ends_process
    assert mishap_of(torch.OutOfMemoryError("CUDA error: out of memory")) is None
    assert mishap_of(RuntimeError("shapes differ")) is None and mishap_of(ValueError("CUDA error")) is None


@pytest.fixture
def travelling(tiny_bert, data_dir, tmp_path):
    """One cell and its victim for a pool whose processes share no folder: the plan, the worker and a function of pools."""
    sizes = {"train_rows": 60, "validation_rows": 20, "clean_rows": 8, "max_length": 32, "training": {"epochs": 1}}
    what = {"tasks": ("sst2",), "attacks": ("none",), "defenses": ("fine-tuning",)}
    planned = plan(PRESETS["laptop"].select({"model": str(tiny_bert), "data": str(data_dir), **what, **sizes}), "cpu")
    store = VictimStore(tmp_path / "victims").prepare()
    worker = Worker(site_for(planned, device="cpu"), store.folder, {})
    return planned, worker, lambda: RayPool(worker, workers=1, cargo=cargo_of(planned), store=store)


def outcome_of(pool, step, before_it_is_taken=lambda slot: None):
    while not pool.has_room(step, ()):
        pool.ended()
    pool.start(step, [], ())
    (slot,) = pool._crew.slots
    pool._ray.wait([slot.pending, slot.files], num_returns=2)
    before_it_is_taken(slot)
    ((_, outcome),) = pool.ended()
    return outcome


def lost_object(ray):
    """A reference of Ray's to what was lost with the process that put it there."""

    class Owner:
        def put(self):
            return [ray.put(bytes(1_000_000))]

    owner = ray.remote(Owner).options(num_cpus=0).remote()
    (reference,) = ray.get(owner.put.remote())
    ray.kill(owner)
    with pytest.raises(ray.exceptions.ObjectLostError):
        while True:  # the process takes a moment to end
            ray.get(reference)
            time.sleep(0.1)
    return reference


def test_what_ray_has_lost_on_the_way_is_made_or_sent_again(travelling, tmp_path):
    planned, _, new_pool = travelling
    victim, cell = steps_of(planned.cells)
    with new_pool() as pool:
        lost = outcome_of(pool, victim, lambda slot: setattr(slot, "files", lost_object(pool._ray)))
        assert "its process died (OwnerDiedError)" in lost.mishap.reason and not pool._freight.has(victim.key)
        assert not outcome_of(pool, victim).error
        shutil.rmtree(pool._freight.luggage.folder / "victims")  # as on a machine that has not had it yet
        pool._freight._references[victim.key] = lost_object(pool._ray)
        execute([victim, cell], pool, Results(tmp_path / "run"), MatrixProgress(1, 1))
    (record,) = read_records(tmp_path / "run")
    (reason,) = record.env["mishaps"]
    assert record.status == "ok" and "a victim that it needs did not get to its machine (OwnerDiedError)" in reason


def test_a_machine_whose_disk_takes_no_victim_is_left_out_and_said_so(travelling, tmp_path, small_disk):
    planned, worker, new_pool = travelling
    victim, cell = steps_of(planned.cells)
    execute([victim], InlinePool(worker), Results(tmp_path / "run"), MatrixProgress(0, 1))
    files = VictimStore(worker.victims).pack(victim.key)
    full = replace(worker, victims=small_disk(40) / "victims")
    (report,), _ = Station(full, None, lambda files: files, print).run_with_files(cell.spec, [], (), {victim.key: files})
    mishap = report.outcome.mishap
    assert mishap.spoils_machine and "(No space left on device)" in mishap.reason and str(tmp_path) not in mishap.reason
    with new_pool() as pool:
        while not pool.has_room(cell, ()):
            pool.ended()
        pool.start(cell, [], ())
        (slot,) = pool._crew.slots
        ((_, outcome),) = pool._take(slot, [report])
        assert outcome.mishap == mishap
        with pytest.raises(WorkersLost, match="No space left on device"):
            pool.ended()


def test_a_victim_that_the_driver_cannot_store_is_an_outcome(travelling, small_disk):
    """Raised, it would take along what other processes have ended."""
    planned, worker, _ = travelling
    full = VictimStore(small_disk(40) / "victims")
    with RayPool(worker, workers=1, cargo=cargo_of(planned), store=full) as pool:
        outcome = outcome_of(pool, steps_of(planned.cells)[0])
        assert outcome.unstored and "No space left on device" in outcome.error


BUSY_SECONDS = 15  # a busy machine takes longer than the five seconds that it takes an idle one


def started(flags: list[object], out: Path, how: tuple[str, ...] = ("--workers", "2")) -> subprocess.Popen:
    """A run with two workers, in a session of its own."""
    command = [sys.executable, "-m", "bdbench", "run", *map(str, flags), "--out", str(out), *how]
    with open(f"{out}.log", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def workers(driver: subprocess.Popen) -> list[psutil.Process]:
    """The processes that do the work of a run."""
    try:
        children = psutil.Process(driver.pid).children(recursive=True)
        return [child for child in children if "ray::Station" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def stored(out: Path) -> dict[str, float]:
    """When each victim was stored."""
    return {meta.parent.name: meta.stat().st_mtime for meta in (out.parent / "victims").glob("[0-9a-f]*/meta.json")}


def test_killed_workers_and_drivers_cost_no_cell_and_train_no_victim_twice(flags, bdbench, tmp_path):
    what = [*flags, "-T", "sst2,qqp", "-a", "badnets-word,embedding-poisoning", "-d", "none,fine-tuning,e-pur+fine-mixing"]
    out, rng = tmp_path / "ray" / "run", random.Random(7)
    out.parent.mkdir()
    victims, killed = {}, {"worker": 0, "driver": 0}
    driver = started(what, out)
    deadline = time.monotonic() + 90 + 30 * KILLS
    while sum(killed.values()) < KILLS and time.monotonic() < deadline:
        time.sleep(rng.uniform(0.3, 2.0))
        if driver.poll() is not None:  # it had ended before it could be killed: with --force it works again
            driver = started([*what, "--force"], out)
        here = workers(driver)
        if not here:
            continue
        rarest = min(killed, key=killed.get)  # both kinds, also where few are killed
        kind = rarest if not killed[rarest] and any(killed.values()) else rng.choice(("worker", "worker", "driver"))
        victims = {**stored(out), **victims}
        try:
            (psutil.Process(driver.pid) if kind == "driver" else rng.choice(here)).kill()
        except psutil.Error:
            continue
        killed[kind] += 1
        if kind == "driver":
            driver.wait()
            driver = started(what, out)
    assert sum(killed.values()) >= KILLS
    if driver.wait(timeout=120) == 1:  # a step that is killed three times in one run has failed in it, and is tried in the next
        assert "failed: its process died" in Path(f"{out}.log").read_text()
        driver = started(what, out)
    assert driver.wait(timeout=120) == 0, Path(f"{out}.log").read_text()
    assert {key: when for key, when in stored(out).items() if key in victims} == victims
    inline = bdbench("run", *what, "--out", tmp_path / "inline" / "run", "--inline")
    assert inline.returncode == 0 and len(read_records(out)) == 12
    assert outcomes(out) == outcomes(tmp_path / "inline" / "run")
    print(json.dumps(killed))


@pytest.mark.parametrize(("number", "how"), [(signal.SIGTERM, ("--workers", "2")), (signal.SIGINT, ("--inline",))])
def test_a_signal_ends_a_run_soon_with_all_that_has_ended(number, how, flags, tmp_path):
    out = tmp_path / "run"
    what = ["-T", "sst2,qqp", "-a", "badnets-word", "-d", "none,fine-tuning,e-pur,e-pur+fine-mixing"]
    driver = started([*flags, *what], out, how)
    while not list(out.glob("records/*.json")):
        assert driver.poll() is None, Path(f"{out}.log").read_text()
        time.sleep(0.02)
    driver.send_signal(number)
    sent = time.monotonic()
    assert driver.wait(timeout=60) == 128 + number, Path(f"{out}.log").read_text()
    assert time.monotonic() - sent < BUSY_SECONDS and "the same command goes on" in Path(f"{out}.log").read_text()
    assert (out / "leaderboard.md").is_file() and not (out / ".lock").exists()
