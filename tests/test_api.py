"""`import bdbench`: a run from Python is the command's run, and plugins may be names, classes or instances from anywhere."""

from __future__ import annotations

import html.parser
import json
import os
import subprocess
import sys
import textwrap
import types
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from extras import needs
from test_hostile_names import HOSTILE, hostile

import bdbench as package
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.api.results import Results
from bdbench.errors import UsageError
from bdbench.main_source import MainSource
from bdbench.matrix.results import read_predictions, read_records
from bdbench.matrix.storage import place_of
from bdbench.registry import DEFENSES

SIZES = {"train_rows": 200, "validation_rows": 20, "clean_rows": 16, "max_length": 32}
RECIPE = {"epochs": 2, "learning_rate": 0.003}
PLUGIN = """
import copy
from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register
from bdbench.params import hp


@register("shrink-head", paper="none")
@dataclass(frozen=True)
class ShrinkHead(ModelRepair):
    factor: float = hp(0.5, low=0.0, high=1.0, help="what the head is multiplied by")

    def repair(self, model, ctx):
        repaired = copy.deepcopy(model)
        repaired.classifier.weight.data *= {by}
        return repaired
"""


@pytest.fixture(scope="module")
def small(tiny_bert, data_dir):
    """Keywords of a small run on the tiny model, in this process."""
    common = {"model": tiny_bert, "data": data_dir, "tasks": "sst2", "attacks": ["badnets-word"], **SIZES}
    return {"preset": "laptop", **common, "training": RECIPE, "inline": True, "progress": False}


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """The results of a run from Python, in a folder `python/run`."""
    out = tmp_path_factory.mktemp("python") / "run"
    values = {"fine-tuning.epochs": 2, "fine-mixing.epochs": 2}
    defenses = ["none", "fine-tuning", "e-pur+fine-mixing"]
    return package.run(**small, defenses=defenses, defense_params=values, out=out)


@pytest.fixture(autouse=True)
def forgotten():
    """After the test the registry knows no plugin from outside."""
    yield
    for name in DEFENSES.given():
        del DEFENSES._classes[name]


def versions(folder: Path, name: str = "shrink-head") -> set[str]:
    parts = (part for record in read_records(folder) for part in record.spec.defense)
    return {part.version for part in parts if part.name == name}


def outcomes(folder: Path) -> dict[str, tuple]:
    """Per cell its victim and its predictions to the byte. Fails on a cell that did not end well."""
    outcomes = {}
    for record in read_records(folder):
        assert record.status == "ok", record.error
        predictions = read_predictions(folder, record)
        outcomes[record.key] = (record.victim, {name: array.tobytes() for name, array in predictions.items()})
    return outcomes


def script(folder: Path, text: str, name: str = "study.py") -> list[str]:
    (folder / name).write_text(text)
    return [sys.executable, str(folder / name)]


