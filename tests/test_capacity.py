"""How many workers run: the memory and the CPU time that a machine or a container leaves, by hand-worked numbers."""

from __future__ import annotations

import gc
import logging
import os
import platform
from pathlib import Path

import pytest
import torch

from bdbench.engine.classifiers import classifier_with, load_classifier, pretrained_weights
from bdbench.matrix import capacity as capacity_module
from bdbench.matrix import slots
from bdbench.matrix.capacity import RESERVED_BYTES, Capacity, capacity, free_bytes, worker_bytes
from bdbench.protocol import quotas
from bdbench.protocol.quotas import MemoryLimit, core_quota, cores, memory_limits
from bdbench.protocol.site import Site, give_back_memory

GIB = 2**30


@pytest.mark.parametrize(
    ("on_cores", "free", "chosen", "workers", "words"),
    [
        (4, 8 * GIB, None, 4, ()),  # just enough
        (4, 8 * GIB - 1, None, 3, ("3 workers instead of 4", "2.0 GiB", "8.0 GiB")),
        (64, 5 * GIB, None, 2, ("2 workers instead of 64",)),
        (1, 2 * GIB, None, 1, ()),
        (4, 2 * GIB - 1, None, 1, ("warning", "one worker")),
        (4, 0, None, 1, ("warning", "0.0 GiB are free")),
        (4, None, None, 4, ()),  # nothing known
        (4, None, 9, 9, ()),
        (4, 8 * GIB, 2, 2, ()),
        (2, 8 * GIB, 4, 4, ()),
        (4, 8 * GIB, 5, 5, ("warning", "--workers 5")),  # the user's word holds
        (4, 1 * GIB, 1, 1, ("warning", "--workers 1")),
    ],
)
def test_workers_are_as_many_as_cores_and_memory_hold(on_cores, free, chosen, workers, words):
    held = capacity(on_cores, free, 2 * GIB, chosen)
    assert held.workers == workers
    assert (held.message is not None) == bool(words)
    for word in words:
        assert word in held.message and "\n" not in held.message


def test_free_memory_is_that_of_the_tightest_limit():
    machine, quota = MemoryLimit(100 * GIB, 20 * GIB), MemoryLimit(10 * GIB, 1 * GIB)
    assert free_bytes([machine]) == 75 * GIB - RESERVED_BYTES  # 95 % of 100, less 20
    assert free_bytes([machine, quota]) == int(8.5 * GIB) - RESERVED_BYTES
    assert free_bytes([MemoryLimit(10 * GIB, 10 * GIB)]) == 0
    assert free_bytes([]) is None


def write(root: Path, **files: str) -> None:
    """Files by name; "__" stands for a dot, for names are keywords here."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path):
    """Made-up /proc and /sys/fs/cgroup of a machine of 16 GiB, 12 available, and a function that puts the process in groups."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    write(proc, meminfo=f"MemTotal: {16 * 2**20} kB\nMemFree: 5 kB\nMemAvailable: {12 * 2**20} kB\nHugePages_Total: 0")
    groups.mkdir()
    return proc, groups, lambda *lines: write(proc / "self", cgroup="\n".join(lines))


OF_MACHINE = MemoryLimit(16 * GIB, 4 * GIB)


