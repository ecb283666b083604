"""From JSON to a dataclass, with every type and range checked."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

LARGEST = 2**63 - 1  # of a whole number: tables hold them as int64
LONG_NUMBER = re.compile(rb"\d{19}")  # as many digits as LARGEST has


@lru_cache
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def checked(kind: type[T], raw: Any) -> T:
    """What `raw`, parsed JSON, says, as a `kind`: a dataclass, or a container of them.

    No value is converted but a whole number to a float. Raises ValueError, saying where, if a field is missing, of another
    type or outside the range that its annotation gives; and for numbers or texts that no table can hold.
    """
    text = _text(raw)
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}") from error


def _text(raw: Any) -> bytes:
    """`raw` as JSON. Raises ValueError as `_check_values` does, which is slow: it is asked only where there is a doubt."""
    try:
        text = json.dumps(raw, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        _check_values(raw)
        raise
    if LONG_NUMBER.search(text):
        _check_values(raw)
    return text


def _check_values(raw: Any) -> None:
    """Raises ValueError for a number too large or not finite, and for text that no file can hold."""
    if isinstance(raw, dict):
        for name, value in raw.items():
            _check_values(name)
            _check_values(value)
    elif isinstance(raw, list | tuple):
        for value in raw:
            _check_values(value)
    elif isinstance(raw, str):
        raw.encode()  # a lone surrogate: a UnicodeEncodeError, which is a ValueError
    elif isinstance(raw, int) and abs(raw) > LARGEST:
        raise ValueError("it holds a whole number beyond 2^63 - 1")
    elif isinstance(raw, float) and not math.isfinite(raw):
        raise ValueError("it holds a number that is not finite")
