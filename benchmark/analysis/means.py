"""Means of the methods over the victims that all of them share: ASR by attack, and every rate by method and by task.

In a mean over several tasks each counts the same (`intervals.task_weights`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from bdbench.analysis.claims import records_by_victim
from bdbench.analysis.evidence import SettingEvidence
from bdbench.analysis.intervals import Interval, paired_interval, task_weights, weighted_mean
from bdbench.analysis.labels import Label
from bdbench.analysis.methods import METHODS, Method
from bdbench.specs.records import Record


@dataclass(frozen=True)
class AttackMeans:
    """The mean ASR of every method against one attack, a fraction in [0, 1], or None; over so many victims."""

    attack: Label
    victims: int
    asr: tuple[float | None, ...]


@dataclass(frozen=True)
class MethodMeans:
    """The mean rates of one method, fractions in [0, 1] or None, and what the trigger adds: ASR less base rate."""

    method: Method
    victims: int
    cacc: float | None
    asr: float | None
    base: float | None
    added: Interval


@dataclass(frozen=True)
class TaskMeans:
    """The mean rates of every method on one task, and its floor, a fraction in [0, 1] or None."""

    task: str
    victims: int
    by_method: tuple[MethodMeans, ...]
    floor: float | None


@dataclass(frozen=True)
class Means:
    """Means over the victims on which every method ended well.

    `methods` are those that occur, in the order of `AttackMeans.asr` and `TaskMeans.by_method`. `victims_by_seed` counts the
    victims. `by_task` has the tasks of these victims. `floor` is the mean ASR of never-poisoned models on the same triggered
    texts.
    """

    methods: tuple[Method, ...]
    victims_by_seed: dict[int, int]
    by_attack: tuple[AttackMeans, ...]
    by_method: tuple[MethodMeans, ...]
    by_task: tuple[TaskMeans, ...]
    floor: float | None


def means(evidence: SettingEvidence) -> Means:
    """The means over the evidence of one setting. Raises UsageError if a method has two cells on the same victim."""
    records = {method: records_by_victim(method, evidence.records) for method in METHODS}
    methods = tuple(method for method in METHODS if records[method])
    victims_by_attack = {
        attack: [key for key in _victim_keys(of_attack) if all(key in records[method] for method in methods)]
        for attack, of_attack in evidence.records_by_attack.items()
    }
    shared = [key for keys in victims_by_attack.values() for key in keys]
    specs = {record.spec.victim.key(): record.spec.victim for record in evidence.records}
    tasks = {key: specs[key].task for key in shared}

    def by_method(victims: Sequence[str]) -> tuple[MethodMeans, ...]:
        of_victims = [tasks[key] for key in victims]
        return tuple(_method_means(method, records[method], victims, of_victims) for method in methods)

    def mean(method: Method, metric: str, victims: Sequence[str]) -> float | None:
        return _mean(_shares(records[method], metric, victims), [tasks[key] for key in victims])

    def floor(victims: Sequence[str]) -> float | None:
        return mean(methods[0], "floor", victims) if methods else None

    victims_by_task = {task: [key for key in shared if tasks[key] == task] for task in sorted(set(tasks.values()))}
    return Means(
        methods,
        victims_by_seed=dict(sorted(Counter(specs[key].seed for key in shared).items())),
        by_attack=tuple(
            AttackMeans(attack, len(keys), tuple(mean(method, "asr", keys) for method in methods))
            for attack, keys in victims_by_attack.items()
        ),
        by_method=by_method(shared),
        by_task=tuple(TaskMeans(task, len(keys), by_method(keys), floor(keys)) for task, keys in victims_by_task.items()),
        floor=floor(shared),
    )


def _method_means(method: Method, records: Mapping[str, Record], victims: Sequence[str], tasks: Sequence[str]) -> MethodMeans:
    cacc, asr, base = (_shares(records, metric, victims) for metric in ("cacc", "asr", "base"))
    added = [with_trigger - without for with_trigger, without in zip(asr, base, strict=True)] if base else []
    interval = paired_interval(added, tasks if added else ())
    return MethodMeans(method, len(victims), _mean(cacc, tasks), _mean(asr, tasks), _mean(base, tasks), interval)


def _victim_keys(records: Sequence[Record]) -> list[str]:
    """The keys of the victims, each once, in the order of the records."""
    return list(dict.fromkeys(record.spec.victim.key() for record in records))


def _shares(records: Mapping[str, Record], metric: str, victims: Sequence[str]) -> list[Fraction]:
    """The metric on each of the victims, or nothing if one lacks it: the first records of schema 1 have no base rate."""
    metrics = [records[victim].metrics for victim in victims]
    return [of_victim[metric].share for of_victim in metrics] if all(metric in of_victim for of_victim in metrics) else []


def _mean(shares: Sequence[Fraction], tasks: Sequence[str]) -> float | None:
    return float(weighted_mean(shares, task_weights(tasks))) if shares else None
