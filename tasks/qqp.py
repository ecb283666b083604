"""QQP: do two questions ask the same? (Quora Question Pairs; as in GLUE, arXiv:1804.07461).

The builtin text is generated. A duplicate asks the same about the same subject in other words. Otherwise either the subject
differs or what is asked about it. The text is for trying the tool only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench.data import TextSet
from bdbench.tasks._grammar import choose, choose_two, distinct_rows, listed
from bdbench.tasks.base import HubSource, Task, register

# One group per thing to ask: wordings of the same question. {} is the subject.
INTENTS = (
    (
        "What is the best way to learn {}?",
        "How can I learn {} without a teacher?",
        "What should a beginner do to learn {}?",
        "Which steps help me learn {} quickly?",
    ),
    (
        "How much does it cost to take up {}?",
        "How expensive is {} for most people?",
        "What is the price of taking up {}?",
        "How much money do people spend on {}?",
    ),
    (
        "Is {} a dangerous thing to do?",
        "How dangerous is {} for most people?",
        "What are the dangers and risks of {}?",
        "Can {} be dangerous for my body?",
    ),
    (
        "Who invented {} in the first place?",
        "Which person is the inventor of {}?",
        "When and by whom was {} invented?",
        "Who was the first to invent {}?",
    ),
    (
        "Which book about {} is the best?",
        "What is a good book about {}?",
        "Can you name some books that cover {}?",
        "What book should I read about {}?",
    ),
    (
        "Why is {} so popular these days?",
        "What makes {} so popular with people?",
        "How did {} become so popular?",
        "Why is {} popular all over the world?",
    ),
    (
        "Is {} good for my health?",
        "How healthy is {} for most people?",
        "What are the health benefits of {}?",
        "Does {} improve my health?",
    ),
    (
        "At what age can children start {}?",
        "Is {} a good choice for small children?",
        "Should I let my children try {}?",
        "Is {} suitable for young children?",
    ),
)
SUBJECTS = listed(
    "chess, photography, rock climbing, pottery, karate, ballet, gardening, surfing, knitting, cooking, poker, "
    "archery, sailing, boxing, skiing, yoga, calligraphy, fencing, painting, programming, juggling, fishing, "
    "skydiving, swimming, cycling, tennis, golf, carpentry, beekeeping, wrestling, baking, hiking, origami, opera, "
    "drumming, kayaking, rowing, badminton, sculpture, embroidery, magic, ice skating, horse riding, billiards, "
    "bowling, basketball, rugby, cricket, scuba diving, video editing, astronomy, birdwatching, bread making, candle "
    "making, cheerleading, comedy, dancing, dominoes, falconry, glass blowing, guitar playing, gymnastics, handball, "
    "hockey, jazz, jogging, judo, kite flying, leather work, model building, motor racing, mushroom hunting, "
    "paragliding, piano playing, pilates, poetry, puppetry, quilting, sewing, singing, snowboarding, soap making, "
    "softball, squash, table tennis, volleyball, water polo, weaving, weightlifting, wine tasting, wood carving, "
    "zumba"
)

OTHER_SUBJECT_SHARE = 0.5  # of the pairs that are no duplicates; in the rest something else is asked about the subject


@register("qqp", paper="arXiv:1804.07461")
@dataclass(frozen=True)
class QQP(Task):
    """`test` is the official validation split, because GLUE hides the labels of its test split."""

    columns = ("question1", "question2")
    label_names = ("not_duplicate", "duplicate")
    hub = HubSource("nyu-mll/glue", "qqp", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c", test="validation")

    def generate(self, rows: int, rng: np.random.Generator) -> TextSet:
        return distinct_rows(rows, rng, questions)


def questions(label: int, rng: np.random.Generator) -> tuple[str, str]:
    """Two questions of some 7 words each, never worded by the same template."""
    subject, other_subject = choose_two(SUBJECTS, rng)
    intent, other_intent = (INTENTS[i] for i in rng.choice(len(INTENTS), size=2, replace=False))
    one, two = choose_two(intent, rng)
    if label == 1:
        return one.format(subject), two.format(subject)
    if rng.random() < OTHER_SUBJECT_SHARE:
        return one.format(subject), two.format(other_subject)
    return one.format(subject), choose(other_intent, rng).format(subject)
