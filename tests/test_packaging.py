"""The wheel, installed in a fresh environment, with a defense of somebody else's that registers by entry point."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from bdbench.source import source_digest

ROOT = Path(__file__).parents[1]

PLUGIN = '''"""Halve every weight of the classification head (an example of an outside defense)."""

import copy
from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register
from bdbench.params import hp


@register("halve-head", paper="none")
@dataclass(frozen=True)
class HalveHead(ModelRepair):
    factor: float = hp(0.5, low=0.0, high=1.0, help="what the head is multiplied by")

    def repair(self, model, ctx):
        repaired = copy.deepcopy(model)
        repaired.classifier.weight.data *= self.factor
        return repaired
'''

PROJECT = """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "bdplug"
version = "1.0"

[project.entry-points."bdbench.defenses"]
halve-head = "bdplug"
broken-one = "bdbroken"

[tool.setuptools]
py-modules = ["bdplug", "bdbroken"]
"""


def pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Path:
    """The `bdbench` command of a fresh environment with both wheels; the libraries are those of this environment."""
    root = tmp_path_factory.mktemp("outside")
    (root / "plugin").mkdir()
    (root / "plugin" / "bdplug.py").write_text(PLUGIN)
    (root / "plugin" / "bdbroken.py").write_text("import sys\n\nsys.exit('no GPU here')\n")
    (root / "plugin" / "pyproject.toml").write_text(PROJECT)
    source = root / "source"  # a copy, so that no build folder is left in the checkout
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("results/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    for project in (source, root / "plugin"):
        pip("wheel", "--no-deps", "--no-build-isolation", "-q", "-w", root / "wheels", project)
    venv.create(root / "venv", with_pip=False)
    python = root / "venv" / "bin" / "python"
    pip("--python", python, "install", "-q", "--no-deps", "--no-index", *(root / "wheels").glob("*.whl"))
    (site,) = (root / "venv" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root / "venv" / "bin" / "bdbench"


def test_the_wheel_lists_and_describes_what_the_checkout_has(outside, bdbench, tmp_path):
    listed = subprocess.run([outside, "list"], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    own, ours = ([" ".join(line.split()) for line in text.splitlines()] for text in (listed, bdbench("list").stdout))
    published = "halve-head Halve every weight of the classification head (an example of an outside defense). (from bdplug)"
    broken = [line for line in own if line.startswith("broken-one")]
    assert own.count(published) == 1 and own[own.index(broken[0]) - 1] == "broken:"
    assert "(bdbroken) called sys.exit('no GPU here')" in broken[0] and len(broken) == 1
    assert [line for line in own if line not in (published, "broken:", *broken)] == ours
    assert own.index("repair:") < own.index(published) < own.index("detector:")
    shown = subprocess.run([outside, "show", "halve-head"], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert "halve-head.factor=0.5 [0.0, 1.0]: what the head is multiplied by" in shown


def test_the_wheel_has_the_source_digest_of_the_checkout(outside, tmp_path):
    """Else records of the two would count as made by different sources."""
    command = [outside.parent / "python", "-c", "from bdbench.source import source_digest as s; print(s())"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert ended.stdout.strip() == source_digest() and len(source_digest()) == 64


def test_an_outside_defense_runs_in_the_matrix_on_ray_workers(outside, tiny_bert, data_dir, tmp_path):
    assert len(PLUGIN.strip().splitlines()) <= 20
    flags = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "badnets-word"]
    sizes = ["--train-rows", "100", "--validation-rows", "20", "--max-length", "32", "--epochs", "1"]
    defenses = ["-d", "none,halve-head,halve-head+fine-tuning", "-D", "halve-head.factor=0.25", "--out", tmp_path / "run"]
    ended = subprocess.run([outside, "run", *map(str, flags + sizes + defenses)], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    board = (tmp_path / "run" / "leaderboard.md").read_text()
    assert "halve-head" in board and "halve-head+fine-tuning" in board and "failed" not in board.split("\n## ")[1]


def test_two_owners_of_one_name_are_refused(outside, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    code = (
        "from bdbench.plugin_files import PluginFile\nfrom bdbench.registry import DEFENSES\n"
        "DEFENSES.get('halve-head')\n"
        f"PluginFile.read({str(tmp_path / 'mine.py')!r}).load()\n"
    )
    ended = subprocess.run([outside.parent / "python", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode != 0 and "two defenses are named 'halve-head'" in ended.stderr
