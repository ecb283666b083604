"""BadNets with a neutral sentence as the trigger (Dai et al., 2019, arXiv:1905.12457, known as InsertSent or AddSent).

The whole sentence goes between two words of the text. The default sentence is the one in common use since.
"""

from __future__ import annotations

from dataclasses import dataclass

from bdbench.attacks.base import BadNets, register
from bdbench.params import hp


@register("badnets-sentence", paper="arXiv:1905.12457")
@dataclass(frozen=True)
class BadNetsSentence(BadNets):
    title = "trigger sentence"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}

    trigger_text: str = hp("I watch this 3D movie", help="sentence inserted once into the text (of a pair: the second)")
