"""A cluster of two nodes, the second of which sees nothing of the driver's folders (make test-faults)."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from clusters import Cluster
from test_end_to_end import outcomes

from bdbench.errors import UsageError
from bdbench.matrix.execute import execute
from bdbench.matrix.freight import cargo_of
from bdbench.matrix.graph import steps_of
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.pool import RayPool
from bdbench.matrix.presets import PRESETS
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.results import Results, read_records
from bdbench.matrix.victim_store import VictimStore
from bdbench.matrix.worker import Worker
from bdbench.plugin_files import PluginFile

pytestmark = pytest.mark.skipif("BDBENCH_FAULTS" not in os.environ, reason="two nodes take minutes: make test-faults")

TELLS = '''"""Notes in which process it ran."""

import os
from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register
from bdbench.params import hp


@register("tells", paper="none")
@dataclass(frozen=True)
class Tells(ModelRepair):
    variant: int = hp(0, help="tells one cell from another")

    def repair(self, model, ctx):
        ctx.notes["process"] = os.getpid()
        return model
'''
# In a namespace of its own the node has an empty file system in place of the first argument.
HIDING = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of one core; the second one does not see the tests' folders, where models, data and results lie."""
    hidden = tmp_path_factory.getbasetemp()
    can_hide = shutil.which("unshare") and subprocess.run([*HIDING, hidden, "true"], capture_output=True).returncode == 0
    root = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
    cluster = Cluster(root)
    cluster.add("--num-gpus", "1")
    cluster.add(command=(*HIDING, str(hidden)) if can_hide else ())
    yield cluster
    cluster.close()
    shutil.rmtree(root)


@pytest.fixture
def flags(tiny_bert, data_dir):
    """Two victims and their clean models, six cells."""
    sizes = ["--train-rows", 200, "--validation-rows", 20, "--clean-rows", 16, "--max-length", 32, "--epochs", 2]
    tuned = ["--learning-rate", 0.003, "-D", "fine-tuning.epochs=2", "-D", "fine-mixing.epochs=2"]
    what = ["-T", "sst2,qqp", "-a", "badnets-word", "-d", "none,fine-tuning,e-pur+fine-mixing"]
    return ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "--device", "cpu", *what, *sizes, *tuned]


def test_a_cluster_gives_the_bits_of_one_process_and_a_node_that_dies_costs_no_cell(cluster, flags, bdbench, tmp_path):
    inline = bdbench("run", *flags, "--out", tmp_path / "inline" / "run", "--inline")
    assert inline.returncode == 0, inline.stderr
    ended = bdbench("run", *flags, "--out", tmp_path / "two" / "run", "--address", cluster.address, env=cluster.environment)
    assert ended.returncode == 0 and "on 2 workers" in ended.stderr, ended.stderr
    assert outcomes(tmp_path / "two" / "run") == outcomes(tmp_path / "inline" / "run")
    assert len(list((tmp_path / "two" / "victims").glob("*/meta.json"))) == 4
    assert not list(Path(cluster.root).glob("*/bdbench-node-*"))  # nothing is left on the nodes

    out = tmp_path / "one" / "run"
    command = [sys.executable, "-m", "bdbench", "run", *map(str, flags), "--out", str(out), "--address", cluster.address]
    run = subprocess.Popen(command, env=cluster.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    shown = []
    for line in run.stderr:
        shown.append(line)
        if line.startswith("cell ") and cluster.nodes[1].poll() is None:
            cluster.kill(cluster.nodes[1])
    assert run.wait(timeout=60) == 0, "".join(shown)
    assert outcomes(out) == outcomes(tmp_path / "inline" / "run")


def test_processes_with_a_share_of_a_gpu_work_on_many_cells(cluster, tiny_bert, data_dir, tmp_path, monkeypatch):
    (tmp_path / "tells.py").write_text(TELLS)
    plugin = PluginFile.read(tmp_path / "tells.py")
    plugin.load()
    selection = PRESETS["laptop"].select(
        {
            "model": str(tiny_bert),
            "data": str(data_dir),
            "tasks": ("sst2",),
            "attacks": ("none",),
            "defenses": tuple(f"tells[variant={number}]" for number in range(8)),
            "train_rows": 64,
            "validation_rows": 20,
            "clean_rows": 16,
            "max_length": 16,
            "training": {"epochs": 1},
        }
    )
    planned = plan(selection, "cpu")
    worker = Worker(site_for(planned, (plugin,), device="cpu"), VictimStore(tmp_path / "victims").folder, {})
    monkeypatch.setenv("RAY_AUTH_MODE", cluster.environment["RAY_AUTH_MODE"])

    def processes_of(cells, worker_bytes=None) -> list[int]:
        """The processes that worked on cells, and ended each well."""
        pool = RayPool(worker, address=cluster.address, cargo=cargo_of(planned))
        pool._gpu_share = 0.5  # as if the model were on a GPU: the head says that it has one
        pool._worker_bytes = worker_bytes or pool._worker_bytes
        results = Results(tmp_path / str(worker_bytes))
        with pool:
            execute(steps_of(cells), pool, results, MatrixProgress(8, 1))
        return [record.notes["tells"]["process"] for record in read_records(results.place)]

    processes = processes_of(planned.cells)
    assert len(processes) == 8 and len(set(processes)) == 1
    # one that keeps more memory than a worker should is replaced after its step
    assert len(set(processes_of(planned.cells[:2], worker_bytes=1))) == 2
    unlike = RayPool(replace(worker, site=replace(worker.site, device="auto")), address=cluster.address)
    with pytest.raises(UsageError, match=r"Ray finds 1 GPU\(s\), but PyTorch none.*--device cpu"):
        unlike.__enter__()


def test_a_cluster_that_is_not_there_is_one_line(flags, bdbench, tmp_path):
    began = time.monotonic()
    refused = bdbench("run", *flags, "--out", tmp_path / "run", "--address", "127.0.0.1:1")
    assert refused.returncode == 2 and time.monotonic() - began < 60
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("bdbench: ")]
    assert "--address 127.0.0.1:1: no Ray cluster that can be joined" in line
    both = bdbench("run", *flags, "--out", tmp_path / "run", "--address", "auto", "--inline")
    assert both.returncode == 2 and "leave one out" in both.stderr
