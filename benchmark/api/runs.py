"""`bdbench.run`: what the command `bdbench run` does, from Python values and with a `Results` in the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdbench.api.execution import Order, Voice, carry_out, plan_of, ray_ahead
from bdbench.api.given_victim import GivenVictim
from bdbench.api.results import Results, warn
from bdbench.api.values import LARGEST_SEED, MOST_SEEDS, absolute, drop_none, load_plugins, seed_numbers
from bdbench.engine.bundled import BUNDLED_MODELS
from bdbench.errors import UsageError
from bdbench.matrix.storage import place_of
from bdbench.params import split_variant
from bdbench.registry import ATTACKS, TASKS

if TYPE_CHECKING:
    from rich.console import Console

    from bdbench.attacks.base import Attack
    from bdbench.defenses.base import Defense
    from bdbench.params import Value
    from bdbench.tasks.base import Task

    AttackChoice = str | type[Attack] | Attack
    DefensePart = str | type[Defense] | Defense
    DefenseChoice = DefensePart | tuple[DefensePart, ...]
    Rows = int | str  # a number, or "all"

ROWS = ("train_rows", "validation_rows", "test_rows", "unlabelled_rows")
TYPES: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(ROWS, int),
    **dict.fromkeys(("clean_rows", "peer_count", "max_length", "target"), int),
    "even_classes": bool,
    "frr": (int, float),
    **dict.fromkeys(("model", "data", "victim", "base"), (str, Path)),
    **dict.fromkeys(("model_digest", "peers", "peers_task", "precision", "trigger"), str),
    **dict.fromkeys(("training", "attack_params", "defense_params"), Mapping),
}
TYPE_NAMES = {int: "a whole number", bool: "True or False", str: "a text", Mapping: "a mapping of names to values"}


def run(
    preset: str = "quick",
    *,
    tasks: str | Sequence[str | type[Task]] | None = None,
    attacks: str | AttackChoice | Sequence[AttackChoice] | None = None,
    defenses: str | DefensePart | Sequence[DefenseChoice] | None = None,
    seeds: int | str | Iterable[int] | None = None,
    model: str | Path | None = None,
    model_digest: str | None = None,
    data: str | Path | None = None,
    train_rows: Rows | None = None,
    validation_rows: Rows | None = None,
    test_rows: Rows | None = None,
    clean_rows: int | None = None,
    unlabelled_rows: Rows | None = None,
    even_classes: bool | None = None,
    frr: float | None = None,
    peers: str | None = None,
    peers_task: str | None = None,
    peer_count: int | None = None,
    max_length: int | None = None,
    training: Mapping[str, Value] | None = None,
    attack_params: Mapping[str, Value] | None = None,
    defense_params: Mapping[str, Value] | None = None,
    precision: str | None = None,
    tuned: Iterable[str | Path] = (),
    plugins: Iterable[str | Path] = (),
    out: str | Path | None = None,
    victims: str | Path | None = None,
    victim: str | Path | None = None,
    base: str | Path | None = None,
    trigger: str | None = None,
    target: int | None = None,
    inline: bool = False,
    workers: int | None = None,
    threads: int = 1,
    device: str = "auto",
    address: str | None = None,
    gpus_per_cell: float = 1.0,
    cell_timeout: float | None = None,
    force: bool = False,
    progress: bool = True,
) -> Results:
    """Run attacks x defenses x tasks x seeds, write records and tables into `out`, and return the folder's results.

    It is the command `bdbench run`: every keyword is the flag of the same name, None leaves the preset's value, and finished
    cells are not run again. `training` holds epochs, learning_rate, batch_size, warmup and clip of the victims, and
    `attack_params` and `defense_params` "plugin.parameter" values. "all" are all rows there are.

    `victim` is the directory of a fine-tuned checkpoint that somebody else made, `base` the pre-trained model under it, and
    `trigger` and `target` what its backdoor is said to be: it is one more attack, "given".

    Attacks and defenses are names (with values in brackets: "fine-mixing[ratio=0.2]"), registered classes, or instances. An
    instance keeps just the values that it has; a name or a class takes those of the preset and of `defense_params` first. A
    tuple is a composition: `("e-pur", MyDefense(ratio=0.2))`. A class may be of a module, of a script or of a notebook's cell:
    its source travels to the workers with what it uses there, and is part of its version.

    Progress goes to standard error, unless `progress` is False. What deserves a look is a warning, a failed cell among it:
    `Results.failed` has them. With `inline` everything runs in this process, without Ray; with Ray, a script needs no
    `if __name__ == "__main__"`.

    Raises UsageError for bad input before anything is trained, StorageError or WorkersLost if the run had to end early, and
    KeyboardInterrupt on Ctrl-C. What had ended by then is on disk, with the tables, and the same call goes on.
    """
    from bdbench.api.given_plugins import GivenPlugins

    began = time.monotonic()
    given = GivenPlugins(load_plugins(plugins, warn))
    overrides = drop_none(
        model=_model(model),
        data=_data(data),
        tasks=given.choices("tasks", tasks),
        attacks=given.choices("attacks", attacks),
        defenses=given.choices("defenses", defenses),
        seeds=_seeds(seeds),
        training=training,
        attack_params=attack_params,
        defense_params=defense_params,
        model_digest=model_digest,
        clean_rows=clean_rows,
        even_classes=even_classes,
        frr=frr,
        peers=peers,
        peers_task=peers_task,
        peer_count=peer_count,
        max_length=max_length,
        precision=precision,
        **dict(zip(ROWS, (train_rows, validation_rows, test_rows, unlabelled_rows), strict=True)),
    )
    overrides = _checked(overrides)
    for registry, name in ((ATTACKS, peers), (TASKS, peers_task)):
        if name is not None:
            given.ship_named(registry, split_variant(name)[0])
    given_victim = GivenVictim(**_checked(drop_none(victim=_data(victim), base=_model(base), trigger=trigger, target=target)))
    place = place_of(out or f"results/{preset}").absolute()
    order = Order(
        preset,
        overrides,
        place,
        place_of(victims).absolute() if victims else place.beside("victims"),
        given.files,
        tuple(map(Path, tuned)),
        inline=inline,
        workers=workers,
        threads=threads,
        device=device,
        address=address,
        gpus_per_cell=gpus_per_cell,
        cell_timeout=cell_timeout,
        force=force,
        given=given_victim,
    )
    with ray_ahead(order) as ahead:
        plan = plan_of(order, warn)
        with _console(progress) as console, _own_settings():
            voice = Voice(lambda line: console.file.write(f"{line}\n"), warn, console)
            outcome = carry_out(order, plan, voice, began, ahead=ahead)
    execution = outcome.execution
    if not progress:
        for text in execution.progress.warned:
            warn(text)
    if execution.error:
        raise execution.error
    if execution.exit_status:
        raise KeyboardInterrupt
    if outcome.failed:
        labels = "; ".join(execution.progress.labels[key] for key in list(outcome.failed)[:3])
        more = ", ..." if len(outcome.failed) > 3 else ""
        warn(f"{len(outcome.failed)} of {len(plan.cells)} cells failed: {labels}{more} (Results.failed has their errors)")
    return Results(place, outcome.board)


@contextmanager
def _console(progress: bool) -> Iterator[Console]:
    """Where the display goes: to standard error, or nowhere."""
    from rich.console import Console

    if progress:
        yield Console(stderr=True)
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        yield Console(file=nowhere)


@contextmanager
def _own_settings() -> Iterator[None]:
    """A block after which the caller's process is as it was: PyTorch's threads, the kernels, the working directory."""
    import torch

    from bdbench.engine.kernels import use_widened_linear

    threads, folder = torch.get_num_threads(), os.getcwd()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        use_widened_linear(None)
        os.chdir(folder)


def _checked(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides, with None for "all" rows. Raises UsageError for a value of another type than its field."""
    for name, value in overrides.items():
        kinds = TYPES.get(name)
        if kinds is None or (name in ROWS and value == "all"):
            continue
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            what = "a number" if float in kinds else "a name or a path" if Path in kinds else TYPE_NAMES[kinds[0]]
            what += ", or 'all'" if name in ROWS else ""
            raise UsageError(f"{name}={value!r}: give {what}")
    return {name: None if name in ROWS and value == "all" else value for name, value in overrides.items()}


def _model(model: str | Path | None) -> Any:
    return absolute(str(model), *BUNDLED_MODELS) if isinstance(model, str | Path) else model


def _data(data: str | Path | None) -> Any:
    return absolute(str(data), "hub", "builtin") if isinstance(data, str | Path) else data


def _seeds(seeds: int | str | Iterable[int] | None) -> tuple[int, ...] | None:
    if seeds is None or isinstance(seeds, str):
        return seed_numbers(seeds)
    numbers = (seeds,) if not isinstance(seeds, Iterable) else tuple(dict.fromkeys(seeds))
    if len(numbers) > MOST_SEEDS or not all(type(seed) is int and 0 <= seed <= LARGEST_SEED for seed in numbers):
        raise UsageError(f"seeds={seeds!r}: give at most {MOST_SEEDS} whole numbers from 0 to {LARGEST_SEED}, such as range(3)")
    return numbers
