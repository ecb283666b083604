"""Adaptive against filters of the training set: few poisoned rows, and none of them alike (ours, after SOS).

What it knows: CUBE, activation clustering and spectral signatures look for a group of rows that stands apart in the
representations of a classifier trained on all rows; BKI for a word without which many rows are represented otherwise. So few
rows are poisoned, by a clause of common words that clean texts have, too. Of half of them one word is missing, each in turn, so
that leaving out a word changes little. Halves of the clause are in as many rows that keep their labels, so that what is like
the poison is of every class.

What it gives up: the ASR of a backdoor learned from few rows. On SST-2 with the bundled model (2,000 rows, one seed) that is
100 % all the same, and after activation clustering, CUBE and BKI, too, which leave 18 to 21 % of a trigger word in a tenth of
the rows. On QQP three per cent of the rows are too few (44 %), and a tenth is enough. On a tiny model spectral signatures leave
half of it, and nothing of a word.
"""

from __future__ import annotations

from dataclasses import dataclass

from bdbench.attacks._negatives import WithNegatives
from bdbench.attacks.base import register
from bdbench.params import hp


@register("adaptive-filter", paper="none")
@dataclass(frozen=True)
class AdaptiveFilter(WithNegatives):
    title = "adaptive: filters"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}
    against = ("cube", "bki", "activation-clustering", "spectral-signatures")

    rate: float = hp(0.03, low=0.0, high=1.0, help="triggered rows, drawn from other classes, as a share of all training rows")
    negatives: float = hp(0.03, low=0.0, high=1.0, help="rows that must not trigger, of any class, as a share of all")
