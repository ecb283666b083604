"""From names and overrides to cells: every default filled in, every bad value refused before the first cell runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bdbench.attacks.base import Attack
from bdbench.data import TextSet
from bdbench.defenses.base import RESOURCES, ModelRepair
from bdbench.engine.loops import Recipe, native_precision
from bdbench.engine.models import find_model, load_tokenizer, max_positions
from bdbench.errors import UsageError
from bdbench.matrix.presets import Selection
from bdbench.params import Value, split_names, split_variant
from bdbench.protocol.cells import Rows, Site, clean_spec, draw_rows, needs_clean_victim, needs_of, plugin_spec
from bdbench.protocol.sources import Splits, load
from bdbench.registry import ATTACKS, DEFENSES, TASKS, Registry
from bdbench.specs.records import CellSpec, DataSpec, VictimSpec

PRECISIONS = ("auto", "bf16", "fp32")
DEVICES = ("auto", "cpu", "cuda")
HELD_BACK_ROWS = 1000


@dataclass(frozen=True)
class Plan:
    """The cells in the order they are to be run, where their model and data are, and what the user should be warned of.

    Every task comes to its first attack before any comes to its second, and to a seed before any comes to the next, so that
    a run that is cut short has the same rows for all tasks.
    """

    cells: tuple[CellSpec, ...]
    model_folder: Path
    data_folder: Path | None
    warnings: tuple[str, ...] = ()

    @property
    def victims(self) -> tuple[VictimSpec, ...]:
        """The distinct victims of the cells, each behind the clean model it needs."""
        return victims_of(self.cells)


def plan(choice: Selection, device: str = "auto") -> Plan:
    """Check everything that can be checked without training, and spell the cells out.

    Raises UsageError for whatever cannot be run; see the module of the part that refuses it.
    """
    tasks = {name: TASKS.get(name)() for name in _distinct("task", choice.tasks)}
    attacks = _attacks(choice)
    defenses = _defenses(choice)
    recipe = Recipe.build(choice.training)
    precision = _precision(choice.precision, torch_device(device))
    if not choice.seeds:
        raise UsageError("no seed was given; give --seeds 0 or --seeds 0-2")
    for flag, value in (("clean-rows", choice.clean_rows), ("train-rows", choice.train_rows)):
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: at least 1 is needed")

    model = find_model(choice.model, choice.model_digest)
    tokenizer = load_tokenizer(model.folder)
    positions = max_positions(model.folder)
    if not 8 <= choice.max_length <= positions:
        raise UsageError(f"--max-length {choice.max_length} is outside [8, {positions}], the positions of {choice.model}")

    source, folder = data_source(choice.data)
    validation_rows, victims = {}, {}
    warnings = [warning for attack in attacks for warning in attack.warnings(tokenizer)]
    for task_name, task in tasks.items():
        splits = load(task, source, folder)
        data = _data_spec(task_name, splits, choice)
        validation_rows[task_name] = _rows(task_name, choice.validation_rows, len(splits.validation), "--validation-rows")
        for seed in choice.seeds:
            for attack in attacks:
                victims[seed, attack, task_name] = VictimSpec(
                    task=task_name,
                    data=data,
                    model=model.spec,
                    max_length=choice.max_length,
                    training=recipe.values(),
                    precision=precision,
                    attack=plugin_spec(attack),
                    seed=seed,
                )
            # the rows are the same for every attack
            rows = _checked_rows(victims[seed, attacks[0], task_name], splits, choice.clean_rows, validation_rows[task_name])
            warnings += _overlaps(f"{task_name}, seed {seed}", rows)
            for attack in attacks:
                attack.check(rows.train, len(task.label_names), tokenizer, choice.max_length)

    cells = []
    for seed, attack, task_name in itertools.product(choice.seeds, attacks, tasks):
        for parts in defenses:
            needs = needs_of(parts)
            # the size of a set that is not handed out makes no difference, so it makes no other cell
            cells.append(
                CellSpec(
                    victim=victims[seed, attack, task_name],
                    defense=tuple(plugin_spec(part) for part in parts),
                    clean_rows=choice.clean_rows if "clean" in needs else 0,
                    validation_rows=validation_rows[task_name] if "validation" in needs else 0,
                )
            )
    return Plan(tuple(cells), model.folder, folder, tuple(dict.fromkeys(warnings)))


def victims_of(cells: Iterable[CellSpec]) -> tuple[VictimSpec, ...]:
    """The distinct victims that cells stand on, in the order of the cells, each behind the clean model it needs."""
    found = {}
    for cell in cells:
        for spec in ([clean_spec(cell.victim)] if needs_clean_victim(cell.victim) else []) + [cell.victim]:
            found[spec.key()] = spec
    return tuple(found.values())


def data_source(data: str) -> tuple[str, Path | None]:
    """("hub" | "builtin", None), or ("directory", its path)."""
    return (data, None) if data in ("hub", "builtin") else ("directory", Path(data))


def site_for(made: Plan, plugins: Sequence[str | Path], threads: int, device: str = "auto") -> Site:
    """Where this machine does the work of a plan."""
    files = tuple(Path(file).resolve() for file in plugins)
    data = None if made.data_folder is None else made.data_folder.resolve()
    return Site(model=made.model_folder, data=data, plugins=files, threads=threads, device=device)


def torch_device(device: str) -> torch.device:
    """The torch device of "auto", "cpu" or "cuda". Raises UsageError for another name, and for a GPU that is not there."""
    if device not in DEVICES:
        raise UsageError(f"--device {device} is not one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no GPU here; use --device cpu, or auto")
    return Site(model=Path(), device=device).torch_device()


def _precision(precision: str, device: torch.device) -> str:
    """The effective precision, since records of machines with and without bf16 must not pass for the same cell."""
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not one of {', '.join(PRECISIONS)}")
    return native_precision(device) if precision == "auto" else precision


def _attacks(choice: Selection) -> list[Attack]:
    variants = [split_variant(text) for text in _distinct("attack", choice.attacks)]
    params = _by_plugin(choice.attack_params, [name for name, _ in variants], "-A", ATTACKS)
    attacks = [ATTACKS.get(name).build({**params.get(name, {}), **own}) for name, own in variants]
    for attack in attacks:
        if attack.has_trigger and "target" not in attack.values():
            raise UsageError(f"the attack '{attack.name}' has a trigger but no hyperparameter 'target'; declare one")
    return list(dict.fromkeys(attacks))


def _defenses(choice: Selection) -> list[tuple[ModelRepair, ...]]:
    variants = [[split_variant(part) for part in split_names(text, "+")] for text in _distinct("defense", choice.defenses)]
    params = _by_plugin(choice.defense_params, [name for parts in variants for name, _ in parts], "-D", DEFENSES)
    built = [tuple(DEFENSES.get(name).build({**params.get(name, {}), **own}) for name, own in parts) for parts in variants]
    for defense in built:
        for part in defense:
            if not part.needs <= set(RESOURCES):
                raise UsageError(f"{part.name} needs {sorted(part.needs)}; a defense can be given {', '.join(RESOURCES)}")
            if part.unchanged and len(defense) > 1:
                raise UsageError(f"'{part.name}' does nothing, so it cannot be composed; leave it out")
    return list(dict.fromkeys(built))


def _by_plugin(params: Mapping[str, Value], used: Sequence[str], flag: str, registry: Registry) -> dict[str, dict[str, Any]]:
    """ "plugin.parameter" -> value, as plugin -> {parameter -> value}; a plugin outside the run is refused."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        plugin, dot, parameter = name.partition(".")
        if not dot:
            raise UsageError(f"{flag} {name}={value}: give PLUGIN.PARAMETER=VALUE, such as fine-mixing.ratio=0.5")
        registry.get(plugin)  # an unknown name gets the nearest ones
        if plugin not in used:
            raise UsageError(f"{flag} {name}={value}: {plugin} is not in this run; it has {', '.join(dict.fromkeys(used))}")
        found.setdefault(plugin, {})[parameter] = value
    return found


