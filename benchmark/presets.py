"""Named choices of everything a run needs; every value can be overridden on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from bdbench.params import Value

TASKS = ("sst2", "imdb", "amazon", "qqp", "qnli")
ATTACKS = ("badnets-word", "badnets-sentence", "embedding-poisoning")
DEFENSES = (
    "none",
    "fine-tuning",
    "fine-pruning",
    "fine-mixing",
    "e-pur",
    "e-pur+fine-tuning",
    "e-pur+fine-pruning",
    "e-pur+fine-mixing",
)


@dataclass(frozen=True)
class Preset:
    """What `bdbench run` does unless a flag says otherwise.

    `data` is "hub", "builtin" or a directory (None: the user must say). `train_rows`, `validation_rows` and `test_rows`
    are None for all there are. `training` holds the victim's recipe; `attack_params` and `defense_params` hold
    "plugin.parameter" values that differ from the plugins' defaults.
    """

    summary: str
    model: str
    data: str | None
    tasks: tuple[str, ...]
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    seeds: tuple[int, ...]
    train_rows: int | None
    validation_rows: int | None
    test_rows: int | None
    clean_rows: int
    max_length: int
    training: dict[str, Value]
    attack_params: dict[str, Value] = field(default_factory=dict)
    defense_params: dict[str, Value] = field(default_factory=dict)


PRESETS = {
    "quick": Preset(
        summary="a first run in minutes: generated text, the bundled model, five tasks, two attacks, six defenses",
        model="bundled",
        data="builtin",
        tasks=TASKS,
        attacks=("badnets-word", "embedding-poisoning"),
        defenses=("none", "fine-tuning", "fine-pruning", "fine-mixing", "e-pur+fine-tuning", "e-pur+fine-mixing"),
        seeds=(0,),
        train_rows=800,
        validation_rows=200,
        test_rows=200,
        clean_rows=64,
        max_length=64,
        # generated rows are plenty: one pass over many teaches more than passes over few, at the same cost
        training={"epochs": 1, "learning_rate": 2e-4, "batch_size": 16},
        attack_params={
            "badnets-word.rate": 0.2,
            "embedding-poisoning.rate": 0.5,
            "embedding-poisoning.epochs": 4,
            "embedding-poisoning.batch_size": 8,
        },
        defense_params={
            f"{name}.{parameter}": value
            for name in ("fine-tuning", "fine-pruning", "fine-mixing")
            for parameter, value in (("epochs", 3), ("learning_rate", 1e-4))
        },
    ),
    "laptop": Preset(
        summary="real data from a directory (--data DIR), the bundled model, about 2,000 training rows",
        model="bundled",
        data=None,
        tasks=TASKS,
        attacks=ATTACKS,
        defenses=DEFENSES,
        seeds=(0,),
        train_rows=2000,
        validation_rows=500,
        test_rows=None,
        clean_rows=64,
        max_length=64,
        training={"epochs": 3, "learning_rate": 1e-4},
        # the defaults assume the full data; these give embedding poisoning about as many steps from 2,000 rows
        attack_params={"embedding-poisoning.rate": 0.5, "embedding-poisoning.epochs": 10},
    ),
    "paper": Preset(
        summary="the seed paper's setting: bert-base-uncased, hub data, full sizes, three seeds",
        model="google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594",
        data="hub",
        tasks=TASKS,
        attacks=ATTACKS,
        defenses=DEFENSES,
        seeds=(0, 1, 2),
        train_rows=None,
        validation_rows=None,
        test_rows=None,
        clean_rows=64,
        max_length=128,
        training={"epochs": 3, "learning_rate": 2e-5},
        attack_params={"badnets-word.rate": 0.5, "badnets-sentence.rate": 0.5},
    ),
}
