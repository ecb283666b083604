"""Who may import whom (imports anywhere in a file count, also inside functions), and the fixed layout."""

import ast
import importlib
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each module of benchmark/ may import the modules of ours that stand on lines above its own.
LAYERS = [
    ["errors", "files", "kernels", "seeds"],
    ["data", "params", "registry"],
    ["records", "presets"],
    ["metrics", "models", "loops", "tables"],
    ["report", "claims", "context", "attacks", "defenses", "tasks"],
    ["engine", "progress", "store"],
    ["grid"],
    ["runner"],
    ["__main__"],
    ["perf"],
]
LEAVES = {"errors", "files", "seeds", "data", "params", "registry", "loops"}


def imports(file: Path, with_types: bool = False) -> set[str]:
    """The modules of bdbench that a file imports: "engine" for `bdbench.engine`, "attacks" for `bdbench.attacks.base`."""
    found = set()
    tree = ast.parse(file.read_text())
    for_types = {
        node
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and ast.unparse(guard.test) == "TYPE_CHECKING"
        for node in ast.walk(guard)
    }
    for node in ast.walk(tree):
        if node in for_types and not with_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bdbench."):
            found.add(node.module.split(".")[1])
        if isinstance(node, ast.ImportFrom) and node.module == "bdbench":
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bdbench.")}
    return found


def test_no_module_imports_upward():
    layer = {module: depth for depth, modules in enumerate(LAYERS) for module in modules}
    files = [file for file in (ROOT / "benchmark").glob("*.py") if file.stem != "__init__"]
    assert {file.stem for file in files} == set(layer) - {"attacks", "defenses", "tasks"}
    upward = [(file.stem, other) for file in files for other in imports(file) if layer[other] >= layer[file.stem]]
    assert not upward


@pytest.mark.parametrize("kind", ["attacks", "defenses", "tasks"])
def test_plugins_import_only_leaves_and_their_own_kind(kind):
    for file in (ROOT / kind).glob("*.py"):
        assert imports(file) <= LEAVES | {kind}, file.name


def test_only_the_runner_knows_ray_and_only_the_hub_reader_knows_datasets():
    knowing: dict[str, set[str]] = {"ray": set(), "datasets": set()}
    for file in [file for folder in ("benchmark", "attacks", "defenses", "tasks") for file in (ROOT / folder).glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for library in knowing:
                if library in {name.split(".")[0] for name in names}:
                    knowing[library].add(file.name)
    assert knowing == {"ray": {"runner.py"}, "datasets": {"_sources.py"}}


def test_engine_and_runner_name_no_defense_and_no_attack_but_the_clean_one():
    from bdbench.registry import ATTACKS, DEFENSES

    for file in ("engine.py", "runner.py"):
        constants = {
            node.value
            for node in ast.walk(ast.parse((ROOT / "benchmark" / file).read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert constants & {*ATTACKS.names(), *DEFENSES.names()} <= {"none"}


def test_every_plugin_is_a_page_long():
    for kind in ("attacks", "defenses", "tasks"):
        for file in (ROOT / kind).glob("[!_]*.py"):
            if file.stem != "base":
                assert 15 <= len(file.read_text().splitlines()) <= 125, file


def test_every_package_is_in_the_wheel():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"}
    assert set(setuptools["package-dir"].values()) == folders
    assert set(setuptools["packages"]) == set(setuptools["package-dir"])


@pytest.mark.parametrize("folder", ["attacks", "defenses", "tasks"])
def test_importing_a_plugin_folder_from_a_checkout_says_what_to_do(folder, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delitem(sys.modules, folder, raising=False)
    with pytest.raises(ImportError, match=f"import bdbench.{folder}"):
        importlib.import_module(folder)
