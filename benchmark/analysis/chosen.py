"""The tasks, attacks and defenses that a table shows, and their order: by labels, or by plain names for all variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bdbench.analysis.labels import Label
from bdbench.analysis.summaries import Summary
from bdbench.analysis.tables import kind_by_defense
from bdbench.errors import UsageError, nearest
from bdbench.specs.records import KINDS


@dataclass(frozen=True)
class Chosen:
    """The cells to show. `tasks`, `attacks` and `defenses` are the labels that occur, in the order in which to show them.

    The undefended victims are always among them, and come first: without them no attack is known to work.
    """

    summaries: tuple[Summary, ...]
    tasks: tuple[Label, ...]
    attacks: tuple[Label, ...]
    defenses: tuple[Label, ...]


def choose(
    summaries: Sequence[Summary],
    tasks: Sequence[str] | None = None,
    attacks: Sequence[str] | None = None,
    defenses: Sequence[str] | None = None,
) -> Chosen:
    """The cells of what is named, None being all of a kind. A name is a whole label, or a plain name for all of its variants.

    Raises UsageError for a name that there is not, and if no cell is left.
    """
    kinds = kind_by_defense(summaries)
    all_tasks = sorted({summary.task for summary in summaries}, key=lambda label: label.rank)
    all_attacks = sorted({summary.attack for summary in summaries}, key=lambda label: label.rank)
    all_defenses = sorted(kinds, key=lambda label: (KINDS.index(kinds[label]), label.rank))
    of_tasks = _named("task", tasks, all_tasks)
    of_attacks = _named("attack", attacks, all_attacks)
    of_defenses = _named("defense", defenses, all_defenses)
    undefended = [label for label in all_defenses if label.is_undefended]
    of_defenses = [*undefended, *(label for label in of_defenses if not label.is_undefended)]
    kept = tuple(
        summary
        for summary in summaries
        if summary.task in of_tasks and summary.attack in of_attacks and summary.defense in of_defenses
    )
    if not kept:
        raise UsageError("no cell of these tasks, attacks and defenses is on record")
    return Chosen(
        kept,
        tuple(label for label in of_tasks if any(summary.task == label for summary in kept)),
        tuple(label for label in of_attacks if any(summary.attack == label for summary in kept)),
        tuple(label for label in of_defenses if any(summary.defense == label for summary in kept)),
    )


def _named(kind: str, names: Sequence[str] | None, labels: Sequence[Label]) -> list[Label]:
    """The labels that are named, as in a table or on a command line, in the order of the names, each once."""
    if names is None:
        return list(labels)
    chosen: list[Label] = []
    for name in names:
        fitting = [label for label in labels if name in (str(label), label.typed)]
        fitting = fitting or [label for label in labels if label.name == name]
        if not fitting:
            known = list(dict.fromkeys(label.typed for label in labels))
            raise UsageError(f"no {kind} '{name}' on record{nearest(name, known)}; there are: {', '.join(known)}")
        chosen += [label for label in fitting if label not in chosen]
    return chosen
