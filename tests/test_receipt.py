"""The same command on a finished run does nothing, unless anything it hangs on has changed."""

import json
import os
import shutil

import pytest

from bdbench.cli.app import main
from bdbench.matrix import lock, receipt
from bdbench.registry import DEFENSES

NO_OP = """
from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register


@register("receipt-no-op", paper="none")
@dataclass(frozen=True)
class NoOp(ModelRepair):
    unchanged = True

    def repair(self, model, ctx):
        return model
"""


@pytest.fixture
def finished(tiny_bert, data_dir, tmp_path, monkeypatch, capsys):
    """A finished run of two cells: a function that gives the same command again, with more flags, and returns its lines."""
    model, data, plugin = tmp_path / "model", tmp_path / "data", tmp_path / "receipt_no_op.py"
    shutil.copytree(tiny_bert, model)
    shutil.copytree(data_dir, data)
    plugin.write_text(NO_OP)
    words = ["--preset", "laptop", "--model", model, "--data", data, "-T", "sst2", "-a", "none", "-d", "none,receipt-no-op"]
    words += ["--plugin", plugin, "--out", tmp_path / "run", "--train-rows", 64, "--validation-rows", 20, "--clean-rows", 8]
    words += ["--max-length", 32, "--epochs", 1, "--inline"]

    def again(*more: object) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["bdbench", "run", *map(str, (*words, *more))])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr()

    again()
    yield again
    del DEFENSES._classes["receipt-no-op"]  # the next test has a file of its own that claims the name


@pytest.fixture
def plans(monkeypatch):
    """A list that gets an item whenever something is planned."""
    from bdbench.matrix import plan as planning

    found, plan = [], planning.plan
    monkeypatch.setattr(planning, "plan", lambda *words: found.append(words) or plan(*words))
    return found


def test_the_same_command_again_plans_nothing_and_says_the_same(finished, plans, tmp_path):
    (tmp_path / "run" / receipt.NAME).unlink()
    planned = finished()
    assert len(plans) == 1
    assert finished() == planned and len(plans) == 1
    assert "2 cells are there already; 0 to run" in planned.err and "leaderboard.md" in planned.out


def edit_record(folder):
    file = min((folder / "run" / "records").iterdir())
    state = file.stat()
    file.write_text(file.read_text().replace('"python": "', '"python": "x', 1).replace("\n", "", 1))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def add_data(folder):
    file = folder / "data" / "sst2" / "test.parquet"
    os.utime(file, ns=(1, 1))


CHANGES = {
    "record": edit_record,
    "record removed": lambda folder: max((folder / "run" / "records").iterdir()).rename(folder / "aside.json"),
    "predictions": lambda folder: os.utime(min((folder / "run" / "predictions").iterdir()), ns=(1, 1)),
    "table": lambda folder: (folder / "run" / "leaderboard.csv").write_text("mine\n"),
    "table removed": lambda folder: (folder / "run" / "leaderboard.md").unlink(),
    "model": lambda folder: os.utime(folder / "model" / "config.json", ns=(1, 1)),
    "data": add_data,
    "plugin": lambda folder: (folder / "receipt_no_op.py").write_text(NO_OP + "\n"),
    "receipt": lambda folder: (folder / "run" / receipt.NAME).write_text("{}"),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_whatever_changed_all_is_done_as_ever(changed, finished, plans, tmp_path):
    tables = {file: file.read_bytes() for file in (tmp_path / "run").glob("leaderboard*")}
    CHANGES[changed](tmp_path)
    finished()
    assert len(plans) == 1
    if changed != "plugin":  # which is another version of a defense
        assert {file: file.read_bytes() for file in tables} == tables
    finished()
    assert len(plans) == 1


def test_the_data_of_peers_counts_with_that_of_the_victims(finished, plans, tmp_path):
    with_peers = ("-d", "none,wag", "--peers-task", "qqp")
    finished(*with_peers)
    finished(*with_peers)
    assert len(plans) == 1
    os.utime(tmp_path / "data" / "qqp" / "train.parquet", ns=(1, 1))
    finished(*with_peers)
    assert len(plans) == 2


def test_predictions_that_are_gone_are_missed(finished, plans, tmp_path):
    min((tmp_path / "run" / "predictions").iterdir()).unlink()
    finished()
    assert len(plans) == 1


def test_the_state_of_a_folder_is_that_of_linked_folders_too(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    data.mkdir()
    (elsewhere / "deep" / "rows.csv").write_text("a,0\n")
    (data / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(data)
    before = receipt.state_of(data)
    assert receipt.state_of(data) == before
    (elsewhere / "deep" / "rows.csv").write_text("a,0\nb,1\n")
    assert receipt.state_of(data) != before


def test_other_flags_libraries_and_machines_are_another_request(finished, plans, monkeypatch):
    finished("--threads", 1)  # the default: the same values are the same request
    assert not plans
    finished("--force")
    finished("--seeds", 0, "--max-length", 48)
    assert len(plans) == 2
    for name in ("libraries", "processor", "devices", "_code_digest"):
        with monkeypatch.context() as patch:
            patch.setattr(receipt, name, lambda: ["another"])
            finished()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    finished()
    assert len(plans) == 7


def test_a_damaged_record_is_refused_and_a_folder_in_use_is_left_alone(finished, tmp_path, monkeypatch, capsys):
    with lock.locked(tmp_path / "run"), pytest.raises(AssertionError):
        finished()
    assert "another run works in this folder" in capsys.readouterr().err
    record = min((tmp_path / "run" / "records").iterdir())
    record.write_text(record.read_text()[:100])
    with pytest.raises(AssertionError):
        finished()
    assert "not a record that this version of bdbench reads" in capsys.readouterr().err


def test_a_run_that_asks_the_hub_gets_no_receipt(tmp_path):
    flags = {"data": None, "model": None, "plugin": None}
    assert receipt.asked_digest(flags)
    assert receipt.asked_digest({**flags, "data": "hub"}) is None
    assert receipt.asked_digest({**flags, "model": "google-bert/bert-base-uncased"}) is None
    assert receipt.asked_digest({**flags, "model": str(tmp_path)})


def test_a_file_that_a_flag_names_counts_by_its_text(tmp_path):
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps({"ratio": 0.5}))
    before = receipt.asked_digest({"tuned": file})
    assert receipt.asked_digest({"tuned": file}) == before
    file.write_text(json.dumps({"ratio": 0.6}))
    assert receipt.asked_digest({"tuned": file}) != before
