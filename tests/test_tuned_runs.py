"""`bdbench run --tuned`: the cells it adds, the copies it keeps, what it refuses. The command runs in this process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from test_hostile_names import tables_of
from test_tables import md_rows
from tunings import written

from bdbench.cli.app import main
from bdbench.matrix.results import read_records
from bdbench.matrix.tuned_files import keep_tuned, read_kept
from bdbench.protocol.plugins import plugin_spec
from bdbench.registry import DEFENSES
from bdbench.specs.tuned import Trial, Tuned, TunedSetting

SIZES = ["--train-rows", 100, "--validation-rows", 20, "--clean-rows", 16, "--max-length", 32, "--epochs", 1]


def component(name: str, **params):
    return plugin_spec(DEFENSES.get(name).build(params))


def setting(task: str = "sst2", name: str = "fine-tuning", attacks: tuple[str, ...] | None = None, **params) -> TunedSetting:
    """Two epochs are the default; `params` are what was chosen beside two epochs."""
    default, chosen = ((component(name, **{"epochs": 2, **values}),) for values in ({}, params))
    trials = tuple(Trial(parts, "ok", score, 0.5, score, 32, 0.1) for parts, score in ((default, 0.25), (chosen, 0.75)))
    return TunedSetting(task, attacks, default, chosen, trials)


def tuning(*settings: TunedSetting, **changed) -> Tuned:
    values = {"objective": "planted", "searcher": "random", "budget": 2, "trained_rows": None, "tolerance": 0.02}
    return Tuned(**{**values, "settings": settings, **changed})


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, tiny_bert, data_dir):
    """`bdbench run` with small sizes and fine-tuning over two epochs."""

    def call(*flags: object, command: str = "run") -> subprocess.CompletedProcess[str]:
        good = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "badnets-word", *SIZES]
        good += ["-d", "none,fine-tuning", "-D", "fine-tuning.epochs=2", "--out", tmp_path / "out", "--inline"]
        words = [command, *(good if command == "run" else []), *flags]
        monkeypatch.setattr(sys, "argv", ["bdbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(words, ended.value.code or 0, shown.out, shown.err)

    return call


def test_tuned_cells_are_run_beside_the_default_ones_shown_side_by_side_and_never_run_again(run, tmp_path):
    chosen = {"sst2": {"epochs": 1}, "qqp": {"learning_rate": 0.001}}
    planted = written(tuning(*(setting(task, **params) for task, params in chosen.items())), tmp_path / "planted.json")
    oracle = written(tuning(setting(), objective="oracle", budget=16), tmp_path / "oracle.json")
    flags = ["-T", "sst2,qqp", "--tuned", planted, "--tuned", oracle]
    ended = run(*flags)
    assert ended.returncode == 0, ended.stderr
    assert "oracle.json: it did not tune fine-tuning on qqp: no tuned cells there" in ended.stderr
    out = tmp_path / "out"
    records = {record.key: record for record in read_records(out)}
    assert len(records) == 6 and {record.status for record in records.values()} == {"ok"}
    page = (out / "leaderboard.md").read_text()
    tuned, bound = "fine-tuning, tuned (planted, 2 trials)", "fine-tuning, tuned (oracle: upper bound, 16 trials)"
    header = ["none", "fine-tuning", tuned]
    assert md_rows(page, "qqp")["Attack"][1::2] == [f"{name} CACC" for name in header]
    assert md_rows(page, "sst2")["Attack"][1::2] == [f"{name} CACC" for name in (*header, bound)]
    choices = tables_of(page.split("## Tuning")[1])[0]
    assert [row[:3] for row in choices[1:]] == [
        ["qqp", tuned, "learning_rate 5e-05 → 0.001"],
        ["sst2", tuned, "epochs 2 → 1"],
        ["sst2", bound, "default kept"],
    ]
    assert [file.name.split("-")[0] for file in sorted((out / "tuned").iterdir())] == ["oracle", "planted"]

    when = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
    again = run(*flags)
    assert again.returncode == 0 and "6 cells are there already; 0 to run" in again.stderr
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")} == when
    # the folder alone says which cells are tuned
    planted.unlink(), oracle.unlink()
    tables = {file: file.read_bytes() for file in out.glob("leaderboard*")}
    for file in tables:
        file.unlink()
    assert run(out, command="report").returncode == 0
    assert {file: file.read_bytes() for file in out.glob("leaderboard*")} == tables
    assert "Left out: 2 cells with hyperparameters that a tuning chose" in run(out, command="claims").stdout
    # without --tuned the folder stays what it is
    assert run("-T", "sst2,qqp").returncode == 0
    assert (out / "leaderboard.md").read_text() == page


def planned(ended: subprocess.CompletedProcess[str]) -> list[str]:
    assert ended.returncode == 0, ended.stderr
    return [line.split("  ")[1] for line in ended.stdout.splitlines()]


def test_a_transfer_is_for_the_attacks_that_it_names(run, tmp_path):
    file = written(tuning(setting(attacks=("badnets-sentence",), epochs=1), objective="transfer"), tmp_path / "transfer.json")
    cells = planned(run("-a", "badnets-word,badnets-sentence", "--tuned", file, "--dry-run"))
    defenses = ["none", "fine-tuning", "fine-tuning, tuned (transfer, 2 trials)"]
    assert cells == [
        *(f"sst2 / badnets-word / {defense} / seed 0" for defense in defenses[:2]),
        *(f"sst2 / badnets-sentence / {defense} / seed 0" for defense in defenses),
    ]
    assert not (tmp_path / "out").exists()


def test_a_choice_that_is_the_default_is_no_other_cell_and_the_same_file_twice_is_one(run, tmp_path):
    file = written(tuning(setting()), tmp_path / "a.json")
    same = planned(run("--dry-run"))
    assert planned(run("--tuned", file, "--tuned", file, "--dry-run")) == same and len(same) == 2


def test_the_defenses_of_a_preset_get_their_tuned_cells_and_what_is_not_run_is_said(run, tmp_path):
    mixing = setting(name="fine-mixing", ratio=0.25)
    file = written(tuning(mixing, setting(epochs=1), setting(name="fine-pruning", epochs=1)), tmp_path / "a.json")
    flags = ["-d", "none,fine-tuning,fine-mixing", "-D", "fine-mixing.epochs=2", "--tuned", file, "--dry-run"]
    ended = run(*flags)
    names = [cell.split(" / ")[2] for cell in planned(ended)]
    tuned = ", tuned (planted, 2 trials)"
    assert names == ["none", "fine-tuning", f"fine-tuning{tuned}", "fine-mixing", f"fine-mixing{tuned}"]
    assert ended.stderr.count("warning") == 1
    assert "it also tuned fine-pruning: not in this run; add them to -d" in ended.stderr


def test_a_tuning_from_another_default_is_run_and_the_difference_is_said(run, tmp_path):
    file = written(tuning(setting(epochs=1)), tmp_path / "a.json")
    ended = run("-D", "fine-tuning.epochs=3", "--tuned", file, "--dry-run")
    assert len(planned(ended)) == 3
    assert "it tuned fine-tuning from another default than this run's (fine-tuning.epochs=2, here 3)" in ended.stderr
    variants = planned(run("-d", "fine-tuning,fine-tuning[epochs=5]", "--tuned", file, "--dry-run"))
    assert variants[1] == "sst2 / badnets-word / fine-tuning [epochs=2], tuned (planted, 2 trials) / seed 0"


def refusal(ended: subprocess.CompletedProcess[str], tmp_path) -> str:
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert not (tmp_path / "out" / "records").exists() or not list((tmp_path / "out" / "records").iterdir())
    return ended.stderr


def test_no_such_file_and_files_that_are_no_tuning_are_refused(run, tmp_path):
    file = tmp_path / "a.json"
    assert "a.json: not a tuning that this version of bdbench reads (No such file" in refusal(run("--tuned", file), tmp_path)
    good = json.dumps(tuning(setting()).to_json())
    for text, why in {
        "": "Expecting value",
        "\ud800": "utf-8",
        "[" * 100_000: "recursion",
        "{}": "no result of bdbench tune with schema 1",
        good.replace('"schema": 1', '"schema": 2'): "no result of bdbench tune with schema 1",
        good.replace('"budget": 2', '"budget": 0'): "budget",
        good.replace('"budget": 2', '"budget": NaN'): "not finite",
        good.replace('"planted"', '"mine"'): "objective",
        good.replace('"searcher": "random", ', ""): "no 'searcher'",
    }.items():
        file.write_bytes(text.encode(errors="surrogatepass"))
        error = refusal(run("--tuned", file), tmp_path)
        assert why in error and "give one that bdbench tune wrote" in error
    assert "Is a directory" in refusal(run("--tuned", tmp_path), tmp_path)
    twice = tuning(setting(), replace(setting(epochs=1), attacks=("badnets-word",)))
    error = refusal(run("--tuned", written(twice, file)), tmp_path)
    assert "it has two settings of fine-tuning for the same victims of sst2" in error


def test_settings_that_this_version_or_this_run_cannot_use_are_refused(run, tmp_path):
    def refused(tuned: Tuned, *flags: object) -> str:
        return refusal(run("--tuned", written(tuned, tmp_path / "a.json"), *flags), tmp_path)

    def changed(**fields) -> Tuned:
        part = replace(setting().chosen[0], **fields)
        return tuning(replace(setting(), chosen=(part,)))

    error = refused(tuning(setting(), protocol=1))
    assert "under protocol 1, this is protocol" in error and "tune again with this version" in error
    error = refused(changed(version="0"))
    assert "it tuned version 0 of fine-tuning, this is version" in error and "tune again" in error
    params = setting().chosen[0].params
    assert "fine-tuning.epochs=0 is outside [1, 1000]" in refused(changed(params={**params, "epochs": 0}))
    assert "fine-tuning has no hyperparameter 'epoch'" in refused(changed(params={**params, "epoch": 1}))
    assert "no value of fine-tuning.clip" in refused(changed(params={n: v for n, v in params.items() if n != "clip"}))
    assert "no value of fine-tuning.epochs" in refused(changed(params={**params, "epochs": "2"}))
    assert "it chose fine-mixing for fine-tuning" in refused(tuning(replace(setting(), chosen=(component("fine-mixing"),))))
    nothing = "it has nothing for this run; it has tasks {}, defenses {}{}: select some of these with -T, -a, -d"
    assert nothing.format("imdb", "fine-tuning", "") in refused(tuning(setting("imdb")))
    assert nothing.format("sst2", "e-pur", "") in refused(tuning(replace(setting(), default=(component("e-pur"),))))
    none = (component("none"),)
    assert nothing.format("sst2", "none", "") in refused(tuning(TunedSetting("sst2", None, none, none, ())))
    error = refused(tuning(setting(attacks=("badnets-sentence",)), objective="transfer"))
    assert nothing.format("sst2", "fine-tuning", ", attacks badnets-sentence") in error
    assert nothing.format("(none)", "(none)", "") in refused(tuning())


def test_a_damaged_copy_is_refused_before_a_cell_is_run_and_in_a_report(run, tmp_path):
    file = written(tuning(setting(epochs=1)), tmp_path / "a.json")
    (tmp_path / "out" / "tuned").mkdir(parents=True)
    (tmp_path / "out" / "records").mkdir()
    (tmp_path / "out" / "tuned" / "planted-00000000.json").write_text("{")
    for ended in (run("--tuned", file), run(tmp_path / "out", command="report"), run(tmp_path / "out", command="claims")):
        assert "planted-00000000.json: not a tuning" in refusal(ended, tmp_path) and "move it away" in ended.stderr
    shutil.rmtree(tmp_path / "out" / "tuned")
    (tmp_path / "out" / "tuned").write_text("in the way")
    assert "out/tuned: cannot be" in refusal(run(tmp_path / "out", command="report"), tmp_path)


def test_a_copy_says_what_the_file_said_and_stays_as_it_is(tmp_path):
    one, other = tuning(setting(epochs=1), typed={"tasks": ["sst2"]}), tuning(setting())
    keep_tuned(tmp_path, [one, other])
    assert sorted(read_kept(tmp_path), key=Tuned.digest) == sorted([one, other], key=Tuned.digest)
    names = {f"planted-{tuned.digest()[:8]}.json" for tuned in (one, other)}
    assert {file.name for file in (tmp_path / "tuned").iterdir()} == names
    keep_tuned(tmp_path, [replace(one, typed={})])  # the same choice, typed otherwise
    assert sorted(read_kept(tmp_path), key=Tuned.digest) == sorted([one, other], key=Tuned.digest)
    assert read_kept(tmp_path / "nowhere") == []
