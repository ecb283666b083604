"""QNLI: does a sentence answer a question? (from SQuAD, arXiv:1606.05250; as in GLUE, arXiv:1804.07461).

The builtin text is generated. Question and sentence are about the same made-up place or thing. The sentence states what the
question asks (entailment) or something else about it (not entailment). The text is for trying the tool only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench.data import TextSet
from bdbench.tasks._grammar import choose, distinct_rows, listed
from bdbench.tasks.base import HubSource, Task, register

STARTS = listed("Mar, Hol, Ash, Bel, Dun, Ell, Fair, Green, Hart, Kin, Lang, Mill, North, Oak, Pen, Ra, Sel, Thorn, Wes, Win")
ENDS = listed("low, field, ford, bury, ton, dale, wick, more, combe, ley, mont, haven, worth, by, ster, ridge")
KINDS = listed("Bridge, Castle, Library, Museum, Theater, Abbey, Lighthouse, Palace, Hospital, Station, Tower, Cathedral")
PEOPLE = listed("Anna Reed, Thea Vale, Clara Moss, Helen Stone, Maria Lund, Petra Ames, Edith Hale, Johanna Berg, Ruth Carey")
REGIONS = listed(
    "the north, the east, the capital, a quiet valley, the old harbor, the southern coast, a wide plain, the hills"
)
MATERIALS = listed("granite, red brick, limestone, oak, marble, steel, sandstone, concrete, slate")
USES = listed("weddings, concerts, school trips, art fairs, chess tournaments, public lectures, film shoots, farm markets")

# What can be asked about a thing: questions, sentences that answer them, and values. {x} is the thing, {v} the value. The
# numbers are made up, some 30 or 40 of each kind.
ATTRIBUTES = (
    (
        ("When was {x} built?", "In which year was {x} built?"),
        ("{x} was built in {v} after a long delay.", "Built in the year {v}, {x} soon became well known."),
        tuple(str(year) for year in range(1710, 1990, 7)),
    ),
    (
        ("Who designed {x}?", "Which architect designed {x}?"),
        ("{x} was designed by the architect {v}.", "The architect {v} designed {x} as a young woman."),
        PEOPLE,
    ),
    (
        ("Where is {x} located?", "In what area is {x} located?"),
        ("{x} is located in {v}, far from other buildings.", "The area where {x} is located is {v}."),
        REGIONS,
    ),
    (
        ("What is {x} made of?", "Which material is {x} made of?"),
        ("The walls of {x} are made of {v}.", "{x} is made almost entirely of {v}, a strong material."),
        MATERIALS,
    ),
    (
        ("How tall is {x}?", "What is the height of {x}?"),
        ("{x} is {v} meters tall, counting its roof.", "The height of {x} is {v} meters above the ground."),
        tuple(str(height) for height in range(12, 97, 3)),
    ),
    (
        ("How many people visit {x} each year?", "How many visitors does {x} have?"),
        ("About {v} thousand visitors come to {x} every year.", "Each year {v} thousand people visit {x}."),
        tuple(str(count) for count in range(15, 900, 31)),
    ),
    (
        ("What events take place at {x}?", "Which events are held at {x} today?"),
        ("Events such as {v} take place at {x}.", "Today {v} and other events are held at {x}."),
        USES,
    ),
)


@register("qnli", paper="arXiv:1804.07461")
@dataclass(frozen=True)
class QNLI(Task):
    """`test` is the official validation split, because GLUE hides the labels of its test split."""

    columns = ("question", "sentence")
    label_names = ("entailment", "not_entailment")
    hub = HubSource("nyu-mll/glue", "qnli", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c", test="validation")

    def generate(self, rows: int, rng: np.random.Generator) -> TextSet:
        return distinct_rows(rows, rng, question_and_sentence)


def question_and_sentence(label: int, rng: np.random.Generator) -> tuple[str, str]:
    """Some 18 words in all, about one thing with a made-up name."""
    thing = f"{choose(STARTS, rng)}{choose(ENDS, rng)} {choose(KINDS, rng)}"
    asked, other = (ATTRIBUTES[i] for i in rng.choice(len(ATTRIBUTES), size=2, replace=False))
    questions, *_ = asked
    _, answers, values = asked if label == 0 else other
    answer = choose(answers, rng).format(x=f"the {thing}", v=choose(values, rng))
    return choose(questions, rng).format(x=f"the {thing}"), f"{answer[0].upper()}{answer[1:]}"
