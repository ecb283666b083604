"""Amazon polarity: sentiment of product reviews, title and body (Zhang et al., 2015, arXiv:1509.01626).

The builtin text is generated. It is shorter than a real review, and for trying the tool only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench.data import TextSet
from bdbench.tasks._grammar import TURNED_SHARE, Opinions, choose, choose_two, distinct_rows, listed, sentence, with_article
from bdbench.tasks.base import HubSource, Task, register

PRODUCTS = listed(
    "kettle, backpack, desk lamp, blender, phone case, toaster, tent, headset, keyboard, garden hose, coffee "
    "grinder, wallet, umbrella, stroller, drill, cookbook, frying pan, alarm clock, yoga mat, bike pump, "
    "suitcase, jacket, puzzle, vacuum cleaner"
)
BUYERS = listed("my mother, the office, a camping trip, my new kitchen, our son, a friend, daily use, the garage")
DELIVERIES = listed("a week ago, last month, in the spring, before the holidays, two days late, in a brown box")

PRODUCT = Opinions(
    aspects=listed(
        "the handle, the build, the finish, the packaging, the battery, the lid, the material, the manual, the "
        "color, the size, the seller, the customer service, the stitching, the design, the switch, the price, the "
        "zipper, the fit, the grip, the performance"
    ),
    whole=listed("it, the product, the whole thing, this one, the item, my purchase"),
    adjectives=(
        listed(
            "flimsy, useless, defective, unreliable, awkward, shoddy, overpriced, disappointing, cheap, broken, "
            "faulty, terrible, horrible, worthless, fragile, frustrating, awful, uncomfortable, clumsy, crooked, "
            "annoying, dangerous, leaky, misleading, poor, rough, sloppy, noisy, weak, dreadful, unusable, inferior, "
            "brittle, unpleasant, lousy, pathetic, inadequate, ugly, careless, scratched, ineffective, junky, wobbly, "
            "smelly, ridiculous, unacceptable"
        ),
        listed(
            "sturdy, useful, flawless, reliable, handy, solid, affordable, impressive, durable, excellent, perfect, "
            "terrific, great, valuable, robust, wonderful, fantastic, comfortable, elegant, sleek, pleasant, safe, "
            "superb, honest, fine, smooth, neat, strong, lovely, practical, superior, dependable, delightful, "
            "brilliant, amazing, outstanding, beautiful, careful, effective, convenient, stable, fresh, "
            "sensible, splendid"
        ),
    ),
    verdicts=(
        listed(
            "broke after two days, went straight back to the store, does not do what it promises, was money down the "
            "drain, stopped working at once, let me down, fell to pieces, is not worth a cent, ruined my week, looks "
            "nothing like the photo, makes me regret buying, needs a refund"
        ),
        listed(
            "still works like new, has earned its place in our home, does everything it promises, was money well "
            "spent, worked right away, made my life easier, holds up very well, is worth every cent, made my week, "
            "looks even better than the photo, makes me glad I bought it, deserves five stars"
        ),
    ),
)


@register("amazon", paper="arXiv:1509.01626")
@dataclass(frozen=True)
class Amazon(Task):
    """`text` is "title: content".

    The hub has 3.6 million training and 400,000 test rows. A fixed seed draws 100,000 of them, of which validation is held out,
    and 20,000 for test. These sizes are our choice, of the order of the other
    tasks'.
    """

    columns = ("text",)
    label_names = ("negative", "positive")
    hub = HubSource(
        "fancyzhx/amazon_polarity",
        None,
        "9d9c45c18f8c3cf1b23a3c27917b60cbf28f3289",
        columns={"text": ("title", "content")},
        max_train=100_000,
        max_test=20_000,
    )

    def generate(self, rows: int, rng: np.random.Generator) -> TextSet:
        return distinct_rows(rows, rng, lambda label, rng: (review(label, rng),))


def review(label: int, rng: np.random.Generator) -> str:
    """Some 16 words. About one review in five names a quality of the other label as well, under a neutral title."""
    product, buyer = choose(PRODUCTS, rng), choose(BUYERS, rng)
    one, two = choose_two(PRODUCT.adjectives[label], rng)
    neutral = choose((f"My second {product}", f"{product} for {buyer}", f"Bought this {product}", f"New {product}"), rng)
    if rng.random() < TURNED_SHARE:
        return f"{neutral}: {sentence(f'arrived {choose(DELIVERIES, rng)}')} {sentence(PRODUCT.turned(label, rng))}"
    telling = choose((f"{one} {product}", f"{one} and {two}", f"Such {with_article(one)} {product}"), rng)
    title = choose((neutral, telling), rng)
    body = choose(
        (
            f"I ordered it for {buyer} and {PRODUCT.clause(label, rng)}",
            f"{PRODUCT.clause(label, rng)}, and for {buyer} {PRODUCT.clause(label, rng)}",
            f"it arrived {choose(DELIVERIES, rng)} and {PRODUCT.clause(label, rng)}",
        ),
        rng,
    )
    return f"{title[0].upper()}{title[1:]}: {sentence(body)}"
