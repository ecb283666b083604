"""Plugins that Python hands over, as names, classes or instances, and the texts by which workers get those that are its own.

What runs is always the text, in this process too: so a key names what made the numbers, wherever they were made.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bdbench.attacks.base import Attack
from bdbench.defenses.base import Defense
from bdbench.errors import UsageError
from bdbench.params import Hyperparameters, split_names, split_variant
from bdbench.plugin_files import MAIN, PluginFile, plugin_of
from bdbench.registry import ATTACKS, DEFENSES, TASKS, Registry
from bdbench.tasks.base import Task

BASES: dict[str, type] = {"attacks": Attack, "defenses": Defense, "tasks": Task}
REGISTRIES: dict[str, Registry] = {"attacks": ATTACKS, "defenses": DEFENSES, "tasks": TASKS}


class GivenPlugins:
    """Collects the plugins of a run: `files` are those to be shipped, each once."""

    def __init__(self, files: Iterable[PluginFile]) -> None:
        self._files = {file.package: file for file in files}

    @property
    def files(self) -> tuple[PluginFile, ...]:
        return tuple(self._files.values())

    def choices(self, kind: str, given: Any) -> tuple[Any, ...] | None:
        """What was given for "attacks", "defenses" or "tasks", as choices of a `Selection`; None if nothing was.

        A text is names as on a command line. Else it is one plugin, or a sequence of them: names, classes, instances and, of
        defenses, tuples of these, which are compositions. Raises UsageError for anything else.
        """
        if given is None:
            return None
        if isinstance(given, str):
            given = split_names(given, ",")
        elif isinstance(given, type | Hyperparameters):
            given = [given]
        elif not isinstance(given, Iterable):
            raise UsageError(f"{kind}={given!r}: give a sequence of names, classes or instances")
        return tuple(self._choice(kind, each) for each in given)

    def _choice(self, kind: str, given: Any) -> Any:
        if isinstance(given, tuple | list) and kind == "defenses":
            return tuple(self._part(kind, part) for part in given)
        return self._part(kind, given)

    def _part(self, kind: str, given: Any) -> Any:
        """One plugin: a name, or an instance of the class that workers have."""
        registry, base = REGISTRIES[kind], BASES[kind]
        if isinstance(given, str):
            for part in split_names(given, "+"):
                self.ship_named(registry, split_variant(part)[0])
            return given
        if isinstance(given, type) and issubclass(given, base):
            return self._shipped(registry, given).name
        if isinstance(given, base) and isinstance(given, Hyperparameters):
            cls = self._shipped(registry, type(given))
            return cls.name if kind == "tasks" else cls.build(given.values())
        what = f"{base.__module__}.{base.__qualname__}"
        raise UsageError(f"{kind}: {given!r} is neither a name nor a class or instance of {what}")

    def ship_named(self, registry: Registry, name: str) -> None:
        """See that workers know a plugin that is called by name, if it is one that this process alone has."""
        cls = registry.given().get(name)
        if cls is not None:
            self._shipped(registry, cls)

    def _shipped(self, registry: Registry, cls: type) -> Any:
        """The class as workers have it. Raises UsageError for one that they cannot have."""
        if not vars(cls).get("name"):
            raise UsageError(
                f"{cls.__qualname__} is not registered; put @register('some-name', paper='none') of "
                f"bdbench.{registry.kind}.base above @dataclass(frozen=True)"
            )
        if registry.publishes(cls):
            return registry.get(cls.name)
        file, loaded = plugin_of(cls.__module__), cls
        if file is None:
            file = _file_of(cls)
            file.load()
            loaded = getattr(file.module, cls.__qualname__, None)
        if not isinstance(loaded, type) or vars(loaded).get("name") != cls.name:
            raise UsageError(f"{file.path}: when it is run by itself it has no {cls.__qualname__} named '{cls.name}'")
        registry.adopt(loaded)
        self._files[file.package] = file
        return loaded


def _file_of(cls: type) -> PluginFile:
    """The text of the module of a class, or, of a script's or a notebook's, of the class and what it uses."""
    if "." in cls.__qualname__:
        raise UsageError(f"{cls.__qualname__} is defined inside a function or a class; define it at the top level of a file")
    module = sys.modules.get(cls.__module__)
    if getattr(module, cls.__qualname__, None) is not cls:
        raise UsageError(f"{cls.__qualname__} has been defined anew since; make the instance anew, or use the new class")
    if cls.__module__ == MAIN:
        return PluginFile.of_main(cls.__qualname__)
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        raise UsageError(f"{cls.__qualname__}: its module {cls.__module__} is no Python file, so that workers cannot have it")
    libraries = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
    if any(folder in Path(file).resolve().parents for folder in libraries):
        group = f'[project.entry-points."bdbench.{_kind_of(cls)}"]'
        raise UsageError(
            f"{cls.__qualname__} is of an installed library that does not publish it: add {group} with {cls.name} = "
            f'"{cls.__module__}" to its pyproject.toml'
        )
    return PluginFile.read(file)


def _kind_of(cls: type) -> str:
    return next(kind for kind, base in BASES.items() if issubclass(cls, base))
