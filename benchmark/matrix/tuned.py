"""What `bdbench tune` chose, as defenses of a run: checked against the plugins here, each behind the default it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdbench.errors import UsageError
from bdbench.matrix.tuned_files import AGAIN, TunedFile
from bdbench.protocol.plugins import plugin_spec
from bdbench.registry import DEFENSES
from bdbench.specs.tuned import Tuned, TunedSetting
from bdbench.specs.work import PluginSpec

Defense = tuple[Any, ...]  # built components


@dataclass(frozen=True)
class Choice:
    """A setting for one of the run's tasks and defenses, its default and the choice built.

    `selected` is the defense of the run that it comes behind: the default if that is run, else the last of the same names.
    """

    setting: TunedSetting
    selected: Defense
    default: Defense
    chosen: Defense


@dataclass(frozen=True)
class TunedDefenses:
    """The defenses of a run, and what tunings chose for them; `warnings` are for the user."""

    defenses: tuple[Defense, ...]
    choices: tuple[Choice, ...]
    warnings: tuple[str, ...] = ()

    @property
    def all(self) -> list[Defense]:
        """Every defense of the run, each once: as it was selected, and as it was tuned for some task."""
        return list(dict.fromkeys([*self.defenses, *(choice.chosen for choice in self.choices)]))

    def of(self, task: str, attack: str) -> list[Defense]:
        """The defenses to be run on the victims of this task and attack: the tuned behind the selected, each once."""
        choices = [choice for choice in self.choices if choice.setting.task == task and choice.setting.is_for(attack)]
        with_tuned: list[Defense] = []
        for defense in self.defenses:
            with_tuned += [defense, *(choice.chosen for choice in choices if choice.selected == defense)]
        return list(dict.fromkeys(with_tuned))


def tuned_defenses(
    files: Sequence[TunedFile], tasks: Sequence[str], attacks: Sequence[str], defenses: Sequence[Defense]
) -> TunedDefenses:
    """What the files chose for these tasks, names of attacks, and defenses.

    Raises UsageError if a file has nothing for them, or a setting that the plugins here do not take.
    """
    choices: list[Choice] = []
    warnings: list[str] = []
    for file in files:
        of_file = _choices(file, tasks, attacks, defenses)
        choices += of_file
        warnings += _warnings(file, of_file, tasks, defenses)
    return TunedDefenses(tuple(defenses), tuple(choices), tuple(warnings))


def _choices(file: TunedFile, tasks: Sequence[str], attacks: Sequence[str], defenses: Sequence[Defense]) -> list[Choice]:
    selected = {_names(defense) for defense in defenses if not _is_undefended(defense)}
    settings = [
        setting
        for setting in file.tuned.settings
        if setting.task in tasks and _names(setting.default) in selected and any(map(setting.is_for, attacks))
    ]
    if not settings:
        raise UsageError(
            f"{file.file}: it has nothing for this run; {_contents(file.tuned)}: select some of these with -T, -a, -d"
        )
    return [_choice(file.file, setting, defenses) for setting in settings]


def _choice(file: Path, setting: TunedSetting, defenses: Sequence[Defense]) -> Choice:
    default, chosen = _built(file, setting.default), _built(file, setting.chosen)
    if _names(chosen) != _names(default):
        raise UsageError(f"{file}: it chose {_joined(chosen)} for {_joined(default)}; give one that bdbench tune wrote")
    selected = default if default in defenses else _last_named_as(default, defenses)
    return Choice(setting, selected, default, chosen)


def _contents(tuned: Tuned) -> str:
    tasks = sorted({setting.task for setting in tuned.settings})
    defenses = sorted({_joined(setting.default) for setting in tuned.settings})
    text = f"it has tasks {', '.join(tasks) or '(none)'}, defenses {', '.join(defenses) or '(none)'}"
    attacks = sorted({attack for setting in tuned.settings for attack in setting.attacks or ()})
    return text + (f", attacks {', '.join(attacks)}" if attacks else "")


def _built(file: Path, defense: Sequence[PluginSpec]) -> Defense:
    """The components. Raises UsageError unless the plugins here have the same version and hyperparameters."""
    parts = []
    for spec in defense:
        try:
            cls = DEFENSES.get(spec.name)
            if cls.version != spec.version:
                raise UsageError(f"it tuned version {spec.version} of {spec.name}, this is version {cls.version}")
            part = cls.build(spec.params)
            differing = [name for name, value in part.values().items() if spec.params.get(name) != value]
            if differing:
                raise UsageError(f"it has no value of {spec.name}.{differing[0]} that could be used")
        except UsageError as error:
            raise UsageError(f"{file}: {error}; {AGAIN}") from error
        parts.append(part)
    return tuple(parts)


def _warnings(file: TunedFile, choices: Sequence[Choice], tasks: Sequence[str], defenses: Sequence[Defense]) -> list[str]:
    """What of the file is not used, what of the run is not in the file, and where the two differ."""
    warnings = []
    in_run = {_joined(defense) for defense in defenses}
    if unused := sorted({_joined(setting.default) for setting in file.tuned.settings} - in_run):
        warnings.append(f"{file.file}: it also tuned {', '.join(unused)}: not in this run; add them to -d")
    for default in dict.fromkeys(choice.default for choice in choices):
        tuned_on = {choice.setting.task for choice in choices if choice.default == default}
        if lacking := [task for task in tasks if task not in tuned_on]:
            warnings.append(f"{file.file}: it did not tune {_joined(default)} on {', '.join(lacking)}: no tuned cells there")
        if default not in defenses:
            difference = _difference(default, _last_named_as(default, defenses))
            warnings.append(
                f"{file.file}: it tuned {_joined(default)} from another default than this run's ({difference}), which tables "
                "cannot show beside it; select that one, too"
            )
    return warnings


def _difference(default: Defense, here: Defense) -> str:
    """`fine-mixing.search=False, here True`: the first hyperparameter that differs."""
    for there_part, here_part in zip(default, here, strict=True):
        values = plugin_spec(here_part).params
        for name, value in plugin_spec(there_part).params.items():
            if values[name] != value:
                return f"{there_part.name}.{name}={value}, here {values[name]}"
    raise ValueError("the defenses are equal")


def _names(defense: Sequence[Any]) -> tuple[str, ...]:
    return tuple(part.name for part in defense)


def _joined(defense: Sequence[Any]) -> str:
    return "+".join(_names(defense))


def _last_named_as(default: Defense, defenses: Sequence[Defense]) -> Defense:
    """The last selected defense with the same components."""
    return next(defense for defense in reversed(defenses) if _names(defense) == _names(default))


def _is_undefended(defense: Defense) -> bool:
    return all(part.unchanged for part in defense)
