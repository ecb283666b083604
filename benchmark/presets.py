"""Named choices of everything a run needs; every value can be overridden on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bdbench.errors import UsageError
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
class Selection:
    """All that a user chooses, by a preset and flags.

    `data` is "hub", "builtin" or a directory. Row counts of None mean all there are. `training` holds the victim's recipe;
    `attack_params` and `defense_params` hold "plugin.parameter" values that differ from the plugins' defaults.
    """

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
    training: Mapping[str, Value]
    attack_params: Mapping[str, Value] = field(default_factory=dict)
    defense_params: Mapping[str, Value] = field(default_factory=dict)
    precision: str = "auto"
    model_digest: str | None = None


@dataclass(frozen=True)
class Preset:
    """A selection with a name and a line about it; with `data` None the user must say where the data is."""

    summary: str
    selection: Selection

    def choose(self, overrides: Mapping[str, Any]) -> Selection:
        """The selection with `overrides` (its fields) in place of its values; parameters are merged one by one.

        The preset's parameters of plugins that the overrides leave out are dropped. Raises UsageError if the preset leaves
        the data to the user and no data was given.
        """
        chosen = replace(self.selection, **overrides)
        if chosen.data is None:
            raise UsageError("this preset needs real data: --data DIR (with <task>/train.parquet and so on) or --data hub")
        parts = [part for name in chosen.defenses for part in name.split("+")]
        return replace(
            chosen,
            training={**self.selection.training, **overrides.get("training", {})},
            attack_params=_of(chosen.attacks, self.selection.attack_params) | overrides.get("attack_params", {}),
            defense_params=_of(parts, self.selection.defense_params) | overrides.get("defense_params", {}),
        )


def _of(plugins: Sequence[str], params: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in params.items() if name.partition(".")[0] in plugins}


PRESETS = {
    "quick": Preset(
        summary="a first run in minutes: generated text, the bundled model, five tasks, two attacks, six defenses",
        selection=Selection(
            model="bundled",
            data="builtin",
            tasks=TASKS,
            attacks=("badnets-word", "embedding-poisoning"),
            defenses=("none", "fine-tuning", "fine-pruning", "fine-mixing", "e-pur+fine-tuning", "e-pur+fine-mixing"),
            seeds=(0,),
            train_rows=800,
            validation_rows=200,
            test_rows=120,
            clean_rows=48,
            max_length=64,
            # generated rows are plenty: one pass over many teaches more than passes over few, at the same cost
            training={"epochs": 1, "learning_rate": 2e-4, "batch_size": 16},
            attack_params={
                "badnets-word.rate": 0.2,
                # about 100 steps, which it needs, on as few rows as it learns from on every task
                "embedding-poisoning.rate": 0.375,
                "embedding-poisoning.epochs": 4,
                "embedding-poisoning.batch_size": 6,
            },
            defense_params={
                f"{name}.{parameter}": value
                for name in ("fine-tuning", "fine-pruning", "fine-mixing")
                for parameter, value in (("epochs", 3), ("learning_rate", 1e-4))
            },
        ),
    ),
    "laptop": Preset(
        summary="real data from a directory (--data DIR), the bundled model, about 2,000 training rows",
        selection=Selection(
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
    ),
    "paper": Preset(
        summary="the seed paper's setting: bert-base-uncased, hub data, full sizes, three seeds",
        selection=Selection(
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
    ),
}
