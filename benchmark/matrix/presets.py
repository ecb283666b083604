"""Named choices of everything a run needs; every value can be overridden on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bdbench.errors import UsageError
from bdbench.matrix.selection import Selection
from bdbench.params import Value
from bdbench.protocol.compositions import Part, name_of, parts_of_choice

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

# The seed paper's comparison: trigger words and sentences put into the clean fine-tuned and into the pre-trained model, with
# embedding poisoning and embedding surgery; the rows that differ most come first, then the same at a lower poisoning rate.
PAPER_ATTACKS = (
    "badnets-word[start=clean]",
    "embedding-poisoning",
    "embedding-surgery[start=clean]",
    "badnets-sentence[start=clean]",
    "badnets-word[start=scratch]",
    "data-free-embedding-poisoning",
    "embedding-surgery[start=scratch]",
    "badnets-sentence[start=scratch]",
    "badnets-word[start=clean,rate=0.1]",
    "embedding-surgery[start=clean,rate=0.1]",
    "badnets-sentence[start=clean,rate=0.1]",
    "badnets-word[start=scratch,rate=0.1]",
    "embedding-surgery[start=scratch,rate=0.1]",
    "badnets-sentence[start=scratch,rate=0.1]",
)
PAPER_ATTACK_PARAMS = {f"{name}.rate": 0.5 for name in ("badnets-word", "embedding-surgery", "badnets-sentence")}
PAPER_REPAIRS = (
    "fine-tuning",
    "fine-pruning",
    "fine-pruning[frozen=true]",
    "fine-mixing[select=activation]",
    "fine-mixing",
)
PAPER_DEFENSES = ("none", *PAPER_REPAIRS, "e-pur", *(f"e-pur+{repair}" for repair in PAPER_REPAIRS))
PAPER_DEFENSE_PARAMS = {"fine-pruning.search": True, "fine-mixing.search": True}

# A first comparison at the paper's model size. The accuracy that a search may cost is half of what the paper says, so the
# searched methods run with 5 points and with 2, and once with a ratio that nobody searched for.
BASE_ATTACKS = (
    "badnets-word[start=clean]",
    "badnets-sentence[start=clean]",
    "embedding-poisoning",
    "embedding-surgery[start=clean]",
    "badnets-word[start=scratch]",
    "badnets-sentence[start=scratch]",
)
BASE_DEFENSES = (
    "none",
    "fine-tuning",
    "e-pur",
    "fine-pruning",
    "fine-mixing",
    "fine-mixing[select=activation]",
    "e-pur+fine-mixing",
    "fine-pruning[tolerance=0.02]",
    "fine-mixing[tolerance=0.02]",
    "fine-mixing[select=activation,tolerance=0.02]",
    "e-pur+fine-mixing[tolerance=0.02]",
    "fine-pruning[search=false]",
    "fine-mixing[search=false]",
    "fine-mixing[select=activation,search=false]",
    "e-pur+fine-mixing[search=false]",
)
# On two cores: a grid half as fine, and embedding poisoning in some 110 steps, as many as it needs to work, on few rows a step.
FEW_TRIALS = {"fine-pruning.trials": 3, "fine-mixing.trials": 3}
FEW_POISONED = {"embedding-poisoning.rate": 0.4, "embedding-poisoning.batch_size": 8}


@dataclass(frozen=True)
class Preset:
    """A selection with a name and a line about it; with `data` None the user must say where the data is."""

    summary: str
    selection: Selection

    def select(self, overrides: Mapping[str, Any]) -> Selection:
        """The selection with `overrides` (its fields) in place of its values; parameters are merged one by one.

        The preset's parameters of plugins that the overrides leave out are dropped. Raises UsageError if the preset leaves
        the data to the user and the overrides name none.
        """
        selection = replace(self.selection, **overrides)
        if selection.data is None:
            raise UsageError("this preset needs real data: --data DIR (with <task>/train.parquet and so on) or --data hub")
        defenses = [part for choice in selection.defenses for part in parts_of_choice(choice)]
        return replace(
            selection,
            training={**self.selection.training, **overrides.get("training", {})},
            attack_params=_params_of(selection.attacks, self.selection.attack_params) | overrides.get("attack_params", {}),
            defense_params=_params_of(defenses, self.selection.defense_params) | overrides.get("defense_params", {}),
        )


def _params_of(plugins: Sequence[Part], params: Mapping[str, Value]) -> dict[str, Value]:
    names = {name_of(plugin) for plugin in plugins}
    return {name: value for name, value in params.items() if name.partition(".")[0] in names}


def _fine_tuning(**values: Value) -> dict[str, Value]:
    """The same fine-tuning on the clean set for every defense that ends with one."""
    names = ("fine-tuning", "fine-pruning", "fine-mixing")
    return {f"{name}.{parameter}": value for name in names for parameter, value in values.items()}


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
            defense_params=_fine_tuning(epochs=3, learning_rate=1e-4),
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
            # at the default of 2e-5 one pass over so few rows learns nothing: 51 and 52 % on validation rows of SST-2 and QQP,
            # against 83 and 77 % at the victim's own rate
            defense_params={"moderate-fitting.learning_rate": 1e-4},
        ),
    ),
    "paper": Preset(
        summary="the seed paper's comparison: bert-base-uncased, hub data, full sizes, three seeds",
        selection=Selection(
            model="google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594",
            data="hub",
            tasks=TASKS,
            attacks=PAPER_ATTACKS,
            defenses=PAPER_DEFENSES,
            seeds=(0, 1, 2),
            train_rows=None,
            validation_rows=1000,
            test_rows=None,
            clean_rows=64,
            max_length=128,
            training={"epochs": 3, "learning_rate": 2e-5},
            attack_params=PAPER_ATTACK_PARAMS,
            defense_params=PAPER_DEFENSE_PARAMS,
        ),
    ),
    "paper-mini": Preset(
        summary="the same comparison, smaller: the bundled model on real data from a directory (--data DIR)",
        selection=Selection(
            model="bundled",
            data=None,
            tasks=TASKS,
            attacks=PAPER_ATTACKS,
            defenses=PAPER_DEFENSES,
            seeds=(0, 1, 2),
            train_rows=1500,
            validation_rows=200,
            test_rows=400,
            clean_rows=64,
            max_length=48,
            # with less training a victim's accuracy already falls when 64 clean rows of uneven classes fine-tune it
            training={"epochs": 3, "learning_rate": 1e-4},
            attack_params={
                **PAPER_ATTACK_PARAMS,
                **FEW_POISONED,
                "data-free-embedding-poisoning.samples": 300,
                "data-free-embedding-poisoning.batch_size": 8,
            },
            defense_params={**PAPER_DEFENSE_PARAMS, **FEW_TRIALS, **_fine_tuning(epochs=5, learning_rate=1e-4)},
        ),
    ),
    "paper-base": Preset(
        summary="the paper's model size on two cores: bundled-base on real data from a directory (--data DIR)",
        selection=Selection(
            model="bundled-base",
            data=None,
            tasks=("sst2", "qqp"),
            attacks=BASE_ATTACKS,
            defenses=BASE_DEFENSES,
            seeds=(0,),
            train_rows=3000,
            validation_rows=200,
            test_rows=400,
            clean_rows=64,
            max_length=48,
            # chosen on validation rows of SST-2, as is the fine-tuning of the defenses (results/README.md)
            training={"epochs": 2, "learning_rate": 3e-5},
            attack_params={**PAPER_ATTACK_PARAMS, **FEW_POISONED},
            defense_params={**PAPER_DEFENSE_PARAMS, **FEW_TRIALS, **_fine_tuning(epochs=5, learning_rate=3e-5)},
        ),
    ),
}
