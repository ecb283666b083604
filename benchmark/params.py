"""Hyperparameters declared once: as the fields of a frozen dataclass, each with its default, range and help.

Four readers share the declaration: the constructor (types and ranges), the command line (`-D fine-mixing.ratio=0.3`), the
record (`dataclasses.asdict`) and a tuner (`Allowed.searched`).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from bdbench.errors import UsageError, nearest
from bdbench.portable import is_encodable

Value = bool | int | float | str
LARGEST = 2**63 - 1  # of a whole number: records hold them as int64
_TYPES = {"bool": bool, "int": int, "float": float, "str": str}


@dataclass(frozen=True)
class Allowed:
    """What one hyperparameter may be: a closed range [low, high] (None is unbounded) or one of `choices`.

    For a tuner: `tuned` says whether it may change the value at all, `search` is the closed range that it searches (None: all
    that is allowed), and `log` that it does so on a logarithmic scale. `aggressive` says which values remove more of the
    victim, the "low" or the "high" ones; None if neither.

    A field that is `later` came after the first records: while it has its default, no key and no record names it, so that
    what was done before it came is still the same work.
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    log: bool = False
    tuned: bool = True
    search: tuple[float, float] | None = None
    aggressive: Literal["low", "high"] | None = None
    later: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a range to be searched that is empty, leaves what is allowed, or has no logarithm."""
        low, high = self.search or (self.low, self.high)
        if self.search and (low >= high or any(map(self.refuses, self.search))):
            raise ValueError(f"search={self.search} is no range within {self.bounds() or 'the real numbers'}")
        if self.log and self.tuned and (low is None or low <= 0):
            raise ValueError("log=True needs a range above 0; give search=(low, high)")

    def searched(self) -> tuple[float, float] | None:
        """The closed range that a tuner searches; None where there is none, so that it leaves the value alone."""
        if self.search or self.low is None or self.high is None:
            return self.search
        return self.low, self.high

    def tuning(self) -> str:
        """What a tuner does with it, in brackets."""
        if not self.tuned:
            return "(not tuned)"
        notes = [f"searched in [{self.search[0]:g}, {self.search[1]:g}]"] if self.search else []
        notes += ["log scale"] if self.log else []
        notes += [f"aggressive: {self.aggressive}"] if self.aggressive else []
        return f"({', '.join(notes)})" if notes else ""

    def bounds(self) -> str:
        """The range or the choices in brackets, or nothing if any value will do."""
        if self.choices is not None:
            return f"[{', '.join(self.choices)}]"
        if self.low is None and self.high is None:
            return ""
        return f"[{'-inf' if self.low is None else self.low}, {'inf' if self.high is None else self.high}]"

    def refuses(self, value: Value) -> str | None:
        """Why `value` is refused, as the end of a sentence, or None."""
        if self.choices is not None and value not in self.choices:
            return f"is not one of {self.bounds()}"
        if isinstance(value, str):
            return None if is_encodable(value) else "is not UTF-8"
        if isinstance(value, int) and abs(value) > LARGEST:
            return "is beyond 2^63 - 1"
        if isinstance(value, float) and not math.isfinite(value):
            return "is not a finite number"
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            return f"is outside {self.bounds()}"
        return None


def hp(
    default: Value,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    log: bool = False,
    tuned: bool = True,
    search: tuple[float, float] | None = None,
    aggressive: Literal["low", "high"] | None = None,
    later: bool = False,
) -> Any:
    """A dataclass field that is a hyperparameter of type bool, int, float or str; see `Allowed`.

    A tuner leaves a number without bounds and a text without choices alone.
    """
    allowed = Allowed(help, low, high, choices, log, tuned, search, aggressive, later)
    return dataclasses.field(default=default, metadata={"hp": allowed})


@dataclass(frozen=True)
class Hyperparameters:
    """Base of every class with hyperparameters. Construction checks types and ranges and does no other work.

    A plugin may declare how tables call it: a `title`, and `short_forms` of values, by hyperparameter, that they put behind it
    in brackets; "" for a value that goes without saying. Both are literals, since listing reads them without an import.

    Raises UsageError for a value of the wrong type or outside its range.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    short_forms: ClassVar[Mapping[str, Mapping[Value, str]]] = {}

    def __post_init__(self) -> None:
        for field in hyperparameters(type(self)):
            value = _converted(type(self), field, getattr(self, field.name))
            why = field.metadata["hp"].refuses(value)
            if why:
                raise UsageError(f"{_owner(type(self))}.{field.name}={value} {why}: {field.metadata['hp'].help}")
            object.__setattr__(self, field.name, value)

    @classmethod
    def build(cls, values: Mapping[str, Value]) -> Self:
        """An instance with `values` (or strings from a command line) over the defaults.

        Raises UsageError for a name that is not a hyperparameter, naming the nearest.
        """
        known = [field.name for field in hyperparameters(cls)]
        for name in values:
            if name not in known:
                has = ", ".join(known) or "none"
                raise UsageError(f"{_owner(cls)} has no hyperparameter '{name}'{nearest(name, known)}; it has: {has}")
        return cls(**values)

    def values(self) -> dict[str, Value]:
        """Name to value, for a record."""
        fields_and_values = [(field, getattr(self, field.name)) for field in hyperparameters(type(self))]
        return {
            field.name: value
            for field, value in fields_and_values
            if not (field.metadata["hp"].later and value == field.default)
        }


def split_names(text: str, separator: str) -> list[str]:
    """ "a[x=1,y=2],b" at "," -> ["a[x=1,y=2]", "b"]: cut at separators outside brackets; blanks and empty parts are dropped."""
    parts = re.split(rf"{re.escape(separator)}(?![^\[]*\])", text)
    return [part.strip() for part in parts if part.strip()]


def split_variant(text: str) -> tuple[str, dict[str, Value]]:
    """ "badnets-word[start=clean,rate=0.5]" -> ("badnets-word", {"start": "clean", "rate": "0.5"}).

    Raises UsageError if what follows the name is not such a list.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", text)
    values = [part.partition("=") for part in split_names(match[2] or "", ",")] if match else []
    if match is None or not all(equals and name.strip() for name, equals, _ in values):
        raise UsageError(f"'{text}' is not a name with values in brackets, such as badnets-word[start=clean,rate=0.5]")
    return match[1].strip(), {name.strip(): value.strip() for name, _, value in values}


def hyperparameters(cls: type) -> list[dataclasses.Field]:
    """The hyperparameter fields of a dataclass, in order; each has an `Allowed` at `metadata["hp"]`."""
    return [field for field in dataclasses.fields(cls) if "hp" in field.metadata]


def _owner(cls: type[Hyperparameters]) -> str:
    return cls.name or cls.__name__


def _converted(cls: type[Hyperparameters], field: dataclasses.Field, value: Value) -> Value:
    """`value` in the field's declared type; a string is parsed, an int widens to float, nothing else changes type."""
    kind = _TYPES.get(field.type if isinstance(field.type, str) else getattr(field.type, "__name__", ""))
    if kind is None:
        raise TypeError(f"{_owner(cls)}.{field.name} is declared {field.type}; a hyperparameter is {', '.join(_TYPES)}")
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    if kind in (int, float) and isinstance(value, (str, int)) and not isinstance(value, bool):
        try:
            return kind(value)
        except (ValueError, OverflowError):
            pass
    if type(value) is not kind:
        raise UsageError(f"{_owner(cls)}.{field.name}={value!r} is not of type {kind.__name__}: {field.metadata['hp'].help}")
    return value
