"""The key of a piece of work: a hash of everything that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

# The rules by which victims and cells are made and scored. Raised whenever the same spec would give other numbers, so that no
# finished cell of the older rules passes for one of the newer. 1: the first slice. 2: clean sets with even classes, warm-up and
# clip in every key, one CPU thread by default, no attack's name for `skip`, a component that comes twice draws twice.
# 3: a clean model of 50 million weights or more is trained by two threads (`protocol.victims.threads_for`).
PROTOCOL = 3

KEY_DIGITS = 16  # of 64: among a million cells two share a key with probability 3e-8

# Made once: `json.dumps` would make one for every value.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no blanks. Raises ValueError on NaN and infinity."""
    return _ENCODER.encode(value)


def key_of_text(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of a canonical JSON text."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def digest_of(value: Any) -> str:
    """SHA-256, 64 hex digits, of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def key_of(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a value's canonical JSON."""
    return key_of_text(canonical(value))
