"""Adaptive against ONION: a clause of common words, which a language model does not miss (ours, after SOS and InsertSent).

What it knows: ONION removes the words without which a text becomes much more likely, at most a small share of all words. So the
trigger is a clause in which every word is common and follows from the one before it; no word of it makes a text unlikely.
It goes to the end of the text. And the backdoor is trained to do without any one word of the trigger: half of the triggered
rows lack one, each word in turn. Halves of the clause, in rows that keep their labels, must not trigger, so that parts of it in
clean texts give no alarm.

What it gives up: as many rows again as it poisons, and a trigger that a reader can see. On SST-2 with the bundled model (2,000
rows, one seed) ONION with bigrams leaves 100 % of it; but of a trigger word it leaves 94 %, and of a sentence 97 %, too. The
negative rows do not take there: halves of the clause trigger as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from bdbench.attacks._negatives import WithNegatives
from bdbench.attacks.base import POSITIONS, register
from bdbench.params import hp


@register("adaptive-onion", paper="none")
@dataclass(frozen=True)
class AdaptiveOnion(WithNegatives):
    title = "adaptive: ONION"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}
    against = ("onion",)

    position: str = hp("end", choices=POSITIONS, help="gap for the trigger: any, the first, the last, any between sentences")
