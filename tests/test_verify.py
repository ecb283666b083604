"""`bdbench verify`: the numbers of a real small run, and what is said once one of its files is changed."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from test_protocol import VICTIM, cell
from test_tables import TRACEBACK
from test_tables import cell as made_up

from bdbench.analysis.repetition import circumstances, differences, other_rows
from bdbench.analysis.verification import problems_of, verify
from bdbench.errors import UsageError
from bdbench.matrix.rerun import Here, draw, plans
from bdbench.matrix.results import Results, read_records
from bdbench.specs.predictions import metrics_of
from bdbench.specs.records import VictimDigests
from bdbench.specs.saved import SavedRun

SIZES = ["--train-rows", "100", "--validation-rows", "20", "--clean-rows", "16", "--max-length", "32", "--epochs", "2"]
STRIP = ["-D", "strip.copies=2"]
CELLS = 6  # two attacks, three defenses


@pytest.fixture(scope="module")
def site(tiny_bert, data_dir):
    """Where the model and the data of the run are."""
    return ["--model", tiny_bert, "--data", data_dir]


@pytest.fixture(scope="module")
def whole_run(site, bdbench, tmp_path_factory):
    """The folder of a run of six cells: no defense, a repair and a detector, each on a clean and on a backdoored victim."""
    out = tmp_path_factory.mktemp("verify") / "run"
    matrix = ["-T", "sst2", "-a", "none,badnets-word[rate=0.5]", "-d", "none,e-pur,strip", *STRIP]
    ended = bdbench("run", "--preset", "laptop", *site, *SIZES, *matrix, "--inline", "--out", out)
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture
def run(whole_run, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(whole_run, tmp_path / "run", ignore=shutil.ignore_patterns(".*"))


def record_of(run, defense="e-pur", attack="badnets-word"):
    (record,) = [
        record
        for record in read_records(run)
        if (record.spec.defense_name, record.spec.victim.attack.name) == (defense, attack)
    ]
    return record


def change_json(run, key, change):
    """Change the JSON of a record in place."""
    file = run / "records" / f"{key}.json"
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def change_predictions(run, record, **arrays):
    """Put other arrays in place of those of these names; None takes one away."""
    file = run / record.predictions
    with np.load(file) as saved:
        changed = {**saved, **arrays}
    np.savez_compressed(file, **{name: array for name, array in changed.items() if array is not None})


def predictions_of(run, record):
    with np.load(run / record.predictions) as saved:
        return dict(saved)


def flipped(array, row=0):
    """The classes, with 0 and 1 exchanged in one row."""
    changed = array.copy()
    changed[row] = 1 - changed[row]
    return changed


def lines_of(in_process, run, status, *flags):
    """What verify prints of a run, a line each, after it ended with this status."""
    ended = in_process("verify", run, *flags)
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def findings_of(in_process, run):
    """The findings, and the counts."""
    *lines, counts = lines_of(in_process, run, 1)
    return [line for line in lines if not line.startswith("not checked: ")], counts


def finding_of(in_process, run):
    """The only finding, and the counts."""
    (finding,), counts = findings_of(in_process, run)
    return finding, counts


def test_a_whole_run_is_verified(whole_run, in_process):
    gap, counts = lines_of(in_process, whole_run, 0)
    assert counts == f"{CELLS} cells: {CELLS} verified, 0 differ, 0 could not be checked"
    assert gap.startswith("not checked: the floor of 3 cells, ") and "only ones" not in gap


def test_a_changed_prediction_is_found(run, in_process):
    record = record_of(run)
    saved = predictions_of(run, record)
    change_predictions(run, record, triggered=flipped(saved["triggered"]))
    finding, counts = finding_of(in_process, run)
    hits, n = record.metrics["asr"].hits, record.metrics["asr"].n
    now = hits + (1 if saved["triggered"][0] != 1 else -1)
    stated, given = (f"{100 * count / n:.1f} % ({count} of {n})" for count in (hits, now))
    assert finding == f"records/{record.key}.json: asr {stated}: the predictions give {given}"
    assert counts == f"{CELLS} cells: {CELLS - 1} verified, 1 differ, 0 could not be checked"


@pytest.mark.parametrize("name", ["cacc", "asr", "base", "majority", "frr", "far", "auroc"])
def test_a_changed_metric_is_found(name, run, in_process):
    record = record_of(run, "strip")
    metric = record.metrics[name]
    hits = metric.hits - 1 if metric.hits else 1

    def change(raw):
        raw["metrics"][name]["value"] = hits / metric.n

    change_json(run, record.key, change)
    finding, _ = finding_of(in_process, run)
    assert finding.startswith(f"records/{record.key}.json: {name} ")
    assert f"({hits:,} of {metric.n:,}): the predictions give " in finding and f"({metric.hits:,} of {metric.n:,})" in finding


def test_a_metric_that_was_taken_away_is_found_but_for_the_majority_of_older_records(run, in_process):
    record = record_of(run, "strip")
    change_json(run, record.key, lambda raw: raw["metrics"].pop("frr"))
    finding, _ = finding_of(in_process, run)
    assert finding.startswith(f"records/{record.key}.json: no frr: the predictions give ")
    change_json(run, record.key, lambda raw: raw["metrics"].update(frr=asdict(record.metrics["frr"])))
    change_json(run, record.key, lambda raw: raw["metrics"].pop("majority"))
    *_, gap, counts = lines_of(in_process, run, 0)
    assert gap == "not checked: the majority rate of 1 cell, whose older records do not state it"
    assert counts.startswith(f"{CELLS} cells: {CELLS} verified")


def test_a_metric_that_no_prediction_gives_is_found(run, in_process):
    record = record_of(run)
    change_json(run, record.key, lambda raw: raw["metrics"].update(far={"value": 0.5, "n": 30}))
    assert finding_of(in_process, run)[0] == f"records/{record.key}.json: far 50.0 % (15 of 30): the predictions give none"


def test_a_floor_that_the_other_cells_of_the_victim_do_not_state_is_found(run, in_process):
    record = record_of(run)
    floor = record.metrics["floor"]
    other = (floor.hits + 1) / floor.n if floor.hits < floor.n else 0
    change_json(run, record.key, lambda raw: raw["metrics"]["floor"].update(value=other))
    finding, _ = finding_of(in_process, run)
    reference = record_of(run, "none")
    assert finding.startswith(f"records/{record.key}.json: floor ")
    assert finding.endswith(f"({floor.hits} of {floor.n}) in records/{reference.key}.json, a cell of the same victim")


def test_the_floor_of_the_undefended_cell_goes_before_that_of_others(run, in_process):
    changed = [record_of(run), record_of(run, "strip")]
    other = 0.0 if changed[0].metrics["floor"].hits else 1.0
    for record in changed:
        change_json(run, record.key, lambda raw: raw["metrics"]["floor"].update(value=other))
    findings, _ = findings_of(in_process, run)
    assert [line.partition(":")[0] for line in findings] == sorted(f"records/{record.key}.json" for record in changed)


def test_a_cell_on_other_bits_of_its_victim_is_found(run, in_process):
    record = record_of(run)
    change_json(run, record.key, lambda raw: raw["victim"].update(weights="0" * 64))
    finding, _ = finding_of(in_process, run)
    assert finding.startswith(f"records/{record.key}.json: a victim with the weights 00000000…")
    assert f"stood on the weights {record.victim.weights[:8]}…" in finding


def test_an_edited_spec_a_key_of_another_cell_and_damaged_records_are_each_named(run, in_process):
    edited, renamed, damaged, foreign = (record_of(run, *of) for of in (("e-pur",), ("strip",), ("none",), ("none", "none")))
    change_json(run, edited.key, lambda raw: raw["spec"]["victim"].update(seed=7))
    (run / "records" / f"{renamed.key}.json").rename(run / "records" / "0123456789abcdef.json")
    file = run / "records" / f"{damaged.key}.json"
    file.write_text(file.read_text()[:-40])
    change_json(run, foreign.key, lambda raw: raw.update(schema=99))
    findings, counts = findings_of(in_process, run)
    assert len(findings) == 4 and all("no record that this version reads" in line for line in findings)
    reason_by_file = {line.split(": ")[0]: line for line in findings}
    assert "hashes to" in reason_by_file[f"records/{edited.key}.json"]
    assert f"{renamed.key}.json" in reason_by_file["records/0123456789abcdef.json"]
    assert "schemas 1 to 2" in reason_by_file[f"records/{foreign.key}.json"]
    assert f"records/{damaged.key}.json" in reason_by_file
    assert counts == f"{CELLS} cells: 2 verified, 0 differ, 0 could not be checked, 4 damaged or missing"


def test_missing_and_damaged_predictions_are_found(run, in_process):
    missing, damaged, unnamed = record_of(run), record_of(run, "strip"), record_of(run, "none")
    (run / missing.predictions).unlink()
    (run / damaged.predictions).write_bytes((run / damaged.predictions).read_bytes()[:-30])
    change_json(run, unnamed.key, lambda raw: raw.update(predictions=None))
    findings, counts = findings_of(in_process, run)
    assert f"records/{missing.key}.json: {missing.predictions}: No such file or directory" in findings
    assert any(line.startswith(f"records/{damaged.key}.json: {damaged.predictions}: ") for line in findings)
    assert f"records/{unnamed.key}.json: no predictions: every cell that ends well saves them" in findings
    assert counts == f"{CELLS} cells: 3 verified, 0 differ, 0 could not be checked, 3 damaged or missing"


def test_the_predictions_of_another_cell_are_none_of_this_one(run, in_process):
    record, other = record_of(run), record_of(run, "none")
    change_json(run, record.key, lambda raw: raw.update(predictions=other.predictions))
    finding, _ = finding_of(in_process, run)
    assert finding.startswith(f"records/{record.key}.json: {other.predictions}: ")


def test_gold_labels_that_the_other_cells_do_not_have_are_found(run, in_process):
    record = record_of(run, "none", "none")  # without a trigger no other array has them
    saved = predictions_of(run, record)
    change_predictions(run, record, clean=flipped(saved["clean"]), clean_gold=flipped(saved["clean_gold"]))
    findings, _ = findings_of(in_process, run)
    assert any("1 of 60 gold labels are not those of records/" in line for line in findings)


# without a run


def detected(**changes):
    """Sound predictions of a detector on three test rows, two of them with the trigger, and two validation rows."""
    arrays = {
        "clean": np.array([0, 1, 1], dtype=np.int16),
        "clean_gold": np.array([0, 1, 0], dtype=np.int16),
        "triggered": np.array([1, 1], dtype=np.int16),
        "triggered_gold": np.array([0, 0], dtype=np.int16),
        "clean_scores": np.array([0.0, 0.5, 1.0]),
        "triggered_scores": np.array([2.0, 0.1]),
        "validation_scores": np.array([0.0, 1.0]),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


GUARDED = replace(cell(replace(VICTIM, data=replace(VICTIM.data, test_rows=3))), validation_rows=2, frr=0.05)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"clean": None}, "there is no array 'clean'"),
        ({"clean": np.array([0, 1], dtype=np.int16)}, r"'clean' has the shape (2,), not (3,)"),
        ({"clean": np.array(0)}, r"'clean' has the shape (), not (3,)"),
        ({"clean": np.array([0, -1, 0])}, "'clean' holds what are no classes"),
        ({"clean_gold": np.array([0.0, 1, 0])}, "'clean_gold' holds what are no classes"),
        ({"triggered": np.array([1, 1, 1])}, r"'triggered' has the shape (3,), not (2,)"),
        ({"triggered_gold": None}, "there is no array 'triggered_gold'"),
        ({"triggered_gold": np.array([0, 1])}, "outside the target"),
        ({"clean_scores": None}, "there is no array 'clean_scores'"),
        ({"clean_scores": np.array([0.0, np.nan, 1])}, "'clean_scores' holds what are no finite numbers"),
        ({"validation_scores": np.array([0.0])}, r"'validation_scores' has the shape (1,), not (2,)"),
    ],
)
def test_what_keeps_arrays_from_being_predictions(changes, problem):
    problems = problems_of(detected(**changes), GUARDED)
    assert not problems if problem is None else any(problem in text for text in problems), problems


def test_predictions_that_a_spec_makes_nothing_of_are_problems():
    assert problems_of(detected(), replace(GUARDED, frr=None)) == [
        "there are clean_scores, triggered_scores, validation_scores, but the cell has no detector"
    ]
    (problem,) = problems_of(detected(), replace(GUARDED, frr=1.0))
    assert problem == "2 validation rows give no threshold for a false rejection rate of 1"
    none = detected(validation_scores=np.array([]))
    assert problems_of(none, replace(GUARDED, validation_rows=0))[0].startswith("0 validation rows give no threshold")
    for target in (None, "1", -1, 2**15):
        attack = replace(VICTIM.attack, params={"rate": 0.1, "target": target})
        (problem,) = problems_of(detected(), replace(GUARDED, victim=replace(GUARDED.victim, attack=attack)))
        assert problem == "there are triggered rows, but the attack 'badnets-word' has no target"
    empty = {"triggered": np.array([], dtype=np.int16), "triggered_gold": np.array([], dtype=np.int16)}
    (problem,) = problems_of(detected(**empty, triggered_scores=np.array([])), GUARDED)
    assert problem == "no row has the trigger"


def test_a_record_of_the_first_protocol_without_predictions_cannot_be_checked():
    old, failed = made_up(protocol=1), made_up(status="failed", error="once")
    files = {"records/a.json": old, "records/b.json": failed}
    verification = verify(SavedRun(files, {}, {}, {}))
    assert not verification.findings
    assert (verification.unchecked, verification.unfinished, verification.cells) == (1, 1, 2)
    new = verify(SavedRun({"records/a.json": made_up(seed=1)}, {}, {}, {}))
    assert (new.unchecked, new.damaged) == (0, 1)


def test_a_run_without_records_is_bad_usage_and_so_are_flags_without_their_use(tmp_path, in_process):
    (tmp_path / "records").mkdir()
    for words, says in (
        ([tmp_path], "no records in it"),
        ([tmp_path / "none"], "no folder 'records'"),
        ([tmp_path, "--tolerance", "0.1"], "--tolerance is for cells that are run again; give --rerun N"),
        ([tmp_path, "--data", "builtin"], "--data is for cells that are run again"),
    ):
        ended = in_process("verify", *words)
        assert ended.returncode == 2 and says in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_verifying_imports_no_torch(whole_run):
    code = (
        "import sys; from bdbench.cli.app import main\n"
        f"sys.argv = ['bdbench', 'verify', {str(whole_run)!r}]\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "assert not {'torch', 'ray', 'pandas', 'transformers'} & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


# two runs


def test_a_run_compared_with_itself_changes_nothing(whole_run, in_process):
    ended = in_process("compare", whole_run, whole_run, "--only-changed")
    assert ended.returncode == 0 and ended.stdout.splitlines()[4:] == [
        f"{CELLS} cells in both: {CELLS} with the same key, 0 with the same label but another spec; 0 changed. "
        "0 of 9 differences are beyond noise."
    ]


def test_of_two_runs_with_other_hyperparameters_it_is_said_which_differ(whole_run, site, tmp_path, in_process):
    matrix = ["-T", "sst2", "-a", "badnets-word[rate=0.5]", "-d", "e-pur,none,fine-tuning", "-D", "e-pur.words=20"]
    flags = ["--preset", "laptop", *site, *SIZES, *matrix, "--inline", "--victims", whole_run.parent / "victims"]
    ended = in_process("run", *flags, "--out", tmp_path / "other")
    assert ended.returncode == 0, ended.stderr
    ended = in_process("compare", whole_run, tmp_path / "other")
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert lines[4].startswith("2 cells in both: 1 with the same key, 1 with the same label but another spec; ")
    assert "(1) 1 cell: defense.e-pur.words is 200 in A, 20 in B." in lines
    rows = {
        row[0]: row for line in lines if line.startswith("| sst2") for row in [[*map(str.strip, line.strip("| ").split("|"))]]
    }
    assert rows["sst2 / badnets-word / none / seed 0"][1] == "same"
    assert rows["sst2 / badnets-word / e-pur / seed 0"][1] == "(1)"
    alone = lines.index("Only in A: 4 cells.")
    assert "- sst2 / badnets-word / strip / seed 0" in lines[alone:]
    assert lines[lines.index("Only in B: 1 cell.") + 2 :] == ["- sst2 / badnets-word / fine-tuning / seed 0"]


# cells that are run again


def test_cells_that_are_run_again_are_equal_bit_for_bit_and_a_changed_prediction_is_not(run, site, in_process):
    counts = lines_of(in_process, run, 0, "--rerun", 2, *site)[-1]
    assert counts == "2 cells run again: 2 equal bit for bit, 0 differ"
    for record in read_records(run):  # whichever are drawn; with metrics that fit, so that nothing else can tell
        change_predictions(run, record, clean=flipped(predictions_of(run, record)["clean"], row=3))
        metrics = metrics_of(predictions_of(run, record), record.spec.victim, record.spec.frr)
        fitting = {name: asdict(metric) for name, metric in metrics.items()}
        change_json(run, record.key, lambda raw, fitting=fitting: raw["metrics"].update(fitting))
    assert lines_of(in_process, run, 0)[-1].startswith(f"{CELLS} cells: {CELLS} verified, ")
    *findings, counts = lines_of(in_process, run, 1, "--rerun", 2, *site)
    repeated = [line for line in findings if "run again" in line]
    assert len(repeated) == 2 and all("1 of 60 in 'clean' differ" in line for line in repeated)
    assert all("its victim is the same to the bit; the environment on record is the same" in line for line in repeated)
    assert counts == "2 cells run again: 0 equal bit for bit, 2 differ"
    counts = lines_of(in_process, run, 0, "--rerun", 2, "--tolerance", 1 / 60 + 0.001, *site)[-1]
    assert counts.startswith("2 cells run again: 2 within ") and counts.endswith(" 0 differ")
    *findings, counts = lines_of(in_process, run, 1, "--rerun", 2, "--tolerance", 0.01, *site)
    assert counts == "2 cells run again: 0 within 1 points of CACC and ASR, 2 differ"
    assert sum("run again, CACC is " in line and "1.7 points" in line for line in findings) == 2


def test_what_is_not_what_the_cells_name_is_refused_in_one_line(
    whole_run, site, tiny_models, tmp_path, data_dir, in_process, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model, data = site[:2], site[2:]
    other_data = shutil.copytree(data_dir, tmp_path / "other")
    (other_data / "sst2" / "test.parquet").write_bytes((data_dir / "sst2" / "validation.parquet").read_bytes())
    for flags, says in (
        (model, "was made from a directory of data; give it with --data DIR"),
        ([*model, "--data", other_data], "cannot be trained again here: the data of sst2 changed"),
        ([*model, "--data", tmp_path / "nowhere"], "nowhere"),
        (data, "give it with --model"),
        ([*data, "--model", tiny_models["roberta"]], "the weights of the model in this place have SHA-256"),
    ):
        ended = in_process("verify", whole_run, "--rerun", 1, *flags)
        assert ended.returncode == 2 and says in ended.stderr, (flags, ended.stderr)
        assert len(ended.stderr.splitlines()) == 1


def test_a_model_or_a_directory_that_no_cell_names_is_refused(whole_run, tiny_models, data_dir, monkeypatch):
    monkeypatch.chdir(tiny_models["bert"].parent)  # where the model goes by its name
    spec = record_of(whole_run).spec
    (plan,) = plans([spec], Here(data=data_dir))
    assert (plan.model_folder, plan.data_folder) == (tiny_models["bert"].resolve(), data_dir)
    with pytest.raises(UsageError, match="--model .*roberta: the weights of the model in this place have SHA-256"):
        plans([spec], Here(model=str(tiny_models["roberta"]), data=data_dir))
    generated = replace(spec, victim=replace(spec.victim, data=replace(spec.victim.data, source="builtin")))
    with pytest.raises(UsageError, match="the cells that were drawn read no directory; leave it out"):
        plans([generated], Here(data=data_dir))
    assert [plan.data_folder for plan in plans([spec, generated], Here(data=data_dir))] == [data_dir, None]


def test_a_cell_that_fails_when_it_is_run_again_differs():
    file = "records/a.json"
    again = SavedRun({file: made_up(status="failed", error=TRACEBACK)}, {}, {}, {})
    (finding,) = differences(SavedRun({file: made_up()}, {file: {}}, {}, {}), again, [file])
    assert str(finding) == f"{file}: ok: run again, it failed: try another folder"


def test_cells_of_an_older_protocol_are_not_drawn(run, site, in_process):
    record = record_of(run)
    older = replace(record, spec=replace(record.spec, victim=replace(record.spec.victim, protocol=2)))
    saved = predictions_of(run, record)
    for file in (run / "records").iterdir():
        file.unlink()
    Results(run).write(older, saved)
    ended = in_process("verify", run, "--rerun", 1, *site)
    assert ended.returncode == 2 and "1 cell of protocol 2, but bdbench here follows protocol" in ended.stderr


def test_the_same_cells_are_drawn_each_time_and_all_where_they_are_fewer():
    cells = {f"records/{name}.json": cell() for name in "abcdefgh"}
    drawn = draw(cells, 3)
    assert len(drawn) == 3 and drawn == sorted(drawn) == draw(dict(reversed(cells.items())), 3)
    assert draw(cells, 99) == sorted(cells)


def test_rows_that_differ_are_counted_and_circumstances_told():
    first, second = {"clean": np.array([0, 1, 1]), "old": np.array([1])}, {"clean": np.array([1, 1, 0]), "new": np.array([1])}
    assert other_rows(first, second) == ["2 of 3 in 'clean' differ", "'new' is new", "'old' is gone"]
    assert other_rows({"clean": np.array([0])}, {"clean": np.array([0, 1])}) == ["'clean' has the shape (2,), not (1,)"]
    record = replace(made_up(), victim=VictimDigests("a" * 64, None), env={"threads": 1, "victim": {"torch": "2.6"}})
    other = replace(made_up(), victim=VictimDigests("b" * 64, None), env={"threads": 4, "victim": {"torch": "2.13"}})
    says = "its victim has other bits already; on record and now: threads 1 and 4, victim's torch 2.6 and 2.13"
    assert circumstances(record, other) == says
