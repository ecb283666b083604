"""`python -m bdbench.perf`, run as a user would, on a tiny model."""

import json
import subprocess
import sys

import pytest


def perf(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bdbench.perf", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_speed_is_measured_and_written(tiny_bert, data_dir, tmp_path):
    ended = perf("--data", data_dir, "--model", tiny_bert, "--rows", 64, "--rounds", 2, "--json", tmp_path / "perf.json")
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "perf.json").read_text())
    assert {"plain loop", "engine"} <= set(result["contenders"])
    assert result["task"] == "sst2" and result["rows"] == 64 and result["env"]["torch"]
    for name, found in result["contenders"].items():
        assert name in ended.stdout
        assert found["peak_memory_mb"] > 50
        for part, passes in (("training", 6), ("evaluation", 2)):
            speed = found[part]
            lowest, highest = speed["range"]
            assert 0 < lowest <= speed["examples_per_second"] <= highest
            assert speed["flops"] == pytest.approx(passes * result["non_embedding_parameters"] * speed["tokens_per_second"])
            assert speed["share_of_matrix_rate"] == pytest.approx(speed["flops"] / result["matrix_flops"])
    # the weights of two layers of width 32 with a block of 64, pooler, head and the normalization behind the embeddings
    layer = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
    assert result["non_embedding_parameters"] == 2 * layer + 32 * 32 + 32 + 2 * 32 + 2 + 2 * 32


def test_what_is_learned_is_compared(tiny_bert, data_dir, tmp_path):
    flags = ("--data", data_dir, "--model", tiny_bert, "--rows", 96, "--seeds", "0,3", "--json", tmp_path / "learned.json")
    ended = perf(*flags)
    assert ended.returncode == 0, ended.stderr
    learned = json.loads((tmp_path / "learned.json").read_text())["learning"]
    assert [(entry["loop"], entry["seed"]) for entry in learned] == [("plain", 0), ("engine", 0), ("plain", 3), ("engine", 3)]
    assert all(0 <= entry[rate] <= 1 for entry in learned for rate in ("cacc", "asr"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--task", "sst3"), "sst3"),
        (("--rows", 100_000), "100000"),
        (("--json", "nowhere/perf.json"), "nowhere"),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_measured(flags, message, tiny_bert, data_dir):
    ended = perf("--data", data_dir, "--model", tiny_bert, "--rows", 64, *flags)
    assert ended.returncode == 2 and message in ended.stderr and "Traceback" not in ended.stderr
    assert not ended.stdout
