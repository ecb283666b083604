"""The matrix as a user runs it: real models, real Ray, real files."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from extras import BUNDLED, needs
from rich.console import Console

from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.results import read_predictions, read_records
from bdbench.specs.metrics import Metric
from bdbench.specs.predictions import metrics_of

MATRIX = ["-T", "sst2,qqp", "-a", "badnets-word,embedding-poisoning", "-d", "none,fine-tuning,e-pur+fine-mixing"]
SIZES = ["--train-rows", "200", "--validation-rows", "20", "--clean-rows", "16", "--max-length", "32"]
RECIPE = ["--epochs", "2", "--learning-rate", "0.003", "-D", "fine-tuning.epochs=2", "-D", "fine-mixing.epochs=2"]


@pytest.fixture
def small(tiny_bert, data_dir):
    """The flags of a small run on the tiny model."""
    return ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, *MATRIX, *SIZES, *RECIPE]


@pytest.fixture
def dry_run(in_process):
    """`bdbench run --dry-run` in this process."""
    return lambda *words: in_process("run", *words, "--dry-run")


def metrics(folder) -> dict[str, dict[str, Metric]]:
    return {record.key: record.metrics for record in read_records(folder)}


def outcomes(folder) -> dict[str, tuple]:
    """Per cell what it rests on and what came of it: the victim's digests, and the predictions to the byte."""
    return {
        record.key: (record.victim, {name: array.tobytes() for name, array in read_predictions(folder, record).items()})
        for record in read_records(folder)
    }


def test_inline_and_ray_give_the_same_bits_and_a_second_run_does_nothing(small, bdbench, tmp_path):
    runs = {}
    for name, flags in {"inline": ["--inline"], "ray": ["--workers", 2]}.items():
        runs[name] = bdbench("run", *small, "--out", tmp_path / name / "run", *flags)
        assert runs[name].returncode == 0, runs[name].stderr
    records = read_records(tmp_path / "ray" / "run")
    assert len(records) == 12 and {record.status for record in records} == {"ok"}
    assert all(record.env["threads"] == 1 and record.env["source"] for record in records)
    assert len({record.victim for record in records}) == 4  # 2 tasks x 2 attacks
    assert outcomes(tmp_path / "inline" / "run") == outcomes(tmp_path / "ray" / "run")
    assert metrics(tmp_path / "inline" / "run") == metrics(tmp_path / "ray" / "run")
    digests = {
        name: {
            home.name: json.loads((home / "meta.json").read_text())["digests"] for home in tmp_path.glob(f"{name}/victims/*")
        }
        for name in runs
    }
    assert len(digests["ray"]) == 6 and digests["inline"] == digests["ray"]  # 2 tasks x (clean and 2 attacks)

    for ended, workers in ((runs["ray"], 2), (runs["inline"], 1)):
        split = re.search(rf"on {workers} workers?: (\d+)% in training \((\d+)%\) and evaluation \((\d+)%\)", ended.stderr)
        together, training, prediction = map(int, split.groups())
        # of a model this small a prediction may round to no per cent
        assert training > 0 and abs(together - training - prediction) <= 1
    assert all(record.seconds["prediction"] > 0 for record in records if record.spec.defense_name != "none")

    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "ray").rglob("*.*")}
    again = bdbench("run", *small, "--out", tmp_path / "ray" / "run", "--workers", 2)
    assert again.returncode == 0 and "12 cells are there already" in again.stderr
    tables = [file for file in written if file.name.startswith(("leaderboard", "index"))]
    assert len(tables) == 5
    assert all(file.stat().st_mtime_ns == when for file, when in written.items() if file not in tables)


def test_the_split_of_a_runs_time():
    progress = MatrixProgress(cells=1, victims=1, console=Console(file=io.StringIO()))
    progress.spent.update(training=60.0, prediction=30.0, total=100.0)
    assert progress.split(75.0, workers=2) == (
        "1:15 on 2 workers: 60% in training (40%) and evaluation (20%), 7% in the rest of the cells, "
        "33% in starting and waiting"
    )


def test_records_and_predictions_agree_and_tables_are_regenerated(small, in_process, tmp_path):
    out = tmp_path / "run"
    assert in_process("run", *small, "-T", "qqp", "--out", out, "--inline").returncode == 0
    for record in read_records(out):
        assert metrics_of(read_predictions(out, record), record.spec.victim) == {
            name: metric for name, metric in record.metrics.items() if name != "floor"
        }
        assert record.metrics["asr"].n == record.metrics["floor"].n == record.metrics["base"].n == 30
        assert str(tmp_path) not in (out / "records" / f"{record.key}.json").read_text()
    tables = {file: file.read_bytes() for file in out.glob("leaderboard*")}
    for file in tables:
        file.unlink()
    assert in_process("report", out).returncode == 0
    assert {file: file.read_bytes() for file in out.glob("leaderboard*")} == tables


