"""Plugins from files and from scripts: the file or package, and the files beside it that it imports, as texts that travel."""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from bdbench.errors import UsageError
from bdbench.main_source import MainSource

MAIN = "__main__"


@dataclass(frozen=True)
class Source:
    """One Python file: its module's name, as the plugin's own imports name it, where it lay, and its text."""

    name: str
    path: Path
    text: bytes

    @classmethod
    def read(cls, name: str, path: Path) -> Source:
        """Raises UsageError if the file cannot be read."""
        try:
            return cls(name, path, path.read_bytes())
        except OSError as error:
            raise UsageError(f"--plugin {path}: cannot be read ({error.strerror})") from error

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    def imports(self) -> Iterator[tuple[str, bool]]:
        """What it may import, anywhere, also inside functions: names of modules, and whether it names them relatively."""
        try:
            tree = ast.parse(self.text)
        except (SyntaxError, ValueError):
            return  # running it says what is wrong
        package = self.name.split(".")[: None if self.is_package else -1]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, False) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                parts = base + (node.module.split(".") if node.module else [])
                for name in (".".join(parts), *(".".join([*parts, alias.name]) for alias in node.names)):
                    if name:
                        yield name, node.level > 0


@dataclass(frozen=True)
class PluginFile:
    """A Python file or package given with `--plugin`, with all of its own code that it imports, as it was read once.

    - `path` is what was given, and `main` the name of its module.
    - `sources` hold the file itself, the files and packages beside it that any of them imports by name, and the whole of every
      package. A name of the standard library or of an installed library is the library's.
    - `siblings` are the names, without dots, that the plugin's code imports from `sources`. `shadowed` are files beside it that
      it does not get, since a library has the name.

    Workers run these texts, not what lies at `path` by then. So what a key names is what made the numbers, and no file system
    has to be shared. Files of another kind do not travel.
    """

    path: Path
    main: str
    sources: tuple[Source, ...]
    siblings: frozenset[str] = frozenset()
    shadowed: tuple[Path, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> PluginFile:
        """Raises UsageError if there is no such file, or if it is neither a Python file nor a package."""
        path = Path(path).resolve()
        if not path.exists():
            raise UsageError(f"--plugin {path}: no such file")
        if path.is_dir() and not (path / "__init__.py").is_file():
            raise UsageError(
                f"--plugin {path}: a folder without __init__.py is no package; give a Python file (.py) or a package"
            )
        if path.is_file() and path.suffix != ".py":
            raise UsageError(f"--plugin {path}: not a Python file (.py)")
        file = path / "__init__.py" if path.is_dir() else path
        alone = Source.read(path.stem.replace(".", "_") if path.is_file() else path.name, file)
        root = _above_packages(path)
        if path.is_file() and (root == path.parent or not any(relative for _, relative in alone.imports())):
            main, sources = alone.name, [alone]
        else:
            main = ".".join(path.relative_to(root).with_suffix("").parts)
            sources = _package(root, main.partition(".")[0])
        sources, siblings, shadowed = _with_siblings(sources, list(dict.fromkeys((path.parent, root))))
        return cls(path, main, tuple(sources), frozenset(siblings), tuple(shadowed))

    @classmethod
    def of_main(cls, name: str) -> PluginFile:
        """The class of this name that was typed into a script or a notebook, with what it uses there.

        Raises UsageError if its source cannot be had.
        """
        main = MainSource.read(name)
        path = main.folder / f"{main.name} ({name})"  # no file has this name: its lines would not be those that run
        alone = Source(MAIN, path, main.of_class(name).encode())
        sources, siblings, shadowed = _with_siblings([alone], [main.folder])
        return cls(path, MAIN, tuple(sources), frozenset(siblings), tuple(shadowed))

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the names and texts; of one file alone, of its text."""
        if len(self.sources) == 1:
            return hashlib.sha256(self.sources[0].text).hexdigest()
        lines = sorted(f"{source.name} {hashlib.sha256(source.text).hexdigest()}\n" for source in self.sources)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def package(self) -> str:
        """The private package that the modules are in: nothing else imports them, and two plugins may use the same names."""
        digest = hashlib.sha256(os.fsencode(self.path) + b"\0" + self.digest.encode()).hexdigest()
        return f"bdbench_plugin_{digest[:16]}"

    def load(self) -> None:
        """Run the text; its classes register themselves. The same text again does nothing, another text replaces it.

        Raises UsageError if it fails to run.
        """
        from bdbench.fence import refusing  # imports torch, which listing the built-in plugins does not

        older = next((package for package, plugin in _LOADED.items() if plugin.path == self.path), None)
        if older == self.package:
            return
        _LOADED[self.package] = self
        try:
            with refusing(f"--plugin {self.path}"):
                importlib.import_module(f"{self.package}.{self.main}")
        except BaseException:
            _forget(self.package)
            raise
        if older:
            _forget(older)

    @property
    def module(self) -> ModuleType:
        """The module of the file itself, after `load`."""
        return sys.modules[f"{self.package}.{self.main}"]

    def find(self, name: str) -> Source | None:
        """The module of this name; one without text for a folder that has modules but no `__init__.py`."""
        for source in self.sources:
            if source.name == name:
                return source
        if not name or any(source.name.startswith(f"{name}.") for source in self.sources):
            return Source(name, self.path.parent / "__init__.py", b"")
        return None

    def import_(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` for the code of this plugin: as always, but a sibling's name is the sibling."""
        top = name.partition(".")[0]
        if level or top not in self.siblings:
            return builtins.__import__(name, globals, locals, fromlist, level)
        if fromlist:
            return builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{self.package}.{name}")
        return sys.modules[f"{self.package}.{top}"]


# The plugins that run in this process, by their private package.
_LOADED: dict[str, PluginFile] = {}


def plugin_of(module: str) -> PluginFile | None:
    """The plugin that a module of this name belongs to, if it came with `--plugin`."""
    return _LOADED.get(module.partition(".")[0])


class _Finder(MetaPathFinder):
    """Finds the modules of `_LOADED`. It is asked last, and the names that it knows are private."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        plugin = _LOADED.get(package)
        source = plugin.find(name) if plugin else None
        if source is None:
            return None
        # without a folder in which another finder would look for its modules
        spec = ModuleSpec(fullname, _Loader(plugin, source), origin=str(source.path), is_package=source.is_package)
        spec.has_location = True  # __file__ is set
        return spec


@dataclass(frozen=True)
class _Loader(InspectLoader):
    plugin: PluginFile
    source: Source

    def is_package(self, fullname: str) -> bool:
        return self.source.is_package

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.source.text)

    def exec_module(self, module: ModuleType) -> None:
        # import statements take `__import__` from here, also those that run later, inside a function
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self.plugin.import_}
        exec(compile(self.source.text, str(self.source.path), "exec", dont_inherit=True), vars(module))


sys.meta_path.append(_Finder())


def _forget(package: str) -> None:
    del _LOADED[package]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def _above_packages(path: Path) -> Path:
    """The folder that the topmost package lies in which `path` is part of."""
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _with_siblings(sources: list[Source], folders: list[Path]) -> tuple[list[Source], set[str], list[Path]]:
    """The sources and what they import from the folders, directly or not; the names of these; files that a library shadows."""
    by_name = {source.name: source for source in sources}
    siblings, shadowed, queue = set(), {}, list(sources)
    while queue:
        for name, relative in queue.pop().imports():
            top = name.partition(".")[0]
            place = next((place for folder in folders if (place := _module_at(folder, name))), None)
            if place is None or (relative and top in by_name):
                continue
            if not relative and _is_library(top, place):
                shadowed[place] = None
                continue
            siblings |= set() if relative else {top}
            if top not in {known.partition(".")[0] for known in by_name}:
                new = [Source.read(top, place)] if place.is_file() else _package(place.parent, top)
                by_name |= {source.name: source for source in new}
                queue += new
    return list(by_name.values()), siblings, list(shadowed)


def _module_at(folder: Path, name: str) -> Path | None:
    """The file or the folder in `folder` that an import of `name` begins with, if Python would find one there."""
    top = name.partition(".")[0]
    package, file = folder / top, folder / f"{top}.py"
    if (package / "__init__.py").is_file():
        return package
    if file.is_file():
        return file
    module = folder.joinpath(*name.split("."))  # in a folder without __init__.py
    return (
        package if module != package and (module.with_suffix(".py").is_file() or (module / "__init__.py").is_file()) else None
    )


def _is_library(name: str, place: Path) -> bool:
    """Whether a module of this name, other than the one at `place`, is in the standard library or installed."""
    if name in sys.stdlib_module_names or name in sys.builtin_module_names:
        return True
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that was made by hand
        return True
    if spec is None:
        return False
    files = (
        [Path(spec.origin)] if spec.has_location and spec.origin else [Path(f) for f in spec.submodule_search_locations or ()]
    )
    return all(path.resolve() not in (place, place / "__init__.py") for path in files)


def _package(root: Path, name: str) -> list[Source]:
    """All Python files of a package, but those in hidden folders."""
    files = [
        file
        for file in sorted((root / name).rglob("*.py"))
        if not any("." in part for part in file.relative_to(root).parts[:-1])
    ]
    return [
        Source.read(".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"), file) for file in files
    ]
