"""`python -m bdbench.perf`, run as a user would, on a tiny model."""

import json
import os
import subprocess
import sys

import pytest
import typer

from bdbench.cli.app import main
from bdbench.matrix.graph import Step
from bdbench.perf.race import speed
from bdbench.perf.runner import Figure, figure_table, seconds_of, steady_rate, usage_of
from bdbench.perf.simulation import pretended_steps, simulate
from bdbench.perf.table import speed_table
from bdbench.perf.workload import labelled_texts
from bdbench.specs.work import CellSpec


def perf(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bdbench.perf", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


LONG = pytest.mark.skipif("BDBENCH_LONG" not in os.environ, reason="many processes are started: make test-long")


@LONG
def test_speed_is_measured_and_written(tiny_bert, data_dir, tmp_path):
    ended = perf("--data", data_dir, "--model", tiny_bert, "--rows", 64, "--rounds", 2, "--json", tmp_path / "perf.json")
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "perf.json").read_text())
    assert {"plain loop", "engine"} <= set(result["contenders"])
    assert result["task"] == "sst2" and result["rows"] == 64 and result["env"]["torch"]
    for name, contender in result["contenders"].items():
        assert name in ended.stdout
        assert contender["peak_memory_mb"] > 50
        for part, passes in (("training", 6), ("evaluation", 2)):
            figures = contender[part]
            lowest, highest = figures["range"]
            assert 0 < lowest <= figures["examples_per_second"] <= highest
            assert figures["flops"] == pytest.approx(passes * result["non_embedding_parameters"] * figures["tokens_per_second"])
            assert figures["share_of_matrix_rate"] == pytest.approx(figures["flops"] / result["matrix_flops"])
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


def test_speed_by_hand():
    """Eight examples of 40 word pieces in 2, 4 and 8 seconds, at 120 FLOP on a machine of 60 FLOP/s."""
    assert speed([8.0, 2.0, 4.0], examples=8, tokens=40, flop=120, matrix_rate=60) == {
        "examples_per_second": 2.0,
        "range": [1.0, 4.0],
        "tokens_per_second": 10.0,
        "flops": 30.0,
        "share_of_matrix_rate": 0.5,
    }


def test_the_table_compares_with_the_first_contender():
    slow, fast = (speed([seconds], examples=80, tokens=8000, flop=1.6e13, matrix_rate=4e12) for seconds in (8.0, 4.0))
    contenders = {
        "plain loop": {"peak_memory_mb": 900, "training": slow, "evaluation": fast},
        "engine": {"peak_memory_mb": 800, "training": fast, "evaluation": fast},
    }
    header, _, *lines = speed_table({"contenders": contenders}).splitlines()
    assert [cell.strip() for cell in header.split("|")[1:4]] == ["work", "loop", "examples/s"]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        ["training", "plain loop", "10", "10-10", "1.00", "1,000", "2,000", "50%", "900"],
        ["training", "engine", "20", "20-20", "2.00", "2,000", "4,000", "100%", "800"],
        ["evaluation", "plain loop", "20", "20-20", "1.00", "2,000", "4,000", "100%", "900"],
        ["evaluation", "engine", "20", "20-20", "1.00", "2,000", "4,000", "100%", "800"],
    ]


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


@LONG
def test_the_runner_is_measured_by_its_own_command(tmp_path):
    ended = perf("runner", "--cells", 20, "--equal-cells", 4, "--simulated", 100, "--json", tmp_path / "runner.json")
    assert ended.returncode == 0, ended.stderr
    figures = {figure["what"].split(",")[0]: figure for figure in json.loads((tmp_path / "runner.json").read_text())}
    assert len(figures) == 10 and all(figure["value"] > 0 for figure in figures.values())
    assert figures["running 20 no-op cells on two workers"]["value"] > figures["resuming the finished run of 20 cells"]["value"]
    assert figures["a decision"]["holds"] is True
    assert figures["reports of 20 records: the most memory"]["value"] > 20
    assert ended.stdout.count("|") == 5 * (2 + len(figures))


def test_a_command_of_which_every_flag_has_a_default_runs_without_any(monkeypatch, capsys):
    command = typer.Typer(add_completion=False)
    command.command()(lambda: typer.echo("measured"))
    monkeypatch.setattr(sys, "argv", ["bdbench.perf"])
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code and capsys.readouterr().out == "measured\n"


def test_a_command_that_fails_is_no_figure():
    with pytest.raises(RuntimeError, match="(?s)ended with status 2.*no preset named 'huge'"):
        seconds_of(["run", "--preset", "huge"])
    with pytest.raises(RuntimeError, match="(?s)ended with status 2.*no folder 'records'"):
        usage_of(["report", "nowhere"])


def test_targets_are_bounds_that_may_be_reached():
    assert [Figure("", value, "s", most=4).holds for value in (3.9, 4.0, 4.1)] == [True, True, False]
    assert [Figure("", value, "%", least=90).holds for value in (89.9, 90.0, 99.0)] == [False, True, True]
    assert Figure("", 1.0, "s").holds is None
    *_, line = figure_table([Figure("planning", 5.25, "s", most=4)]).splitlines()
    assert [cell.strip() for cell in line.split("|")[1:-1]] == ["planning", "<= 4 s", "5.25 s", "no"]


def test_the_steady_rate_by_hand():
    """Two workers that start late, then end two cells every two seconds."""
    assert steady_rate([12.0, 10.0, 10.0, 14.0, 12.0, 14.0], workers=2) == pytest.approx(1.0)
    assert steady_rate([3.0, 5.0, 7.0], workers=1) == pytest.approx(0.5)


def test_simulated_steps_wait_for_their_victims_and_all_are_decided():
    steps = pretended_steps(60)  # three victims, two of them whole, behind one clean model
    assert [isinstance(step.spec, CellSpec) for step in steps] == [False] * 2 + [True] * 25 + [False] + [True] * 25 + [
        False
    ] + [True] * 10
    assert simulate(steps, slots=4).steps == 64 and 0 < simulate(steps, slots=4).milliseconds < 1
    circle = [Step(steps[1].spec, (steps[2].key,)), Step(steps[2].spec, (steps[1].key,))]
    with pytest.raises(RuntimeError, match="2 of 2 steps were never handed out"):
        simulate(circle, slots=4)


def test_the_workloads_texts_are_distinct_and_even():
    texts = labelled_texts(32, seed=0)
    assert len({text for text, _ in texts}) == 32 and sum(label for _, label in texts) == 16
