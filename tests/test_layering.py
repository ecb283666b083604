"""Who may import whom (imports anywhere in a file count, also inside functions), and the fixed layout."""

import ast
import graphlib
import importlib
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lowest floor first: what each folder may import of ours. A file of benchmark/ itself is a leaf.
FLOORS = {
    "leaves": "",
    "specs": "leaves",
    "engine": "leaves specs",
    "attacks": "leaves engine",
    "defenses": "leaves engine",
    "tasks": "leaves engine",
    "protocol": "leaves specs engine attacks defenses tasks",
    "matrix": "leaves specs engine attacks defenses tasks protocol",
    "analysis": "leaves specs",
    "reports": "leaves specs analysis",
    "suspects": "leaves specs engine attacks defenses tasks protocol analysis",
    "api": "leaves specs engine attacks defenses tasks protocol matrix analysis reports suspects",
    "testing": "leaves specs engine attacks defenses tasks protocol",
    "cli": "leaves specs engine attacks defenses tasks protocol matrix analysis reports suspects api testing",
    "perf": "leaves specs engine attacks defenses tasks protocol matrix api cli",
}
PLUGINS = ("attacks", "defenses", "tasks")
FILES = [*(ROOT / "benchmark").rglob("*.py"), *(file for kind in PLUGINS for file in (ROOT / kind).glob("*.py"))]
ENTRANCES = {ROOT / "benchmark" / "__init__.py", ROOT / "benchmark" / "__main__.py"}


def floor(module: str) -> str:
    """ "bdbench.engine.training" -> "engine"; "bdbench.errors" -> "leaves"."""
    name = module.split(".")[1]
    return name if name in FLOORS else "leaves"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("bdbench", *parts[parts[0] == "benchmark" :])).removesuffix(".__init__")


MODULES = {module_name(file) for file in FILES} - {"bdbench"}


def imported(file: Path) -> set[str]:
    """The modules of bdbench that a file imports, anywhere but for type checkers alone."""
    tree = ast.parse(file.read_text())
    guards = (node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    for_types = {node for guard in guards for node in ast.walk(guard)}
    modules = set()
    for node in ast.walk(tree):
        if node not in for_types:
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: write bdbench.…, not a relative import"
                # what is imported from a package may be one of its modules
                modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules & MODULES


def test_no_module_imports_upward():
    upward = [
        (module_name(file), other)
        for file in FILES
        if file not in ENTRANCES
        for here in [floor(module_name(file))]
        for other in imported(file)
        if floor(other) not in {here, *FLOORS[here].split()}
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    graphlib.TopologicalSorter({module_name(file): imported(file) for file in FILES}).prepare()


def test_only_the_matrix_knows_ray_and_only_the_reader_of_sources_knows_datasets():
    users: dict[str, set[str]] = {"ray": set(), "datasets": set()}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for library in users:
                if library in {name.split(".")[0] for name in modules}:
                    users[library].add(module_name(file))
    assert users == {
        "ray": {"bdbench.matrix.ray_head", "bdbench.matrix.ray_start", "bdbench.matrix.crew", "bdbench.matrix.ray_tune"},
        "datasets": {"bdbench.protocol.sources"},
    }


def test_engine_protocol_and_matrix_name_no_defense_and_no_attack_but_the_clean_one():
    from bdbench.registry import ATTACKS, DEFENSES

    for file in [file for folder in ("engine", "protocol", "matrix") for file in (ROOT / "benchmark" / folder).glob("*.py")]:
        if file.stem == "presets":
            continue
        constants = {
            node.value
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert constants & {*ATTACKS.names(), *DEFENSES.names()} <= {"none"}


def test_every_plugin_is_a_page_long():
    for kind in PLUGINS:
        for file in (ROOT / kind).glob("[!_]*.py"):
            if file.stem != "base":
                assert 15 <= len(file.read_text().splitlines()) <= 125, file


def test_every_package_is_in_the_wheel():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(setuptools["package-dir"].values()) == {"benchmark", *PLUGINS}
    assert set(setuptools["packages"]) == {module_name(file) for file in FILES if file.stem == "__init__"}


@pytest.mark.parametrize("folder", PLUGINS)
def test_importing_a_plugin_folder_from_a_checkout_says_what_to_do(folder, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delitem(sys.modules, folder, raising=False)
    with pytest.raises(ImportError, match=f"import bdbench.{folder}"):
        importlib.import_module(folder)