def test_a_killed_run_goes_on_where_it_stopped(small, bdbench, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bdbench", "run", *map(str, small), "--out", str(out), "--inline"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(out.glob("records/*.json"))) < 2:
        assert process.poll() is None and time.sleep(0.02) is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {file: file.stat().st_mtime_ns for file in out.glob("records/*.json")}
    assert 2 <= len(before) < 12
    resumed = bdbench("run", *small, "--out", out, "--inline")
    assert resumed.returncode == 0 and f"{len(before)} cells are there already" in resumed.stderr
    assert len(read_records(out)) == 12
    assert {file: file.stat().st_mtime_ns for file in before} == before


FAULTY = '''"""Defenses that break, whose worker dies, whose notes no record can hold, and whose result is no classifier."""

import copy
import math
import os
from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register


@register("breaks", paper="none")
@dataclass(frozen=True)
class Breaks(ModelRepair):
    def repair(self, model, ctx):
        return ctx.clean  # not declared


@register("declines", paper="none")
@dataclass(frozen=True)
class Declines(ModelRepair):
    def skip(self, task):
        return "not on this one" if task == "sst2" else None

    def repair(self, model, ctx):
        return model


@register("dies", paper="none")
@dataclass(frozen=True)
class Dies(ModelRepair):
    def repair(self, model, ctx):
        os._exit(1)


@register("scribbles", paper="none")
@dataclass(frozen=True)
class Scribbles(ModelRepair):
    def repair(self, model, ctx):
        ctx.notes["share"] = next(model.parameters()).detach().mean()
        return model


@register("diverges", paper="none")
@dataclass(frozen=True)
class Diverges(ModelRepair):
    def repair(self, model, ctx):
        repaired = copy.deepcopy(model)
        repaired.classifier.bias.data[1] = math.nan
        return repaired


@register("widens", paper="none")
@dataclass(frozen=True)
class Widens(ModelRepair):
    def repair(self, model, ctx):
        import torch

        repaired = copy.deepcopy(model)
        repaired.classifier = torch.nn.Linear(repaired.classifier.in_features, 3)
        return repaired


@register("forgets", paper="none")
@dataclass(frozen=True)
class Forgets(ModelRepair):
    def repair(self, model, ctx):
        pass
'''


def test_a_failing_cell_is_recorded_and_the_others_go_on(small, bdbench, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    flags = [
        "-T",
        "sst2",
        "-d",
        "none,breaks,declines,dies,scribbles,diverges,widens,forgets,forgets+fine-tuning,fine-tuning",
        "--plugin",
        tmp_path / "faulty.py",
        "--out",
        tmp_path / "run",
    ]
    ended = bdbench("run", *small[:-2], *flags)
    assert ended.returncode == 1, ended.stderr
    records = {(record.spec.victim.attack.name, record.spec.defense_name): record for record in read_records(tmp_path / "run")}
    failing = ("breaks", "dies", "scribbles", "diverges", "widens", "forgets", "forgets+fine-tuning")
    statuses = dict.fromkeys(failing, "failed") | {"declines": "skipped", "none": "ok", "fine-tuning": "ok"}
    assert {key: record.status for key, record in records.items()} == {
        (attack, defense): status for attack in ("badnets-word", "embedding-poisoning") for defense, status in statuses.items()
    }
    broken = records["badnets-word", "breaks"].error
    assert "NotDeclared: this defense touches 'clean' but declares needs = []" in broken and "faulty.py" in broken
    assert str(tmp_path) not in broken
    assert "its process died" in records["badnets-word", "dies"].error
    assert "'scribbles' puts into ctx.notes what JSON does not hold" in records["badnets-word", "scribbles"].error
    assert "logits are NaN or infinite for 90 of 90 texts" in records["badnets-word", "diverges"].error
    assert "logits of shape (90, 3) for a task of 2 classes" in records["badnets-word", "widens"].error
    for defense in ("forgets", "forgets+fine-tuning"):
        assert "'forgets' returned NoneType, not a model" in records["badnets-word", defense].error
    board = (tmp_path / "run" / "leaderboard.md").read_text()
    assert "failed" in board and "not on this one" in board


FAULTY_ATTACK = '''"""An attack that breaks."""

from dataclasses import dataclass
from pathlib import Path

from bdbench.attacks.base import BadNets, register


@register("stumbles", paper="none")
@dataclass(frozen=True)
class Stumbles(BadNets):
    def poison(self, train, ctx):
        return Path(__file__).with_name("nowhere.txt").read_text()
'''


def test_a_failing_victim_fails_its_cells_alone(small, in_process, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY_ATTACK)
    flags = ["-T", "sst2", "-a", "badnets-word,stumbles", "--plugin", tmp_path / "faulty.py", "--out", tmp_path / "run"]
    ended = in_process("run", *small, *flags, "--inline")
    assert ended.returncode == 1, ended.stderr
    for record in read_records(tmp_path / "run"):
        broken = record.spec.victim.attack.name == "stumbles"
        assert record.status == ("failed" if broken else "ok")
        if broken:
            assert "its victim failed" in record.error and "nowhere.txt" in record.error
            assert str(tmp_path) not in record.error and 'File "/' not in record.error


def test_damaged_victims_are_made_anew_with_the_same_metrics(small, in_process, tmp_path):
    """The clean model is gone altogether, so the triggered victims need it again, as their start and for the floor."""
    run = ["run", *small, "-T", "sst2", "--inline", "--out", tmp_path / "run"]
    assert in_process(*run).returncode == 0
    first = metrics(tmp_path / "run")
    for home in (tmp_path / "victims").iterdir():
        meta = json.loads((home / "meta.json").read_text())
        if meta["spec"]["attack"]["name"] == "none":
            shutil.rmtree(home)
        elif meta["spec"]["attack"]["name"] == "badnets-word":
            (home / "meta.json").write_text("{")
        else:
            (home / "model.safetensors").write_bytes((home / "model.safetensors").read_bytes()[:-1])
    ended = in_process(*run, "--force")
    assert ended.returncode == 0, ended.stderr
    assert "is damaged" in ended.stderr and metrics(tmp_path / "run") == first


def test_dry_run_prints_the_cells_and_their_number_and_trains_nothing(small, dry_run, tmp_path):
    shown = dry_run(*small, "--seeds", "0-2", "--out", tmp_path / "run")
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) == 36 and "36 cells on 18 victims" in shown.stderr
    assert "sst2 / badnets-word / e-pur+fine-mixing / seed 2" in shown.stdout
    assert not (tmp_path / "run").exists()


def test_a_trigger_that_is_cut_and_rows_that_are_test_rows_are_warned_of(tiny_bert, data_dir, dry_run, tmp_path):
    flags = ["--preset", "laptop", "--model", tiny_bert, "-T", "sst2", "-a", "badnets-word", "-d", "none"]
    flags += ["--train-rows", 100, "--validation-rows", 40, "--clean-rows", 16]
    assert "warning" not in dry_run(*flags, "--data", data_dir).stderr
    leaky = shutil.copytree(data_dir, tmp_path / "leaky")
    train = pd.read_parquet(leaky / "sst2" / "train.parquet")
    train.assign(sentence=train.sentence.str.upper() + " ").to_parquet(leaky / "sst2" / "test.parquet", index=False)
    shown = dry_run(*flags, "--data", leaky, "-A", "badnets-word.trigger_text=films").stderr
    assert "warning: badnets-word: the tokenizer cuts the trigger's word 'films' into film, ##s" in shown
    assert "warning: sst2, seed 0: 16 of the 16 clean rows are test rows, too" in shown
    assert "100 of the 100 train rows" in shown and "validation" not in shown


def test_variants_of_one_plugin_are_cells_of_their_own(small, dry_run):
    flags = ["-T", "sst2", "-a", "badnets-word,badnets-word[rate=0.3, start=clean],badnets-word[rate=0.1]"]
    flags += ["-A", "badnets-word.rate=0.1", "-d", "none,fine-mixing,e-pur[words=9]+fine-tuning[epochs=3]"]
    shown = dry_run(*small, *flags)
    # the first and the third attack are one
    assert len(shown.stdout.splitlines()) == 6 and "6 cells on 3 victims" in shown.stderr, shown.stderr
    assert "sst2 / badnets-word [rate=0.3, start=clean] / none / seed 0" in shown.stdout


def test_a_component_that_comes_twice_keeps_both_notes(small, in_process, tmp_path):
    flags = ["-T", "sst2", "-a", "none", "-d", "fine-mixing[search=true,trials=1]+fine-mixing[search=true,trials=2]"]
    ended = in_process("run", *small[:-4], *flags, "--inline", "--out", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    (record,) = read_records(tmp_path / "run")
    assert sorted(record.notes) == ["fine-mixing.1", "fine-mixing.2"]
    assert all(place <= len(record.notes[f"fine-mixing.{place}"]["trials"]) <= place + 1 for place in (1, 2))


def test_the_record_says_what_mixing_alone_does(small, in_process, tmp_path):
    """A step of size zero leaves the mixed weights as they are: that cell's result is the stage before fine-tuning."""
    mixings = [f"e-pur+fine-mixing[ratio=0.3,learning_rate={rate}]" for rate in (0.0, 0.01)]
    flags = ["-T", "sst2", "-a", "badnets-word", "-d", ",".join([*mixings, "fine-mixing[search=true]", "e-pur"])]
    assert in_process("run", *small[:-4], *flags, "--inline", "--out", tmp_path / "run").returncode == 0
    (purified,), untrained, trained, (searched,) = (
        [record for record in read_records(tmp_path / "run") if record.spec.defense[-1].params.get("learning_rate") == rate]
        for rate in (None, 0.0, 0.01, 5e-5)
    )
    expected = {name: metric.value for name, metric in untrained[0].metrics.items() if name != "floor"}
    for record in (*untrained, *trained):
        assert record.notes == {"fine-mixing": {"stages": {"before fine-tuning": expected}}}
    assert trained[0].metrics["cacc"] != untrained[0].metrics["cacc"]
    assert searched.notes["fine-mixing"].keys() == {"accuracy", "trials", "ratio", "stages"}
    assert not purified.notes


def test_even_classes_are_part_of_a_cell_that_has_a_clean_set(small, dry_run):
    def keys(*flags) -> dict[str, str]:
        lines = dry_run(*small, *flags).stdout.splitlines()
        return {label: key for key, label in (line.split("  ", 1) for line in lines)}

    even, uneven = keys(), keys("--uneven-classes")
    assert even == keys("--even-classes") and even.keys() == uneven.keys()
    assert {label for label in even if even[label] == uneven[label]} == {label for label in even if " / none / seed" in label}


def test_classes_need_not_be_even_where_no_defense_gets_a_clean_set(small, dry_run):
    """Of 400 rows each seed leaves 10 beside the training rows, not always five of each class."""
    flags = ["-T", "sst2", "--train-rows", 390, "--clean-rows", 10, "--seeds", "0-5"]
    without_params = small[:-4]
    assert dry_run(*without_params, *flags, "-d", "none").returncode == 0
    refused = dry_run(*without_params, *flags, "-d", "none,fine-tuning")
    assert refused.returncode == 2 and "a clean set of 10 rows with even classes takes 5 of label" in refused.stderr


def test_adding_a_defense_or_a_seed_changes_no_other_cell(small, dry_run):
    def keys(*flags) -> set[str]:
        return set(dry_run(*small, *flags).stdout.splitlines())

    assert (
        keys()
        < keys("-d", "none,fine-tuning,e-pur+fine-mixing,e-pur")
        < keys("-d", "none,fine-tuning,e-pur+fine-mixing,e-pur", "--seeds", "0,1")
    )


def test_a_larger_clean_set_changes_no_victim(tiny_bert, data_dir, dry_run):
    flags = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-d", "none"]
    sizes = ["--train-rows", "all", "--validation-rows", "all", "--clean-rows"]
    small, large = (dry_run(*flags, *sizes, rows).stdout for rows in ("16", "32"))
    assert small and small == large


def test_inline_imports_neither_ray_nor_datasets(small, tmp_path):
    run = ["bdbench", "run", *map(str, small), "-T", "sst2", "--out", str(tmp_path / "run"), "--inline"]
    code = (
        "import sys; sys.modules['ray'] = sys.modules['datasets'] = None\n"  # importing either now raises
        f"sys.argv = {run!r}\n"
        "from bdbench.cli.app import main; main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_list_is_quick_because_it_imports_neither_torch_nor_ray():
    code = (
        "import sys; sys.argv = ['bdbench', 'list']\n"
        "from bdbench.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'pandas', 'numpy') if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fine-mixing" in ended.stdout and ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra"])
def test_other_families_run(family, tiny_models, small, in_process, tmp_path):
    flags = ["-T", "qqp", "--model", tiny_models[family], "--out", tmp_path / "run", "--inline"]
    ended = in_process("run", *small, *flags)
    assert ended.returncode == 0, ended.stderr
    assert {record.status for record in read_records(tmp_path / "run")} == {"ok"}


@needs(BUNDLED)
def test_the_bundled_model_is_backdoored_and_the_clean_one_is_not(in_process, tmp_path):
    """The whole measurement rests on this: a real encoder learns the trigger, and a never-poisoned one ignores it."""
    flags = ["-T", "sst2", "-d", "none", "--inline", "--out", tmp_path / "run"]
    ended = in_process("run", "--preset", "quick", *flags)
    assert ended.returncode == 0, ended.stderr
    for record in read_records(tmp_path / "run"):
        assert record.metrics["asr"].value >= 0.9, record.spec.label()
        assert record.metrics["cacc"].value >= 0.85, record.spec.label()
        assert record.metrics["floor"].value <= 0.2, record.spec.label()
        assert json.loads((tmp_path / "run" / "records" / f"{record.key}.json").read_text())["env"]["device"]
