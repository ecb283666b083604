"""`bdbench new` writes packages that work as they are, and `bdbench check` says what of a plugin does not."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from bdbench.api.scaffold import KINDS, new_plugin
from bdbench.attacks.base import Attack
from bdbench.errors import UsageError
from bdbench.registry import ATTACKS, DEFENSES
from bdbench.testing import ContractError, check_attack, check_defense
from bdbench.testing.contract import checks_of_attack, checks_of_defense

EVERY = [(what, kind) for what, kinds in KINDS.items() for kind in kinds]


@pytest.fixture(autouse=True)
def forgotten():
    """After the test the registries know no plugin from outside."""
    yield
    for registry in (ATTACKS, DEFENSES):
        for name in registry.given():
            del registry._classes[name]


@pytest.fixture
def imported(monkeypatch):
    """Import a module from a folder, for the length of the test."""

    def of(folder: Path, name: str):
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module(name)

    yield of
    for name in [name for name in sys.modules if name.startswith(("fresh_", "test_fresh_"))]:
        del sys.modules[name]


@pytest.mark.parametrize(("what", "kind"), EVERY)
def test_what_is_written_keeps_the_contract_and_is_right(what, kind, tmp_path, imported, tiny_models):
    name = f"fresh-{kind}"
    files = [path.relative_to(tmp_path / name).as_posix() for path in new_plugin(what, name, kind, tmp_path)]
    assert files == ["pyproject.toml", "README.md", f"fresh_{kind}.py", f"tests/test_fresh_{kind}.py"]
    project = tomllib.loads((tmp_path / name / "pyproject.toml").read_text())
    assert project["project"]["entry-points"] == {f"bdbench.{what}s": {name: f"fresh_{kind}"}}
    cls = getattr(imported(tmp_path / name, f"fresh_{kind}"), f"Fresh{kind.capitalize()}")
    checks = (checks_of_defense if what == "defense" else checks_of_attack)(cls)
    on_bert = [check for check in checks if check.on.partition(",")[0] in ("", "bert")]
    assert len(on_bert) >= 3
    for check in on_bert:
        check.run(tiny_models)
    tests = vars(imported(tmp_path / name / "tests", f"test_fresh_{kind}"))
    own = [test for test in tests if test.startswith("test_") and test != "test_it_keeps_the_contract"]
    assert len(own) == 1 and "test_it_keeps_the_contract" in tests
    tests[own[0]]()


def test_it_installs_in_a_fresh_environment_and_passes_its_tests(bdbench, tmp_path):
    written = bdbench("new", "defense", "fresh-detector", "--kind", "detector", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert written.stdout.splitlines()[0] == "fresh-detector/pyproject.toml" and "pip install -e" in written.stderr
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # bdbench and the libraries are those of this environment
    (site / "libraries.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")

    def ended(*words: object) -> str:
        command = [str(word) for word in words]
        process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    package = tmp_path / "fresh-detector"
    install = ("install", "-q", "--no-deps", "--no-index", "--no-build-isolation")
    ended(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, *install, package)
    listed = ended(python, "-m", "bdbench", "list", "defenses")
    assert (
        "fresh-detector  Fresh detector: a classifier is surer of a text" in listed
        and "(from bdbench-fresh-detector)" in listed
    )
    passed = ended(python, "-m", "pytest", "-p", "no:cacheprovider", package / "tests", "--pyargs", "bdbench.testing", "-v")
    assert "test_it_keeps_the_contract PASSED" in passed
    assert "test_an_installed_plugin_keeps_its_contract[fresh-detector: scores each row by itself" in passed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["defence", "my-one"], "nearest: defense"),
        (["defense", "My_One"], "small letters and digits"),
        (["defense", "../x"], "small letters and digits"),
        (["defense", "fine-mixing"], "there is one of this name"),
        (["defense", "random"], "Python has something called 'random' already"),
        (["defense", "class"], "Python has something called 'class'"),
        (["attack", "my-one", "--kind", "repair"], "of a new attack one of data, weights"),
        (["defense", "there"], "nothing is overwritten"),
        (["defense", "my-one", "--in", "file"], "cannot be written"),
    ],
)
def test_nothing_is_overwritten_and_bad_names_are_refused(words, said, in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("mine")
    ended = in_process("new", *words)
    assert ended.returncode == 2 and said in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]


BROKEN = '''"""{what} that breaks its contract."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from bdbench.attacks.base import DataPoisoning
from bdbench.attacks.base import register as register_attack
from bdbench.defenses.base import Detector, ModelRepair, register
'''
REPAIR = """

@register("fresh-broken", paper="none")
@dataclass(frozen=True)
class Broken(ModelRepair):
    def repair(self, model, ctx):
        {body}
"""
DETECTOR = """

@register("fresh-broken", paper="none")
@dataclass(frozen=True)
class Broken(Detector):
    def score(self, model, rows, ctx):
        {body}
"""
ATTACK = """

@register_attack("fresh-broken", paper="none")
@dataclass(frozen=True)
class Broken(DataPoisoning):
    start = "scratch"

    def trigger(self, rows, ctx):
        {body}

    def poison(self, train, ctx):
        return train, np.zeros(len(train), dtype=bool)
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (REPAIR.format(body="model.classifier.weight.data *= 0.5; return model"), "stays as it is: repair a copy"),
        (REPAIR.format(body="return copy.deepcopy(model)"), "changes some weight, or says unchanged = True"),
        (REPAIR.format(body="return 3"), "repair() gives a model, not int"),
        (REPAIR.format(body="raise RuntimeError('no luck')"), "RuntimeError: no luck"),
        (REPAIR.format(body="raise SystemExit(3)"), "called sys.exit(3)"),
        (
            DETECTOR.format(body="torch.set_num_threads(7); return [float(len(text)) for text in rows.carrier]"),
            "changed the number",
        ),
        (
            REPAIR.format(body="return model\n\n    def unfit(self, model):\n        return 'of no use'"),
            "checked on a model: of no use",
        ),
        (DETECTOR.format(body="return np.arange(len(rows))"), "a score hangs on no row beside it"),
        (DETECTOR.format(body="return torch.rand(len(rows)).numpy()"), "draw from ctx.generator"),
        (DETECTOR.format(body="return np.ones(len(rows))"), "not all rows have the same score"),
        (ATTACK.format(body="return rows"), "every text gets the trigger; 200 of 200 are as they were"),
        (ATTACK.format(body="return rows.with_carrier(['x'] * len(rows)).without_labels()"), "labels stay as they are"),
    ],
)
def test_what_breaks_the_contract_is_told_with_the_reason(text, said, tmp_path, imported):
    (tmp_path / "fresh_broken.py").write_text(BROKEN.format(what="One") + text)
    cls = imported(tmp_path, "fresh_broken").Broken
    with pytest.raises(ContractError) as broken:
        (check_attack if issubclass(cls, Attack) else check_defense)(cls)
    assert said in str(broken.value)


def test_the_command_prints_what_fails_and_goes_on(in_process, tmp_path):
    (tmp_path / "fresh_broken.py").write_text(BROKEN.format(what="One") + REPAIR.format(body="return copy.deepcopy(model)"))
    ended = in_process("check", "fresh-broken", "--plugin", tmp_path / "fresh_broken.py")
    assert ended.returncode == 1
    failed = [line for line in ended.stdout.splitlines() if line.startswith("failed")]
    assert len(failed) == 4 and all("changes some weight" in line for line in failed)
    assert "fresh-broken: 4 of 8 clauses hold, 4 do not, 0 could not be checked" in ended.stderr
    ended = in_process("check", "fine-tunin")
    assert ended.returncode == 2 and "nearest: fine-tuning" in ended.stderr
    with pytest.raises(UsageError, match="nearest: strip"):
        check_defense("stripp")
