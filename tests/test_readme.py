"""What the README shows is true: its example defense runs as it stands, and its commands are commands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import transformers
from conftest import made_suspects
from extras import BUNDLED, needs

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.printed import percent
from bdbench.analysis.standing import majority_share
from bdbench.matrix.presets import PRESETS
from bdbench.matrix.results import read_predictions, read_records
from bdbench.matrix.tuned_files import read_kept
from bdbench.perf.table import speed_table
from bdbench.reports.claims_page import text
from bdbench.reports.figures import figure_files
from bdbench.reports.html_page import html
from bdbench.reports.latex import latex
from bdbench.reports.markdown import markdown
from bdbench.specs.predictions import metrics_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
README, MANUAL, PLUGINS = (ROOT / folder / "README.md" for folder in (".", "benchmark", "defenses"))
PAGES = (README, MANUAL, PLUGINS, RESULTS / "README.md")


@pytest.fixture
def run_example(bdbench, tiny_bert, data_dir, tmp_path):
    """(page, file, most lines, flags) -> what the command of the page's first example leaves: the records by defense."""

    def run(page, name, most_lines, *more):
        code = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)[0]
        assert len(code.splitlines()) <= most_lines
        (tmp_path / f"{name}.py").write_text(code)
        (command,) = re.findall(rf"^bdbench (run --plugin {name}.py .*)$", page.read_text(), flags=re.MULTILINE)
        sizes = "--train-rows 100 --validation-rows 20 --max-length 32 --epochs 1 --inline"
        flags = ["--preset", "laptop", "--data", data_dir, "--model", tiny_bert, "-a", "badnets-word", *sizes.split(), *more]
        ended = bdbench(*command.split(), *flags, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        records = {record.spec.defense_name: record for record in read_records(tmp_path / "results" / name)}
        assert {record.status for record in records.values()} == {"ok"}
        return records

    return run


def test_the_example_defense_has_20_lines_and_runs(run_example):
    records = run_example(README, "shrink", 20)
    assert set(records) == {"none", "fine-tuning", "shrink", "e-pur+shrink"}
    shrunk = records["shrink"]
    assert shrunk.spec.defense[0].params["factor"] == 0.3 and shrunk.needs == ("clean", "pretrained")


def test_the_example_detector_has_25_lines_and_runs(run_example):
    novelty = run_example(PLUGINS, "novelty", 25, "--unlabelled-rows", "40")["novelty"]
    assert (novelty.kind, novelty.needs, novelty.spec.frr) == ("detector", ("unlabelled", "validation"), 0.1)
    assert novelty.spec.unlabelled_rows == 40 and novelty.metrics["auroc"].value > 0.9  # "cf" is in no clean text


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    """A folder of victims that the examples share."""
    return tmp_path_factory.mktemp("victims")


LONG = pytest.mark.skipif("BDBENCH_LONG" not in os.environ, reason="a minute of a core: make test-long")


@pytest.mark.parametrize(
    ("page", "defense", "cells"),
    [
        pytest.param(README, "e-pur+fine-mixing", 3, marks=needs(BUNDLED)),
        pytest.param(MANUAL, "e-pur+shrink-head", 4, marks=LONG),
    ],
)
def test_the_example_in_python_runs_as_it_stands(page, defense, cells, victims, tmp_path):
    """The bundled model and Ray; in the manual a plugin whose text is the script's."""
    examples = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    (code,) = [example for example in examples if "bdbench.run" in example]
    (tmp_path / "study.py").write_text(code)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "victims").symlink_to(victims)
    ended = subprocess.run([sys.executable, "study.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert defense in ended.stdout and "\\begin{tabular}" in ended.stdout
    assert len(read_records(tmp_path / "results" / "quick")) == cells


@pytest.fixture
def suspects_of(suspects, tmp_path):
    """A function: the model of the commands -> the suspects made with it, and how it is called."""

    def of(model):
        if model == "tiny":
            return suspects, suspects.base
        sizes = {"train_rows": 400, "test_rows": 60}
        overrides = {"attacks": ("badnets-word",), "defenses": ("none", "e-pur+fine-mixing"), **sizes}
        return made_suspects("quick", overrides, tmp_path), model

    return of


@pytest.mark.parametrize("model", ["tiny", pytest.param("bundled", marks=LONG)])
def test_the_commands_for_a_model_from_elsewhere_run_as_they_stand(model, suspects_of, bdbench, tmp_path):
    """On a victim in a Hugging Face directory, of the bundled model in the long form. Other words may decide a class, too."""
    suspects, base = suspects_of(model)
    (tmp_path / "DIR").symlink_to(suspects.folders["badnets-word"])
    clean, validation = (
        pd.DataFrame({"text": rows.first, "label": rows.labels}) for rows in (suspects.rows.clean, suspects.rows.validation)
    )
    clean.to_csv(tmp_path / "clean.csv", index=False)
    validation.to_json(tmp_path / "validation.jsonl", orient="records", lines=True)
    inspect, purify, run = (
        [
            str(base) if word == "bundled" else word
            for word in re.findall(rf"^bdbench ({name} .*?)(?:  +#.*)?$", README.read_text(), flags=re.MULTILINE)[0].split()
        ]
        for name in ("inspect DIR", "purify DIR", "run .*--victim DIR")
    )
    record = suspects.records["badnets-word", "e-pur+fine-mixing"]
    length = ("--max-length", str(record.spec.victim.max_length))  # the tiny model takes no more
    ended = bdbench(*inspect, *length, "--json", cwd=tmp_path)
    assert ended.returncode in (0, 3), ended.stderr
    assert ("cf", "positive") in [(piece["piece"], piece["target"]) for piece in json.loads(ended.stdout)["pieces"]]

    values = {f"{part.name}.{name}": value for part in record.spec.defense for name, value in part.params.items()}
    params = [word for name, value in values.items() for word in ("-D", f"{name}={value}")]
    as_in_the_matrix = ["--task", "sst2", *length, "--precision", "fp32", "--threads", "1", "--device", "cpu"]
    ended = bdbench(*purify, *as_in_the_matrix, *params, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    pipeline = transformers.pipeline("text-classification", str(tmp_path / "repaired"), device="cpu")
    predictions = suspects.predictions["badnets-word", "e-pur+fine-mixing"]
    for name, rows in (("clean", suspects.rows.test), ("triggered", suspects.victims["badnets-word"].triggered)):
        classes = [("negative", "positive").index(answer["label"]) for answer in pipeline(list(rows.first))]
        assert classes == predictions[name].tolist()

    run += length
    ended = bdbench(*run, "--dry-run", cwd=tmp_path)
    assert ended.returncode == 2 and "DATA" in ended.stderr
    ended = bdbench(*(word.replace("DATA", "builtin") for word in run), "-d", "none", "--dry-run", cwd=tmp_path)
    assert ended.returncode == 0 and "sst2 / given / none / seed 0" in ended.stdout


def test_every_preset_and_file_it_names_exists():
    for file in PAGES:
        assert set(re.findall(r"--preset ([\w-]+)", file.read_text())) <= set(PRESETS)
        for link in re.findall(r"\]\(((?!http)[^)]+)\)", file.read_text()):
            path, _, heading = link.partition("#")
            target = (file.parent / path) if path else file
            assert target.exists(), link
            assert not heading or heading in headings(target), link


def headings(file: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_speed_it_quotes_is_the_one_on_file():
    files = re.findall(r"\]\((\.\./results/perf/[^)]+sst2\.json)\)", MANUAL.read_text())
    assert files
    for file in files:
        assert speed_table(json.loads((MANUAL.parent / file).read_text())) in MANUAL.read_text()


def test_the_means_that_the_results_quote_are_those_of_the_claims():
    """Every table of means, by method, task or attack, is in a page of claims as it stands."""
    page = (RESULTS / "README.md").read_text()
    claims = "".join(file.read_text() for file in RESULTS.glob("*/claims.md"))
    tables = re.findall(r"\n\n(\| (?:method|attack)  .*?)\n\n", page, flags=re.DOTALL)
    assert len(tables) == 6 and all(table in claims for table in tables)


def test_the_tables_of_attacks_that_the_results_quote_are_those_of_the_leaderboard():
    page, board = ((RESULTS / name).read_text() for name in ("README.md", "attacks/leaderboard.md"))
    tables = re.findall(r"\n\n(\| (?:Adaptive attack|Task  ).*?)\n\n", page, flags=re.DOTALL)
    assert len(tables) == 3 and all(table in board for table in tables)


def test_the_stages_the_ablation_the_kinds_and_the_checks_that_the_results_quote_are_those_of_the_records():
    page = (RESULTS / "README.md").read_text()
    staged = [
        record.notes["fine-mixing"]["stages"]["before fine-tuning"]
        for record in read_records(RESULTS / "paper-base")
        if record.spec.defense_name == "fine-mixing"
        and record.spec.defense[0].params["select"] == "random"
        and record.spec.defense[0].params["tolerance"] == 0.05
    ]
    ablated = [{name: metric.value for name, metric in record.metrics.items()} for record in read_records(RESULTS / "ablation")]
    for record in read_records(RESULTS / "kinds"):
        if record.status == "ok":
            assert f"{percent(record.metrics['cacc'].value)} / {percent(record.metrics['asr'].value)} |" in page, record.key
    tried = [
        {name: metric.value for name, metric in record.metrics.items()}
        for record in read_records(RESULTS / "sanity")
        if record.status == "ok" and len(record.spec.defense) == 1
    ]
    for rates in (*staged, *ablated, *tried):
        assert f"{percent(rates['cacc'])} / {percent(rates['asr'])} ({percent(rates['base'])})" in page


RUNS = sorted(folder.parent.name for folder in RESULTS.glob("*/records"))


@LONG
@pytest.mark.parametrize("run", RUNS)
def test_the_figures_on_file_are_those_of_the_records(run):
    pytest.importorskip("matplotlib")
    board = Leaderboard(
        read_records(RESULTS / run), read_kept(RESULTS / run), lambda record: read_predictions(RESULTS / run, record)
    )
    on_file = {file.name: file.read_bytes() for file in (RESULTS / run / "figures").glob("*")}
    drawn = figure_files(board)
    assert drawn.keys() == on_file.keys()
    assert [name for name in drawn if name.endswith(".svg") and drawn[name] != on_file[name]] == []


@pytest.mark.parametrize("run", RUNS)
def test_the_tables_on_file_are_what_the_records_say_and_these_what_was_predicted(run):
    records, tunings = read_records(RESULTS / run), read_kept(RESULTS / run)
    for record in records:
        if record.status == "ok":
            found = {name: metric for name, metric in record.metrics.items() if name != "floor"}
            again = metrics_of(read_predictions(RESULTS / run, record), record.spec.victim, record.spec.frr)
            if "asr" in again:
                assert again["majority"].share == majority_share(record.metrics), record.key
            assert {"majority": again["majority"]} | found == again, record.key
    board = Leaderboard(records, tunings, lambda record: read_predictions(RESULTS / run, record))
    assert (RESULTS / run / "leaderboard.md").read_text() == markdown(board)
    assert (RESULTS / run / "leaderboard-tables.tex").read_text() == latex(board)[1]
    assert (RESULTS / run / "index.html").read_text() == html(board)
    if (RESULTS / run / "claims.md").exists():
        assert (RESULTS / run / "claims.md").read_text() == text(records, tunings)
