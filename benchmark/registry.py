"""Finding plugins by name, lazily: naming and listing them imports none of them.

A plugin comes from one of three places: a file of the folders `attacks/`, `defenses/` and `tasks/` (its public name is the
file name with dashes for underscores), an entry point of the group `bdbench.attacks`, `bdbench.defenses` or
`bdbench.tasks` of any installed distribution, or a file or package given with `--plugin` (`bdbench.plugin_files`).
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from bdbench.errors import UsageError, first_line, nearest
from bdbench.plugin_files import MAIN, plugin_of


class Registry:
    """The plugins of one kind ("attacks", "defenses" or "tasks")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.package = f"bdbench.{kind}"
        self._classes: dict[str, type] = {}
        self._found: set[str] = set()  # names that one owner alone has: looking into the folders takes a fifth of a millisecond

    # registering

    def register(self, name: str, *, paper: str, version: int = 1) -> Any:
        """Class decorator that makes a plugin known by `name`.

        `paper` says where the method comes from (an arXiv id, or "none"). Raise `version` when the plugin's results
        change, so that finished cells of the older one are not reused. Raises UsageError if another class has the name.
        """

        def add(cls: type) -> type:
            other = self._other_owner(name, cls)
            if other:
                raise UsageError(f"two {self.kind} are named '{name}': {other} and {_origin(cls)}; rename one")
            if any(isinstance(value, dataclasses.Field) for value in vars(cls).values()):
                raise UsageError(f"{_origin(cls)} has hyperparameters but no @dataclass(frozen=True) under @register")
            cls.name, cls.paper, cls.version = name, paper, _version(cls, version)
            self._classes[name] = cls
            return cls

        return add

    def _other_owner(self, name: str, cls: type) -> str | None:
        """Who else has the name: a class registered before, or a built-in or entry point that is not imported yet."""
        before = self._classes.get(name)
        if before is not None and _origin(before) != _origin(cls):
            return _origin(before)
        file = self._built_in().get(name)
        if file is not None and cls.__module__ != f"{self.package}.{file.stem}":
            return f"bdbench ({file.name})"
        for point in self._entry_points.get(name, ()):
            if cls.__module__.partition(".")[0] != point.module.partition(".")[0]:
                return _owner(point)
        return None

    # finding

    def names(self) -> list[str]:
        """Every known name, sorted, without importing a plugin."""
        return sorted({*self._built_in(), *self._entry_points, *self._classes})

    def get(self, name: str) -> Any:
        """The plugin class of this name, imported on first use.

        Raises UsageError for an unknown name (with the nearest ones), for one that two distributions claim, and for a
        plugin that fails to import or does not register the name it is published under.
        """
        if name in self._found and name in self._classes:
            return self._classes[name]
        built_in, points = self._built_in(), self._entry_points
        if name in points and (name in built_in or len(points[name]) > 1):
            owners = [f"bdbench ({built_in[name].name})"] if name in built_in else []
            owners += [_owner(point) for point in points[name]]
            raise UsageError(f"two {self.kind} are named '{name}': {' and '.join(owners)}; uninstall or rename one")
        if name not in self._classes:
            if name in built_in:
                self._import(name, built_in[name])
            elif name in points:
                self._load(points[name][0])
            else:
                known = self.names()
                raise UsageError(f"no {self.kind} named '{name}'{nearest(name, known)}; known: {', '.join(known)}")
        self._found.add(name)
        return self._classes[name]

    def adopt(self, cls: type) -> None:
        """Have a class that is registered, or was, be the one of its name: the same plugin, read from another place."""
        self._classes[cls.name] = cls

    def publishes(self, cls: type) -> bool:
        """Whether any process finds this class by its name: it is built in, or an installed library publishes it."""
        top = cls.__module__.partition(".")[0]
        points = self._entry_points.get(cls.name, ())
        return cls.__module__.startswith("bdbench.") or any(point.module.partition(".")[0] == top for point in points)

    def given(self) -> dict[str, type]:
        """The classes that this process alone knows by name: those of its own modules."""
        return {name: cls for name, cls in self._classes.items() if not self.publishes(cls)}

    def installed(self) -> list[str]:
        """The names that installed libraries publish, sorted, without importing one."""
        return sorted(self._entry_points)

    def fault(self, name: str) -> str | None:
        """Why a known plugin cannot be used, in one line, or None.

        One of an installed library is imported to tell. Of a file in bdbench's folders only the text is looked at: whether it
        can be read, whether the modules are there that it imports, and whether it registers its name.
        """
        if name in self._built_in() and name not in self._entry_points:
            return _fault_of_text(name, self._built_in()[name])
        try:
            self.get(name)
        except UsageError as error:
            return str(error)
        return None

    def origin(self, name: str) -> str | None:
        """The library that publishes a plugin; None of one that is built in or was given."""
        points = self._entry_points.get(name)
        return points[0].dist.name if points and points[0].dist else None

    def summary(self, name: str) -> str:
        """The first line of the docstring of the plugin's module, read from the file, not imported."""
        if name in self._built_in():
            text = ast.get_docstring(ast.parse(self._built_in()[name].read_text()))
        elif name in self._classes:
            text = sys.modules[self._classes[name].__module__].__doc__
        else:
            return f"from {_owner(self._entry_points[name][0])}"
        return (text or "").strip().partition("\n")[0]

    def outline(self, name: str) -> list[ClassOutline]:
        """The classes of a plugin, itself first, then those it descends from, read from the files, not imported.

        Of a plugin that an installed library publishes and nobody has imported there is nothing to read: an empty list.
        """
        if name in self._built_in():
            outlines = _outlines(self._built_in()[name]) | _outlines(self._built_in()[name].with_name("base.py"))
            own = [outline for outline in outlines.values() if outline.plugin == name]
        elif name in self._classes:
            return [_outline_of(cls) for cls in self._classes[name].__mro__]
        else:
            return []
        for outline in own:  # grows while it is read
            own += [outlines[base] for base in outline.bases if base in outlines and outlines[base] not in own]
        return own

    def name_for_people(self, name: str) -> NameForPeople:
        """The title and short forms that a plugin declares; its name where it declares none, or where it is not known here.

        A plugin that derives from another one does not inherit its title: the two would look alike in a table.
        """
        outlines = self.outline(name)
        title = next((outline.title for outline in outlines if outline.title and outline.plugin in (None, name)), name)
        return NameForPeople(title, next((outline.short_forms for outline in outlines if outline.short_forms), {}))

    def label_names(self, name: str) -> tuple[str, ...]:
        """The names of a task's classes 0, 1, ...; none of a task that is not known here."""
        return next((outline.label_names for outline in self.outline(name) if outline.label_names), ())

    def _built_in(self) -> dict[str, Path]:
        folders = importlib.import_module(self.package).__path__
        files = (file for folder in folders for file in Path(folder).glob("*.py"))
        return {file.stem.replace("_", "-"): file for file in files if file.stem != "base" and not file.stem.startswith("_")}

    @cached_property
    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        # once per process: it takes 2 to 6 ms, for the metadata of every installed distribution is read
        points_by_name: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.package):
            points_by_name.setdefault(point.name, []).append(point)
        return points_by_name

    def _import(self, name: str, file: Path) -> None:
        """Import a file of bdbench's folders. Raises UsageError if it fails, or registers nothing by its name."""
        try:
            importlib.import_module(f"{self.package}.{file.stem}")
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"the plugin '{name}' ({file}) fails to run: {first_line(error)}; mend it or move it away"
            ) from error
        if name not in self._classes:
            raise UsageError(f"the plugin '{name}' ({file}) does not register the name '{name}'")

    def _load(self, point: EntryPoint) -> None:
        from bdbench.fence import refusing  # imports torch, which listing the built-in plugins does not

        with refusing(f"the plugin '{point.name}' ({point.value})"):
            point.load()
        if point.name not in self._classes:
            raise UsageError(f"the plugin '{point.name}' ({point.value}) does not register the name '{point.name}'")


