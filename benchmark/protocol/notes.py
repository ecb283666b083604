"""What a plugin notes, checked before a record holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bdbench.specs.checked import checked


def checked_notes(notes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The notes of the plugin called `name`, as they come back from JSON. Raises TypeError where a record cannot hold them."""
    try:
        values = json.loads(json.dumps(notes, allow_nan=False, sort_keys=True))
        return checked(dict[str, Any], values)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"'{name}' puts into ctx.notes what JSON does not hold ({error}); note bool, int, finite float, str, list, dict"
        ) from error
