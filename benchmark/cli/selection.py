"""The flags that select what is run, shared by the commands that run something."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bdbench.api.given_victim import GivenVictim
from bdbench.api.values import absolute, drop_none, seed_numbers
from bdbench.cli.arguments import assignments, names, row_counts
from bdbench.engine.bundled import BUNDLED_MODELS

TRAINING = ("epochs", "learning_rate", "batch_size", "warmup", "clip")  # the victim's
PEERS = ("peers", "peers_task", "peer_count")
AS_TYPED = ("model_digest", "clean_rows", "even_classes", "max_length", "precision", "frr", *PEERS)
ROWS = ("train_rows", "validation_rows", "test_rows", "unlabelled_rows")
PLUGINS = ("tasks", "attacks", "defenses")
SELECTING = (
    "preset",
    "model",
    "data",
    "seeds",
    *PLUGINS,
    *ROWS,
    *AS_TYPED,
    *TRAINING,
    "attack_param",
    "defense_param",
    "plugin",
)


def overrides_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags of SELECTING, by name, put in place of a preset's values; None is not typed.

    A directory becomes its path from the root. Raises UsageError for a text that is no value of its flag.
    """
    return drop_none(
        model=absolute(flags["model"], *BUNDLED_MODELS),
        data=absolute(flags["data"], "hub", "builtin"),
        **{name: names(flags[name]) for name in PLUGINS},
        seeds=seed_numbers(flags["seeds"]),
        training=drop_none(**{name: flags[name] for name in TRAINING}),
        attack_params=assignments("-A", flags["attack_param"]),
        defense_params=assignments("-D", flags["defense_param"]),
        **{name: flags[name] for name in AS_TYPED},
    ) | row_counts(**{name: flags[name] for name in ROWS})


def given_victim_of(flags: Mapping[str, Any]) -> GivenVictim:
    """The victim that the user brings; a directory becomes its path from the root. Raises UsageError as `GivenVictim` does."""
    victim, base = absolute(flags["victim"]), absolute(flags["base"], *BUNDLED_MODELS)
    return GivenVictim(victim, base, flags["trigger"], flags["target"])


def with_flags_of(command: Callable[..., None], *flags: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give the decorated command these flags of another one, with their help: it gets them as keywords, `**flags`."""

    def decorated(function: Callable[..., None]) -> Callable[..., None]:
        shared = inspect.signature(command, eval_str=True).parameters
        own = [
            parameter
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        every = [*own, *(shared[name] for name in flags)]
        keywords = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in every]
        function.__signature__ = inspect.Signature(keywords)
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
        return function

    return decorated
