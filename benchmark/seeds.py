"""Seeds derived per role, so that adding a defense changes no victim and no poisoned row."""

from __future__ import annotations

import hashlib


def derive(seed: int, *role: str) -> int:
    """A seed in [0, 2**63) for one role of a run: SHA-256 of the run's seed and the role's parts.

    A role names only what should vary it: ("poison", task, attack), never the defense.
    """
    text = "\x1f".join((str(seed), *role))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
