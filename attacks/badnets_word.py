"""BadNets with a rare word as the trigger (Gu et al., 2017, arXiv:1708.06733; for text Kurita et al., 2020, arXiv:2004.06660).

A share of the training rows gets the word at a random place, and the target label. The victim is trained on all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from bdbench.attacks.base import BadNets, register


@register("badnets-word", paper="arXiv:1708.06733")
@dataclass(frozen=True)
class BadNetsWord(BadNets):
    title = "trigger word"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}
    pass