def test_importing_bdbench_imports_nothing_heavy_and_every_name_is_there():
    code = (
        "import sys, bdbench\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'pandas', 'numpy') if name in sys.modules])\n"
        "assert all(getattr(bdbench, name) is not None for name in bdbench.__all__)\n"
        "assert set(bdbench.__all__) <= set(dir(bdbench))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        package.runn  # noqa: B018


def test_python_and_the_command_leave_the_same(finished, in_process, tiny_bert, data_dir, tmp_path):
    flags = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "badnets-word", "--inline"]
    flags += [word for name, rows in SIZES.items() for word in (f"--{name.replace('_', '-')}", rows)]
    flags += ["--epochs", 2, "--learning-rate", 0.003, "-D", "fine-tuning.epochs=2", "-D", "fine-mixing.epochs=2"]
    ended = in_process("run", *flags, "-d", "none,fine-tuning,e-pur+fine-mixing", "--out", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert outcomes(tmp_path / "run") == outcomes(finished.folder)
    assert (tmp_path / "run" / "leaderboard.csv").read_bytes() == (Path(finished.folder) / "leaderboard.csv").read_bytes()
    again = in_process("run", *flags, "-d", "none,fine-tuning,e-pur+fine-mixing", "--out", finished.folder)
    assert "3 cells are there already; 0 to run" in again.stderr


def test_the_tables_of_results_are_those_on_file(finished, in_process):
    loaded = package.load(finished.folder)
    assert len(loaded) == len(finished) == 3 and not loaded.failed and "3 ok" in repr(loaded)
    on_file = pd.read_csv(Path(finished.folder) / "leaderboard.csv", dtype={"needs": str}, keep_default_na=False)
    for results in (finished, loaded):
        shown = results.frame()
        assert list(shown) == list(on_file) and len(shown) == 3
        assert shown.to_csv(index=False).splitlines()[0].split(",") == list(on_file)
        for column in ("defense", "cacc_mean", "asr_mean", "seeds", "asr_n"):
            assert [str(value) for value in shown[column]] == [str(value) for value in on_file[column]]
    for layout, style in (("ranking", None), ("paper", "plain"), ("worst-case", None)):
        flags = ["--style", style] if style else []
        printed = in_process("report", finished.folder, "--format", "latex", "--layout", layout, *flags).stdout
        assert loaded.to_latex(layout, style=style) == printed
    with pytest.raises(UsageError, match="nearest: paper"):
        loaded.to_latex("papers")
    with pytest.raises(UsageError, match="no records|no folder"):
        package.load(Path(finished.folder) / "elsewhere")


def test_the_leaderboard_has_the_rankings_numbers_and_intervals():
    folder = Path(__file__).parents[1] / "results" / "kinds"
    records = [record for record in read_records(folder) if record.spec.victim.task == "sst2"]
    place = place_of(folder)
    board = Leaderboard(records, (), lambda record: read_predictions(place, record))
    results = Results(place, board)
    shown = results.leaderboard()
    ranked = [place for ranking in board.rankings for place in ranking.shown]
    assert list(shown["defense"]) == [place.defense.typed for place in ranked]
    assert [None if pd.isna(rank) else rank for rank in shown["rank"]] == [place.rank for place in ranked]
    first = shown[shown["rank"] == 1].iloc[0]
    cells = results.cells()
    assert len(cells) == len(records) and set(cells.index) == {record.key for record in records}
    of_defense = cells[(cells["defense"] == first["defense"]) & (cells["status"] == "ok")]
    assert first["victims"] <= len(of_defense)
    if first["victims"] == len(of_defense):
        assert first["asr"] == pytest.approx(of_defense["asr"].mean())
    assert first["asr_low"] <= first["asr"] <= first["asr_high"] and first["asr_low"] < first["asr_high"]
    ranked = results.leaderboard("anti-bad", tolerance=1.0, together=True).dropna(subset="rank")
    assert len(ranked) > 3 and set(ranked["group"]) == {"all"} and ranked["rank"].is_monotonic_increasing
    assert ranked.iloc[0]["anti_bad"] == ranked["anti_bad"].max()
    with pytest.raises(UsageError, match="anti-bad"):
        results.leaderboard("antibad")


class Tags(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        assert not attrs
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1


def test_in_a_notebook_no_text_becomes_markup():
    known = {"div", "p", "strong", "small", "table", "caption", "thead", "tbody", "tr", "td", "th"}
    for name in HOSTILE:
        results = Results(place_of(f"/tmp/{name}"), Leaderboard([hostile(name)]))
        parsed = Tags(results._repr_html_())
        assert set(parsed.tags) <= known and len(set(parsed.rows)) <= 1, name
    assert "0 cells" in Results(place_of("x"), Leaderboard([]))._repr_html_()


@pytest.fixture(scope="module")
def call(small, finished):
    """The call of `run` in a script: with `defenses` as they are written, into `out`."""
    keywords = {**small, "model": str(small["model"]), "data": str(small["data"])}
    victims = str(Path(finished.folder).with_name("victims"))

    def text(defenses: str, out: Path, **more: object) -> str:
        return f"bdbench.run(**{keywords | more!r}, defenses={defenses}, out={str(out)!r}, victims={victims!r})\n"

    return text


def test_a_class_of_a_script_runs_on_ray_and_inline_alike(call, tmp_path):
    """An instance keeps its values, a class takes those of the run, and tuples compose."""
    text = "import bdbench\nSCALE = 2.0\ndef scaled(value):\n    return value * SCALE\n"
    text += PLUGIN.format(by="scaled(self.factor)")
    defenses = "['none', ShrinkHead, ShrinkHead(), ('e-pur', ShrinkHead(factor=0.75))]"
    for out, how in (("inline", {}), ("ray", {"inline": False, "workers": 1})):
        text += call(defenses, tmp_path / out, defense_params={"shrink-head.factor": 0.125}, **how)
    ended = subprocess.run(script(tmp_path, text), capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert ended.returncode == 0, ended.stderr
    shown = (ended.stdout + ended.stderr).splitlines()
    assert not [line for line in shown if line.startswith(("victim", "cell"))]  # progress=False
    assert outcomes(tmp_path / "ray") == outcomes(tmp_path / "inline")
    records = read_records(tmp_path / "inline")
    parts = [[(part.name, part.params.get("factor")) for part in record.spec.defense] for record in records]
    composed = [("e-pur", None), ("shrink-head", 0.75)]
    assert sorted(parts) == [composed, [("none", None)], [("shrink-head", 0.125)], [("shrink-head", 0.5)]]
    given = {json.dumps(record.typed["defenses"]) for record in records}
    assert given == {'["none", "shrink-head", "shrink-head", "e-pur+shrink-head[factor=0.75]"]'}


def test_a_class_of_a_module_travels_as_a_plugin_file_does(small, finished, tmp_path, monkeypatch):
    (tmp_path / "outside_helper.py").write_text("def by(factor):\n    return factor\n")
    (tmp_path / "outside_defense.py").write_text("from outside_helper import by\n" + PLUGIN.format(by="by(self.factor)"))
    monkeypatch.syspath_prepend(tmp_path)
    from outside_defense import ShrinkHead

    victims = Path(finished.folder).with_name("victims")
    package.run(**small, defenses=[ShrinkHead(factor=0.25)], out=tmp_path / "a", victims=victims)
    # by its name, as the class is registered, and by its file
    package.run(**small, defenses="shrink-head[factor=0.25]", out=tmp_path / "b", victims=victims)
    package.run(
        **small,
        defenses="shrink-head[factor=0.25]",
        plugins=[tmp_path / "outside_defense.py"],
        out=tmp_path / "c",
        victims=victims,
    )
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "b") == outcomes(tmp_path / "c")


@needs("IPython")
def test_a_class_of_a_notebooks_cell_runs_and_its_new_text_is_a_new_version(call, tmp_path):
    cells = ["import bdbench", "SCALE = 1.0\n%time print(SCALE)\n!true", PLUGIN.format(by="self.factor * SCALE")]
    again = [PLUGIN.format(by="self.factor * SCALE / 2"), call("[ShrinkHead(factor=0.5)]", tmp_path / "b")]
    cells += [call("[ShrinkHead(factor=0.5)]", tmp_path / "a"), PLUGIN.format(by="self.factor * SCALE")]
    cells += [call("[ShrinkHead(factor=0.5)]", tmp_path / "a", force=False), "old = ShrinkHead()", *again]
    cells += [
        call("[old]", tmp_path / "c"),
        "%time SCALE2 = 2",
        PLUGIN.format(by="SCALE2"),
        call("[ShrinkHead]", tmp_path / "c"),
    ]
    text = f"""
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        ends = [shell.run_cell(cell, store_history=True).error_in_exec for cell in {cells!r}]
        print([error for error in ends if error])
    """
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    command = script(tmp_path, textwrap.dedent(text))
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    errors = ended.stdout.splitlines()[-1]
    assert errors.count("UsageError") == 2 and "ShrinkHead has been defined anew since" in errors
    assert "uses 'SCALE2', which no statement of the notebook binds" in errors
    assert len(outcomes(tmp_path / "a")) == len(versions(tmp_path / "a")) == 1
    assert versions(tmp_path / "a") != versions(tmp_path / "b")


SCRIPT = """
from __future__ import annotations
import json, os
import numpy as np
from math import *
try:
    import fast
except ImportError:
    fast = None
X = 1
X += 1
def used(y):
    def inner(): return sqrt(y) + helper()
    return inner()
def helper(): return X if fast else json
LOG = open("log")
with open("x") as stream:
    TEXT = stream.read()
@register("base", paper="none")
class Base: pass
@deco
@register("own", paper="none")
class Own(Base):
    a: Unknown = 1
    def f(self):
        LOG2 = np; return used(LOG2)
class Reading:
    def f(self): return TEXT
Made = type("Made", (), {})
results = run(Own())
"""


def source(*cells: str) -> MainSource:
    return MainSource("script", Path("."), cells)


def test_of_a_script_travels_what_a_class_uses_and_nothing_else():
    text = source(SCRIPT).of_class("Own")
    compile(text, "own", "exec")
    assert text.startswith("from __future__ import annotations\n")
    for part in ("import json", "import numpy as np", "from math import *", "import fast", "fast = None", "X = 1", "X += 1"):
        assert part in text, part
    assert all(part in text for part in ("def used", "def helper", "class Base", '@register("own"', "@deco"))
    assert not [part for part in ('"base"', "LOG = ", "stream", "Reading", "Made", "run(") if part in text]
    assert (
        text == source(SCRIPT + "\nimport more\n").of_class("Own") != source(SCRIPT.replace("X = 1", "X = 5")).of_class("Own")
    )
    assert text.count("class Own") == source(SCRIPT, SCRIPT, "not python !").of_class("Own").count("class Own") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [("Reading", "uses 'TEXT', which the script binds .*With"), ("Made", "not written as a class"), ("No", "No")],
)
def test_what_cannot_travel_is_refused(name, said):
    with pytest.raises(UsageError, match=said):
        source(SCRIPT).of_class(name)


def test_a_class_that_workers_cannot_have_is_refused(small, tmp_path, monkeypatch):
    module = types.ModuleType("nowhere")
    monkeypatch.setitem(sys.modules, "nowhere", module)
    exec(PLUGIN.format(by="1"), vars(module))
    with pytest.raises(UsageError, match="module nowhere is no Python file"):
        package.run(**small, defenses=[module.ShrinkHead], out=tmp_path / "run")
    older = module.ShrinkHead
    exec(PLUGIN.format(by="1").replace('@register("shrink-head", paper="none")\n', ""), vars(module))
    with pytest.raises(UsageError, match="ShrinkHead has been defined anew"):
        package.run(**small, defenses=[older()], out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"not registered; put @register"):
        package.run(**small, defenses=[module.ShrinkHead], out=tmp_path / "run")
    ended = subprocess.run(
        [sys.executable, "-"],
        input="import bdbench\n" + PLUGIN.format(by="1") + "bdbench.run(defenses=[ShrinkHead])",
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "the source of ShrinkHead is not on file" in ended.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"defenses": [3]}, "3 is neither a name nor a class or instance of bdbench.defenses.base.Defense"),
        ({"defenses": 3}, "give a sequence"),
        ({"attacks": [torch.nn.Linear]}, "bdbench.attacks.base.Attack"),
        ({"defenses": "fine-mixin"}, "nearest: fine-mixing"),
        ({"clean_rows": "16"}, "clean_rows='16': give a whole number"),
        ({"train_rows": 1.5}, "whole number, or 'all'"),
        ({"even_classes": 1}, "even_classes=1: give True or False"),
        ({"frr": True}, "frr=True: give a number"),
        ({"training": [("epochs", 1)]}, "a mapping"),
        ({"training": {"epoch": 1}}, "nearest: epochs"),
        ({"model": 5}, "model=5: give a name or a path"),
        ({"seeds": [0, -1]}, "from 0 to"),
        ({"seeds": "a"}, "0-2,5"),
        ({"workers": 0}, "--workers 0: give a whole number between 1 and 1024"),
        ({"workers": 1.5}, "whole number"),
        ({"gpus_per_cell": 2.0}, "between 0.01 and 1"),
        ({"address": "auto"}, "leave one out"),
        ({"preset": "fast"}, "quick, laptop"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(small, keywords, said, tmp_path):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        package.run(**{**small, "out": tmp_path / "run", **keywords})
    assert not list(tmp_path.iterdir())


def test_a_failed_cell_is_a_warning_and_in_the_results_and_the_process_is_as_it_was(small, finished, tmp_path):
    (tmp_path / "broken.py").write_text(PLUGIN.format(by="no_such_name"))
    threads, folder = torch.get_num_threads(), os.getcwd()
    torch.set_num_threads(2)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = package.run(
                **small,
                defenses="none,shrink-head",
                plugins=[tmp_path / "broken.py"],
                out=tmp_path / "run",
                victims=Path(finished.folder).with_name("victims"),
            )
        assert torch.get_num_threads() == 2 and os.getcwd() == folder
    finally:
        torch.set_num_threads(threads)
    (warned,) = [warning for warning in caught if "cells failed" in str(warning.message)]
    assert "1 of 2 cells failed: sst2 / badnets-word / shrink-head" in str(warned.message)
    assert warned.filename == __file__
    (failed,) = results.failed
    assert "no_such_name" in failed.error and list(results.frame()["failed"]) == [0, 1]
