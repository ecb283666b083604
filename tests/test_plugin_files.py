"""A plugin may have files beside it or be a package: they import, travel, and are in its version. A library keeps its name."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from pathlib import Path

import pytest

from bdbench.errors import UsageError
from bdbench.plugin_files import PluginFile
from bdbench.registry import DEFENSES

HEAD = "from bdbench.defenses.base import ModelRepair, register\n"
DEFENSE = """

@register("{name}", paper="none")
class D(ModelRepair):
    def repair(self, model, ctx):
        {body}
"""


def defense(name: str, imports: str = "", body: str = "return f()") -> str:
    return HEAD + imports + DEFENSE.format(name=name, body=body)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def forgotten():
    """After the test the registry knows no plugin from outside."""
    yield
    for name, cls in list(DEFENSES._classes.items()):
        if not cls.__module__.startswith("bdbench."):
            del DEFENSES._classes[name]


def result_of(path: Path, name: str = "mine") -> object:
    """What the defense returns after the plugin has travelled, while its files are gone."""
    plugin = pickle.loads(pickle.dumps(PluginFile.read(path)))
    moved = path.parent.rename(path.parent.with_name("moved"))
    try:
        plugin.load()
        return DEFENSES.get(name)().repair(None, None)
    finally:
        moved.rename(path.parent)


PACKAGE = {
    "pkg/__init__.py": "from . import inner\n",
    "pkg/inner.py": defense("mine", "from .helper import f\n"),
    "pkg/helper.py": "from .deep.one import f\n",
    "pkg/deep/one.py": "from ..values import VALUE\n\ndef f():\n    return VALUE\n",
    "pkg/values.py": "VALUE = 1\n",
}
LAYOUTS = {
    "beside": ({"a.py": defense("mine", "from b import f\n"), "b.py": "def f():\n    return 1\n"}, "a.py"),
    "beside, as a module": (
        {"a.py": defense("mine", "import b as c\n", "return c.f()"), "b.py": "def f():\n    return 1\n"},
        "a.py",
    ),
    "inside a function": (
        {
            "a.py": defense("mine", body="import b.c; from b import d; return b.c.X + d.X"),
            "b/__init__.py": "",
            "b/c.py": "X = 1\n",
            "b/d.py": "X = 0\n",
        },
        "a.py",
    ),
    "of a sibling": (
        {"a.py": defense("mine", "from b import f\n"), "b.py": "from c import f\n", "c.py": "f = lambda: 1\n"},
        "a.py",
    ),
    "in a circle": (
        {
            "a.py": "VALUE = 1\n" + defense("mine", "import b\n", "return b.f()"),
            "b.py": "import a\n\ndef f():\n    return a.VALUE\n",
        },
        "a.py",
    ),
    "relative without a package": ({"a.py": defense("mine", "from .b import f\n"), "b.py": "f = lambda: 1\n"}, "a.py"),
    "a folder without __init__": (
        {"a.py": defense("mine", "from tools.b import f\n"), "tools/b.py": "f = lambda: 1\n"},
        "a.py",
    ),
    "everything of it": ({"a.py": defense("mine", "from b import *\n"), "b.py": "f = lambda: 1\n"}, "a.py"),
    "a package": (PACKAGE, "pkg"),
    "a file of a package": (PACKAGE, "pkg/inner.py"),
    "a package by its own name": (PACKAGE | {"pkg/__init__.py": "from pkg import inner\n"}, "pkg"),
    "a package with a file beside it": (
        PACKAGE | {"pkg/helper.py": "from beside import f\n", "beside.py": "f = lambda: 1\n"},
        "pkg",
    ),
    "a dash and a dot": ({"a-b.1.py": defense("mine", "from b import f\n"), "b.py": "f = lambda: 1\n"}, "a-b.1.py"),
}


@pytest.mark.parametrize(("files", "given"), LAYOUTS.values(), ids=LAYOUTS)
def test_what_a_plugin_imports_of_its_own_travels_with_it(files, given, tmp_path):
    folder = write(tmp_path / "in" / "plugin", files)
    assert result_of(folder / given) == 1
    assert not {"a", "b", "c", "pkg", "tools", "beside"} & set(sys.modules)


@pytest.mark.parametrize("given", ["pkg", "pkg/inner.py"])
def test_the_version_is_that_of_all_the_texts(given, tmp_path):
    folder = write(tmp_path, PACKAGE)
    before = PluginFile.read(folder / given).digest
    write(folder, {"unrelated.py": "1\n", "pkg/notes.txt": "1\n"})
    assert PluginFile.read(folder / given).digest == before
    write(folder, {"pkg/values.py": "VALUE = 2\n"})
    assert PluginFile.read(folder / given).digest != before


def test_the_version_of_a_file_alone_is_as_before_and_that_of_a_sibling_counts(tmp_path):
    text = defense("mine", "import copy\n", "import json; return json")
    folder = write(tmp_path, {"a.py": text, "b.py": "VALUE = 1\n", "__init__.py": ""})
    plugin = PluginFile.read(folder / "a.py")
    plugin.load()
    assert DEFENSES.get("mine").version == f"1+{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    write(folder, {"a.py": text + "import b\n"})
    before = PluginFile.read(folder / "a.py").digest
    write(folder, {"b.py": "VALUE = 2\n"})
    assert PluginFile.read(folder / "a.py").digest != before


def test_two_plugins_with_siblings_of_one_name_get_their_own(tmp_path):
    for number in (1, 2):
        folder = write(tmp_path / str(number), {"a.py": defense(f"mine{number}", body="import helper; return helper.VALUE")})
        write(folder, {"helper.py": f"VALUE = {number}\n"})
        PluginFile.read(folder / "a.py").load()
    assert [DEFENSES.get(f"mine{number}")().repair(None, None) for number in (1, 2)] == [1, 2]


def test_a_plugin_that_is_loaded_anew_gets_the_new_sibling(tmp_path):
    for number in (1, 2, 2, 1):
        write(tmp_path, {"a.py": defense("mine", "import helper\n", "return helper.VALUE"), "helper.py": f"VALUE = {number}\n"})
        PluginFile.read(tmp_path / "a.py").load()
        assert DEFENSES.get("mine")().repair(None, None) == number


def test_a_library_keeps_its_name(tmp_path):
    files = {name: "raise ImportError('not this one')\n" for name in ("json.py", "numpy.py", "datasets.py")}
    write(tmp_path, files | {"a.py": defense("mine", "import json, numpy\n", "import datasets; return json")})
    plugin = PluginFile.read(tmp_path / "a.py")
    plugin.load()
    assert DEFENSES.get("mine")().repair(None, None) is json
    assert {file.name for file in plugin.shadowed} == set(files) and len(plugin.sources) == 1


def test_inside_a_package_a_relative_import_may_have_a_librarys_name(tmp_path):
    files = {"pkg/inner.py": defense("mine", "import random\nfrom .random import f\n", "return f(), random.random")}
    write(tmp_path, files | {"pkg/__init__.py": "from . import inner\n", "pkg/random.py": "f = lambda: 1\n"})
    PluginFile.read(tmp_path / "pkg").load()
    import random

    assert DEFENSES.get("mine")().repair(None, None) == (1, random.random)


@pytest.mark.parametrize(
    ("files", "given", "said"),
    [
        ({"data/a.csv": ""}, "data", "a folder without __init__.py is no package"),
        ({"a.txt": ""}, "a.txt", "not a Python file"),
        ({"a.py": "import b\n", "b.py": "1 +\n"}, "a.py", "fails to run: SyntaxError"),
        ({"a.py": "import b\n", "b.py": "import sys\nsys.exit(3)\n"}, "a.py", r"called sys.exit\(3\)"),
        ({"a.py": "raise KeyboardInterrupt\n"}, "a.py", "raised KeyboardInterrupt"),
        ({"a.py": "import torch\ntorch.set_num_threads(7)\n"}, "a.py", "changed the number of threads"),
        ({"a.py": "import json\njson.mine()\n", "json.py": ""}, "a.py", "AttributeError"),
    ],
    ids=["folder", "text", "sibling's syntax", "sibling's exit", "interrupt", "threads", "library"],
)
def test_a_plugin_that_cannot_be_had_is_refused(files, given, said, tmp_path):
    before = set(sys.modules)
    with pytest.raises(UsageError, match=said) as refused:
        PluginFile.read(write(tmp_path, files) / given).load()
    assert "\n" not in str(refused.value)
    assert not [name for name in set(sys.modules) - before if name.startswith("bdbench_plugin")]


def test_parsing_the_command_line_at_import_is_told_in_one_line(tmp_path, capsys):
    text = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', required={})\np.parse_args()\n"
    write(tmp_path, {"optional.py": text.format(False), "required.py": text.format(True)})
    PluginFile.read(tmp_path / "optional.py").load()
    with pytest.raises(
        UsageError, match=r"called sys.exit\(2\).*required.py: error: the following arguments are required: --lr$"
    ):
        PluginFile.read(tmp_path / "required.py").load()
    assert capsys.readouterr() == ("", "")
