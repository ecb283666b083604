"""A plugin that cannot be used is named as broken, with the reason, and everything else goes on."""

from __future__ import annotations

import pytest

import bdbench.defenses
from bdbench.errors import UsageError
from bdbench.registry import DEFENSES

BROKEN = {
    "no_python": ("def (:\n", "SyntaxError"),
    "no_text": (b"\xff\xfe\x00", "cannot be read"),
    "other_name": ("from bdbench.defenses.base import ModelRepair, register\n", "does not register the name 'other-name'"),
    "no_module": (
        'import no_such_module.inner\n@register("no-module", paper="none")\nclass D:\n    pass\n',
        "needs the module no_such_module.inner, which is not there",
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A second folder of built-in defenses."""
    monkeypatch.setattr(bdbench.defenses, "__path__", [*bdbench.defenses.__path__, str(tmp_path)])
    return tmp_path


def test_list_names_the_broken_ones_and_the_rest(folder, in_process):
    whole = in_process("list").stdout
    for name, (text, _) in BROKEN.items():
        (folder / f"{name}.py").write_bytes(text.encode() if isinstance(text, str) else text)
    shown = in_process("list")
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    place = lines.index("  broken:")
    broken = lines[place + 1 : place + 1 + len(BROKEN)]
    assert [line for line in lines if line not in ("  broken:", *broken)] == whole.splitlines()
    for (name, (_, said)), line in zip(sorted(BROKEN.items()), broken, strict=True):
        assert line.strip().startswith(name.replace("_", "-")) and said in line, line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ValueError('not today')\n", "fails to run: ValueError: not today; mend it"),
        ("import sys\nsys.exit(3)\n", "fails to run: SystemExit: 3"),
        ("X = 1\n", "does not register the name 'faulty'"),
    ],
)
def test_a_broken_file_is_one_line_when_asked_for_and_the_others_are_there(text, said, folder):
    (folder / "faulty.py").write_text(text)
    with pytest.raises(UsageError, match=said):
        DEFENSES.get("faulty")
    assert DEFENSES.get("fine-tuning").name == "fine-tuning" and "faulty" in DEFENSES.names()