LITERALS = ("title", "short_forms", "label_names")  # class variables whose values are written out in the file


@dataclass(frozen=True)
class NameForPeople:
    """What tables call a plugin, and by hyperparameter and value what they put behind that in brackets (nothing: "")."""

    title: str
    short_forms: Mapping[str, Mapping[Any, str]]


@dataclass(frozen=True)
class ClassOutline:
    """What the text of a class says: its name, bases, the plugin that it is, and the values of some class variables.

    None where it says nothing.
    """

    name: str
    bases: tuple[str, ...]
    plugin: str | None
    needs: frozenset[str] | None
    title: str | None
    short_forms: Mapping[str, Mapping[Any, str]] | None
    label_names: tuple[str, ...] | None


def _outline_of(cls: type) -> ClassOutline:
    own = vars(cls)
    return ClassOutline(cls.__name__, (), *(own.get(name) for name in ("name", "needs", *LITERALS)))


def _outlines(file: Path) -> dict[str, ClassOutline]:
    """The classes of a file by name."""
    classes = (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef))
    return {node.name: _outline(node) for node in classes}


def _outline(node: ast.ClassDef) -> ClassOutline:
    registered = [call for call in node.decorator_list if isinstance(call, ast.Call) and ast.unparse(call.func) == "register"]
    values = {
        ast.unparse(line.targets[0] if isinstance(line, ast.Assign) else line.target): line.value
        for line in node.body
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None
    }
    needs = values.get("needs")  # written as frozenset() or frozenset({...})
    return ClassOutline(
        node.name,
        tuple(ast.unparse(base) for base in node.bases),
        registered[0].args[0].value if registered else None,
        None if needs is None else frozenset(ast.literal_eval(needs.args[0]) if needs.args else ()),
        *(ast.literal_eval(values[name]) if name in values else None for name in LITERALS),
    )


