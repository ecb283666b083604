"""Reports go on past a file that cannot be read: it is named with the reason, and all others are reported."""

import json

import pytest
from test_compare import ended_well, undefended, with_ratio
from test_verify import change_predictions

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.matrix.results import Results
from bdbench.reports.files import write_report
from bdbench.reports.latex import latex
from bdbench.specs.saved import LeftOut

PAGES = ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard-tables.tex")
CELLS = (ended_well(undefended()), ended_well(with_ratio(0.1), wrong=(0,)), ended_well(with_ratio(0.5), wrong=(0, 1)))


@pytest.fixture
def run(tmp_path):
    """The folder of a run of three cells on one victim."""
    results = Results(tmp_path / "run")
    for record, predictions in CELLS:
        results.write(record, predictions)
    return tmp_path / "run"


def future(text):
    return text.replace('"schema": 2', '"schema": 3')


DAMAGES = {
    "cut": (lambda text: text[:100], "Unterminated string"),
    "of a later version": (future, "schema 3, but this version reads schemas 1 to 2"),
    "of another tool": (lambda text: json.dumps({"task": "sst2", "accuracy": 0.9}), "schema None, but this version reads"),
    "edited": (lambda text: text.replace('"ratio": 0.5', '"ratio": 0.6'), "the file was edited"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_record_that_cannot_be_read_is_named_and_the_others_are_reported(damage, run, in_process, tmp_path):
    key = CELLS[2][0].key
    file = run / "records" / f"{key}.json"
    change, reason = DAMAGES[damage]
    file.write_text(change(file.read_text()))
    ended = in_process("report", run, "--no-figures")
    assert ended.returncode == 0 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"warning: {run}: records/{key}.json is left out: ") and reason in ended.stderr
    page = (run / "leaderboard.md").read_text()
    (named,) = [line for line in page.splitlines() if line.startswith("Left out, since they cannot be read: ")]
    assert f"1 of 3 records: records/{key}.json (" in named and page.count("Left out") == 1
    assert f"records/{key}.json" in (run / "leaderboard.tex").read_text()
    written = [(run / name).read_bytes() for name in PAGES]
    strict = in_process("report", run, "--no-figures", "--strict")
    assert strict.returncode == 1 and strict.stderr == ended.stderr and strict.stdout == ended.stdout
    assert [(run / name).read_bytes() for name in PAGES] == written
    others = Leaderboard([record for record, _ in CELLS[:2]], predictions_of=predictions_of)
    write_report(tmp_path / "others", others)
    assert page.replace(f"{named}\n\n", "") == (tmp_path / "others" / "leaderboard.md").read_text()
    assert written[1] == (tmp_path / "others" / "leaderboard.csv").read_bytes()


def predictions_of(record):
    return next(predictions for each, predictions in CELLS if each.key == record.key)


def test_claims_and_one_table_go_on_and_are_an_error_if_strict(run, in_process):
    (run / "records" / f"{CELLS[2][0].key}.json").write_text("{")
    for words in (("claims", run), ("report", run, "--format", "latex")):
        ended, strict = in_process(*words), in_process(*words, "--strict")
        assert (ended.returncode, strict.returncode) == (0, 1) and strict.stdout == ended.stdout
        assert ended.stderr.startswith(f"warning: {run}: records/{CELLS[2][0].key}.json is left out: ")
    assert "Left out, since they cannot be read: 1 of 3 records: " in in_process("claims", run).stdout


@pytest.mark.parametrize("command", ["report", "claims", "compare"])
def test_without_any_record_that_can_be_read_there_is_no_report(command, run, in_process):
    for record, _ in CELLS:
        (run / "records" / f"{record.key}.json").write_text("[]")
    folders = (run, run) if command == "compare" else (run,)
    ended = in_process(command, *folders)
    first = min(record.key for record, _ in CELLS)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and not ended.stdout
    assert f"reads none of its 3 files of records; the first is records/{first}.json (it is no JSON object)" in ended.stderr
    assert not list(run.glob("leaderboard*"))


@pytest.mark.parametrize("is_gone", [True, False])
def test_predictions_that_say_nothing_are_named_and_intervals_left_out(is_gone, run, in_process):
    record = CELLS[1][0]
    if is_gone:
        (run / record.predictions).unlink()
        reason = "No such file"
    else:
        change_predictions(run, record, clean_gold=None)
        reason = "there is no array 'clean_gold'"
    ended = in_process("report", run, "--no-figures")
    assert ended.returncode == 0 and ended.stderr.startswith(f"warning: {run}: {record.predictions} is left out: ")
    assert reason in ended.stderr and ended.stderr.count("\n") == 1
    assert f"The predictions of 1 cell are missing or damaged: {record.predictions} (" in (run / "leaderboard.md").read_text()
    assert in_process("report", run, "--no-figures", "--strict").returncode == 1
    assert in_process("claims", run, "--strict").returncode == 0  # they read no predictions


def test_a_run_that_ends_beside_a_damaged_record_writes_its_tables(tiny_bert, data_dir, tmp_path, monkeypatch, in_process):
    """One that is damaged while the run goes on; one that is there before it is refused, so that nothing is lost."""
    out = tmp_path / "out"
    words = ["run", "--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "badnets-word"]
    words += [
        "-d",
        "none,e-pur",
        "--train-rows",
        "100",
        "--validation-rows",
        "20",
        "--max-length",
        "32",
        "--epochs",
        "1",
        "--inline",
        "--out",
        out,
    ]
    write = Results.write

    def write_and_damage(self, record, predictions=None):
        write(self, record, predictions)
        (out / "records" / "0123456789abcdef.json").write_text("{")

    monkeypatch.setattr(Results, "write", write_and_damage)
    ended = in_process(*words)
    assert ended.returncode == 0 and f"warning: {out}: records/0123456789abcdef.json is left out: " in ended.stderr
    assert "2 cells: 2 ok" in (out / "leaderboard.md").read_text()
    refused = in_process(*words)  # no receipt says that it is finished
    assert refused.returncode == 2 and "0123456789abcdef.json: not a record that this version" in refused.stderr


def test_left_out_files_are_told_in_latex_as_they_are():
    board = Leaderboard([record for record, _ in CELLS], left_out=[LeftOut("records/a_b.json", "50 % gone", True)])
    assert r"1 of 4 records: records/a\_b.json (50 \% gone)." in latex(board)[0]