def test_quotas_of_version_2_count_in_every_parent(machine):
    proc, groups, place = machine
    place("0::/pod/app")
    write(groups, memory__current="1")  # the root has no quota
    write(groups / "pod", memory__max=str(4 * GIB), memory__high="max", memory__current=str(3 * GIB), cpu__max="150000 100000")
    write(
        groups / "pod" / "app",
        memory__max="max",
        memory__high=str(8 * GIB),
        memory__current=str(2 * GIB),
        memory__stat=f"anon 5\ninactive_file {GIB}\nactive_file {GIB // 2}",
        cpu__max="max 100000",
    )
    expected = {OF_MACHINE, MemoryLimit(8 * GIB, GIB // 2), MemoryLimit(4 * GIB, 3 * GIB)}
    assert set(memory_limits(proc, groups)) == expected
    assert core_quota(proc, groups) == 1.5


@pytest.mark.parametrize("cpu_folder", ["cpu,cpuacct", "cpu"])
def test_quotas_of_version_1_have_a_tree_for_each_controller(machine, cpu_folder):
    proc, groups, place = machine
    place("9:name=systemd:/", "4:memory:/docker/a", "2:cpu,cpuacct:/docker/a", "0::/")
    write(groups / "memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="7")
    write(
        groups / "memory" / "docker" / "a",
        memory__limit_in_bytes=str(2 * GIB),
        memory__usage_in_bytes=str(GIB),
        memory__stat=f"inactive_file 1\ntotal_inactive_file {GIB // 4}\ntotal_active_file 0",
    )
    write(groups / cpu_folder, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    write(groups / cpu_folder / "docker" / "a", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    expected = {OF_MACHINE, MemoryLimit(2 * GIB, GIB * 3 // 4), MemoryLimit(9223372036854771712, 7)}
    assert set(memory_limits(proc, groups)) == expected
    assert core_quota(proc, groups) == 2


@pytest.mark.parametrize("path", ["/", "/kubepods/pod1/c1", "/../../other"])
def test_a_container_may_see_its_own_group_as_the_root(machine, path):
    proc, groups, place = machine
    place(f"0::{path}")
    write(groups, memory__max=str(GIB), memory__current="0", cpu__max="50000 100000")
    assert memory_limits(proc, groups) == [OF_MACHINE, MemoryLimit(GIB, 0)]
    assert core_quota(proc, groups) == 0.5


def test_a_machine_that_says_nothing_limits_nothing(tmp_path):
    assert memory_limits(tmp_path, tmp_path) == []
    assert core_quota(tmp_path, tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, None), (0.5, 1), (1.5, 1), (1e6, None)])
def test_cores_respect_the_quota(monkeypatch, quota, expected):
    monkeypatch.setattr(quotas, "core_quota", lambda: quota)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores() == (expected or usable)


def test_a_worker_of_a_larger_model_takes_more(tiny_models):
    from transformers import AutoModel

    size = sum(parameter.numel() for parameter in AutoModel.from_pretrained(tiny_models["distilbert"]).parameters())
    base = capacity_module.WORKER_BYTES
    assert worker_bytes(tiny_models["distilbert"]) == base + round(4 * capacity_module.WEIGHT_COPIES * size)


def test_the_pool_says_why_it_has_fewer_workers(tiny_bert, monkeypatch, caplog):
    monkeypatch.setattr(capacity_module, "cores", lambda: 8)
    worker = worker_bytes(tiny_bert)
    quota = MemoryLimit(total=round((3.5 * worker + RESERVED_BYTES) / 0.95), taken=0)
    monkeypatch.setattr(capacity_module, "memory_limits", lambda: [quota])
    site = Site(model=tiny_bert, device="cpu")
    with caplog.at_level(logging.WARNING):
        assert slots.local_slots(site, None, 0.0) == 3
        assert "3 workers instead of 8" in caplog.text
        assert slots.local_slots(Site(model=tiny_bert, device="cpu", threads=4), None, 0.0) == 2
        caplog.clear()
        assert slots.local_slots(site, 3, 0.0) == 3 and not caplog.text
        assert slots.local_slots(site, 5, 0.0) == 5 and "--workers 5" in caplog.text


def test_nothing_is_said_where_memory_is_plenty():
    assert capacity(2, 100 * GIB, GIB) == Capacity(2, None)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep little")
def test_what_a_step_has_freed_goes_back_before_the_next(tiny_bert):
    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    Site(model=tiny_bert, device="cpu", threads=torch.get_num_threads()).enter()
    blocks = [torch.ones(2**18) for _ in range(200)]  # 1 MiB each
    last = torch.ones(2**18)  # what lies behind the freed blocks keeps the heap from shrinking at its end
    full = held()
    del blocks
    give_back_memory()
    assert held() < full - 150 * 2**20
    assert last.sum() == 2**18


def test_a_classifier_that_nobody_changes_takes_no_second_copy(tiny_bert):
    model, _ = load_classifier(tiny_bert, 3)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    own, shared = (classifier_with(tiny_bert, 3, weights, shares=shares) for shares in (False, True))
    for (name, weight), copied, same in zip(weights.items(), own.parameters(), shared.parameters(), strict=True):
        assert torch.equal(copied, weight) and copied.data_ptr() != weight.data_ptr(), name
        assert same.data_ptr() == weight.data_ptr() and same.requires_grad, name
    inputs = {"input_ids": torch.tensor([[2, 7, 9, 3]])}
    # Where a tensor begins in memory may decide how a product is rounded (see the next test).
    torch.testing.assert_close(own(**inputs).logits, model(**inputs).logits)
    torch.testing.assert_close(shared(**inputs).logits, model(**inputs).logits)


def test_weights_off_the_usual_place_are_copied_there(tiny_bert):
    """Sums can depend on where a tensor begins in memory, and one that is mapped from a file begins anywhere."""
    model, _ = load_classifier(tiny_bert, 2)
    weights = {}
    for name, parameter in model.named_parameters():
        shifted = torch.empty(parameter.numel() + 1)[1:].view(parameter.shape)
        weights[name] = shifted.copy_(parameter.detach())
    assert all(parameter.data_ptr() % 64 == 0 for parameter in classifier_with(tiny_bert, 2, weights, shares=True).parameters())


def test_a_process_keeps_no_pretrained_model(tiny_bert):
    """A classifier of given weights needs the model's shape alone; beside it a kept model would be one more in memory."""
    model, _ = load_classifier(tiny_bert, 2)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    before = parameters_in_memory()
    classifier = classifier_with(tiny_bert, 2, weights)
    pretrained = pretrained_weights(tiny_bert, 2)
    assert parameters_in_memory() == before + sum(parameter.numel() for parameter in classifier.parameters())
    assert sum(weight.numel() for weight in pretrained.values()) < sum(weight.numel() for weight in weights.values())


def parameters_in_memory() -> int:
    """The numbers of all parameters that this process holds."""
    gc.collect()
    held = [thing for thing in gc.get_objects() if type(thing) is torch.nn.Parameter and thing.device.type != "meta"]
    return sum(parameter.numel() for parameter in held)