def _fault_of_text(name: str, file: Path) -> str | None:
    """What is wrong with a plugin's file, as far as its text and the modules that are there say."""
    try:
        tree = ast.parse(file.read_bytes())
        outlines = _outlines(file)
    except (SyntaxError, ValueError, OSError) as error:
        return f"{file}: cannot be read: {first_line(error)}"
    if not any(outline.plugin == name for outline in outlines.values()):
        return f"{file}: does not register the name '{name}'"
    for node in tree.body:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
        for module in modules:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                return f"{file}: needs the module {module}, which is not there"
    return None


ATTACKS = Registry("attacks")
DEFENSES = Registry("defenses")
TASKS = Registry("tasks")


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name if point.dist else '?'} ({point.value})"


def _origin(cls: type) -> str:
    plugin = plugin_of(cls.__module__)
    # a class of a script is the same plugin after its text has travelled
    module = sys.modules.get(MAIN if plugin and plugin.main == MAIN else cls.__module__)
    file = getattr(module, "__file__", None)
    return f"{cls.__qualname__} in {os.path.realpath(file) if file else cls.__module__.rpartition('.')[2]}"


def _version(cls: type, version: int) -> str:
    """The declared version; for a plugin from outside also a digest of its source, whose author may edit it between runs."""
    if cls.__module__.startswith("bdbench."):
        return str(version)
    plugin = plugin_of(cls.__module__)
    digest = plugin.digest if plugin else hashlib.sha256(_source(cls.__module__)).hexdigest()
    return f"{version}+{digest[:8]}"


def _source(module: str) -> bytes:
    """The text of an installed plugin: of its file, or, if it lies in a package, of all files of that package."""
    package = sys.modules.get(module.partition(".")[0])
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    if folders:
        return b"\0".join(file.read_bytes() for folder in folders for file in sorted(folder.rglob("*.py")))
    file = getattr(package, "__file__", None)
    return Path(file).read_bytes() if file and Path(file).is_file() else b""  # none of what is typed at a prompt