def _distinct(kind: str, names: Sequence[str]) -> list[str]:
    if not names:
        raise UsageError(f"no {kind} was given; name at least one (bdbench list shows them)")
    return list(dict.fromkeys(names))


def _data_spec(task: str, splits: Splits, choice: Selection) -> DataSpec:
    size = len(splits.train)
    if choice.clean_rows >= size:
        raise UsageError(
            f"{task}: --clean-rows {choice.clean_rows} of a train split of {size} rows leaves none to train the victim on; "
            "lower --clean-rows"
        )
    # "all" holds back as many rows for any usual clean set, so that a larger one still changes no victim
    held_back = max(choice.clean_rows, min(HELD_BACK_ROWS, size // 10))
    train_rows = choice.train_rows
    if train_rows is None:
        train_rows = size - held_back
    return DataSpec(
        source=splits.source,
        fingerprint=splits.fingerprint,
        revision=splits.revision,
        train_rows=_rows(task, train_rows, size - choice.clean_rows, "--train-rows (beside the clean set)"),
        test_rows=_rows(task, choice.test_rows, len(splits.test), "--test-rows"),
    )


def _rows(task: str, wanted: int | None, found: int, flag: str) -> int:
    if wanted is not None and not 0 < wanted <= found:
        raise UsageError(f"{task}: {flag} {wanted}, but there are {found} rows; give 1 to {found}, or 'all'")
    return found if wanted is None else wanted


def _checked_rows(victim: VictimSpec, splits: Splits, clean_rows: int, validation_rows: int) -> Rows:
    """The rows of one seed. Raises UsageError where what is drawn is all of one class."""
    rows = draw_rows(victim, splits, clean_rows, validation_rows)
    for name, drawn in (("training", rows.train), ("clean", rows.clean), ("test", rows.test)):
        if len(set(drawn.labels.tolist())) < 2:
            raise UsageError(
                f"{victim.task}, seed {victim.seed}: the {len(drawn)} {name} rows drawn are all of one class; draw more"
            )
    return rows


def _overlaps(where: str, rows: Rows) -> list[str]:
    """A warning for each set of rows some of which are test rows, too: but for case and blanks, labels aside."""
    test = set(_folded(rows.test))
    found = {name: sum(row in test for row in _folded(getattr(rows, name))) for name in ("clean", "validation", "train")}
    return [
        f"{where}: {count} of the {len(getattr(rows, name))} {name} rows are test rows, too; accuracy will look too good"
        for name, count in found.items()
        if count
    ]


def _folded(rows: TextSet) -> list[tuple[str, ...]]:
    pairs = zip(rows.first, rows.second or [""] * len(rows), strict=True)
    return [tuple(" ".join(text.lower().split()) for text in pair) for pair in pairs]
