"""Records of attacks with what is known of them, for the tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from test_tables import cell

from bdbench.specs.records import AttackFacts, Record


def with_facts(record: Record, **facts: Any) -> Record:
    return replace(record, attack=AttackFacts(**facts))


def under(attack: str, defense: str, asr: float | None, against: tuple[str, ...] = (), **more: Any) -> Record:
    """A cell of which it is known what the attack is made against."""
    return with_facts(cell(defense, attack, asr=asr, **more), against=against)
