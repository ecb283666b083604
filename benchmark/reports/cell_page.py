"""One cell for people: what was asked, what came of it, on what machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bdbench.analysis.examples import ShownExample
from bdbench.analysis.intervals import wilson_interval
from bdbench.analysis.printed import percent
from bdbench.registry import TASKS
from bdbench.reports.words import one_line
from bdbench.specs.metrics import REJECTED, Metric
from bdbench.specs.records import AttackFacts, Record
from bdbench.specs.work import CellSpec, PluginSpec, VictimSpec, component_names

# Of what each metric is a share; a metric that is not here gets its bare numbers.
SHARES = {
    "cacc": "clean accuracy",
    "majority": "the most frequent label of the test rows",
    "asr": "attack success rate",
    "base": "the same rows without the trigger",
    "floor": "the same triggered rows, by the clean model",
    "frr": "clean rows rejected",
    "far": "triggered rows accepted",
    "auroc": "pairs of a clean and a triggered row in the right order, halves for ties",
}
NO_SAMPLE = ("majority", "auroc")  # Wilson's interval is of neither: a fact of the rows, and pairs that share rows
INDENT = "  "


@dataclass(frozen=True)
class ShownNumber:
    """How a number of `AttackFacts.stealth` is shown: the heading of its column, what it is, and how it is printed."""

    heading: str
    says: str
    printed: Callable[[float], str] = percent
    unit: str = " %"


STEALTH = {
    "ftr": ShownNumber(
        "FTR",
        "the false triggering rate, the share of the rows that go to the target with what should not trigger, such as a part "
        "of the trigger",
    ),
    "words_changed": ShownNumber(
        "Words changed", "the share of the words of a triggered text that its clean text does not have there"
    ),
    "perplexity_ratio": ShownNumber(
        "Perplexity ratio",
        "the perplexity of a triggered text by that of its clean text, 1 for as likely",
        printed=lambda ratio: f"{ratio:,.2f}",
        unit="",
    ),
    "seen_by_onion": ShownNumber(
        "Seen by ONION",
        "the share of the triggered texts whose most suspicious word, by ONION's score, is one of the trigger",
    ),
}


def cell_lines(record: Record, file: str, label: str, examples: Sequence[ShownExample] = ()) -> list[str]:
    """A heading, and a section of lines for each part of the record that holds anything.

    `file` is that of the record in the run's folder; `label` says what tells the cell from the others there. `examples` are
    those of the record.
    """
    needs = ", ".join(record.needs) or "nothing"
    lines = [label, f"{record.status}; {record.kind}, needs {needs}; key {record.key}, {file}"]
    if record.predictions is not None:
        lines[-1] += f", {record.predictions}"
    sections = cell_sections(record)
    spec = {"spec": sections.pop("spec")}
    metrics = {"metrics, with 95 % intervals (Wilson) of the chance of the rows": _metrics(record.metrics or {})}
    error = {"error": error_lines(record)}
    triggered = {"triggered texts": _example_lines(examples, TASKS.label_names(record.spec.victim.task))}
    for title, of_section in (spec | metrics | triggered | error | sections).items():
        if of_section:
            lines += ["", title, *(INDENT + line for line in of_section)]
    return [one_line(line) for line in lines]


def _example_lines(examples: Sequence[ShownExample], class_names: Sequence[str]) -> list[str]:
    """`row 3: gold 0 (negative), before the defense 1 (positive), after it 0 (negative)`, and below each its texts."""
    lines = []
    for shown in examples:
        classes = {"gold": shown.gold, "before the defense": shown.before, "after it": shown.after}
        known = (f"{name} {class_text(number, class_names)}" for name, number in classes.items() if number is not None)
        lines.append(f"row {shown.example.row}: {', '.join(known) or 'no predictions on file'}")
        lines += [INDENT + text for text in shown.example.texts]
        lines += [f"{INDENT}purified: {text}" for text in shown.example.purified or ()]
    return lines


def class_text(number: int, class_names: Sequence[str]) -> str:
    """`1 (positive)`, as far as the class has a name."""
    if number == REJECTED:
        return "rejected"
    return f"{number} ({class_names[number]})" if number < len(class_names) else str(number)


def error_lines(record: Record) -> list[str]:
    """The traceback of a failed cell, or the reason of a skipped one."""
    return (record.error or "").rstrip().splitlines()


def cell_sections(record: Record) -> dict[str, list[str]]:
    """What a record holds beside its metrics and error, as lines such as `lm: bundled`; a section may be empty.

    Lines of what is inside another value are indented.
    """
    return {
        "spec": _spec(record.spec),
        "attack": _attack(record.attack),
        "notes": _values(record.notes or {}),
        "cost": [f"{name}: {_number(value)}" for name, value in (record.cost or {}).items()],
        "seconds": [f"{name}: {seconds:,.1f}" for name, seconds in (record.seconds or {}).items()],
        "typed": _values(record.typed or {}),
        "victim's bits": [] if record.victim is None else _values(vars(record.victim)),
        "environment": _values({name: value for name, value in (record.env or {}).items() if name != "victim"}),
        "environment of the victim": _values((record.env or {}).get("victim", {})),
    }


def _attack(facts: AttackFacts | None) -> list[str]:
    """What is known of the attack; nothing of older records."""
    if facts is None:
        return []
    stealth = {name: _stealth(name, facts.stealth[name]) for name in in_order(facts.stealth, STEALTH)}
    against = {"against": ", ".join(facts.against)} if facts.against else {}
    return _values({**against, "settled": facts.settled, "stealth": stealth, "notes": facts.notes})


def _stealth(name: str, value: float) -> str:
    """`10.5 %; the share of the words of a triggered text that its clean text has not`; a number of a plugin's own as it is."""
    if name not in STEALTH:
        return f"{value:g}"
    shown = STEALTH[name]
    return f"{shown.printed(value)}{shown.unit}; {shown.says}"


def _spec(spec: CellSpec) -> list[str]:
    """The defense with what it gets, then the victim, then the peers."""
    sets = []
    if spec.clean_rows:
        sets.append(f"clean rows: {spec.clean_rows:,} {'with even classes' if spec.even_classes else 'as drawn'}")
    if spec.validation_rows:
        sets.append(f"validation rows: {spec.validation_rows:,}")
    if spec.unlabelled_rows:
        sets.append(f"unlabelled rows: {spec.unlabelled_rows:,}")
    if spec.frr is not None:
        sets.append(f"stated FRR: {spec.frr:g}")
    components = zip(component_names(spec.defense), spec.defense, strict=True)
    lines = [f"defense: {_plugin(part, name)}" for name, part in components]
    lines += [*sets, *_victim(spec.victim)]
    return lines + [f"peer {number}: {line}" for number, peer in enumerate(spec.peers, start=1) for line in _victim(peer)]


def _victim(spec: VictimSpec) -> list[str]:
    data, model = spec.data, spec.model
    revision = "" if data.revision is None else f", revision {data.revision}"
    return [
        f"attack: {_plugin(spec.attack, spec.attack.name)}",
        f"task: {spec.task} (version {spec.task_version}), seed {spec.seed}, protocol {spec.protocol}",
        f"data: {data.source}{revision}, {data.train_rows:,} training and {data.test_rows:,} test rows, "
        f"fingerprint {data.fingerprint}",
        f"model: {model.name}, {spec.max_length} word pieces, {spec.precision}",
        f"model's digests: weights {model.digest}, configuration {model.config}, tokenizer {model.tokenizer}",
        f"victim's training: {_assignments(spec.training)}",
        f"victim's key: {spec.key()}",
    ]


def _plugin(plugin: PluginSpec, name: str) -> str:
    params = f": {_assignments(plugin.params)}" if plugin.params else ""
    return f"{name} (version {plugin.version}){params}"


def _assignments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _metrics(metrics: Mapping[str, Metric]) -> list[str]:
    """`asr: 21.1 % (43 of 204), 16.0 to 27.2; attack success rate`, in the order of SHARES."""
    lines = []
    for name in in_order(metrics):
        metric = metrics[name]
        text = f"{name}: {percent(metric.value)} % ({metric.hits:,} of {metric.n:,})"
        if interval := interval_of(name, metric):
            text += f", {' to '.join(map(percent, interval))}"
        lines.append(f"{text}; {SHARES[name]}" if name in SHARES else text)
    return lines


def in_order(numbers: Iterable[str], known: Mapping[str, Any] = SHARES) -> list[str]:
    """The names of numbers, of metrics by default, in the order of those that are known, others behind."""
    names = list(numbers)
    return [*(name for name in known if name in names), *(name for name in names if name not in known)]


def interval_of(name: str, metric: Metric) -> tuple[float, float] | None:
    """Its 95 % interval (Wilson); None of a metric that has none."""
    return None if name in NO_SAMPLE else wilson_interval(metric.hits, metric.n)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def _values(values: Mapping[str, Any]) -> list[str]:
    """A line for each value; an object's values come below its name, and a list in one line."""
    lines: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{name}:", *(INDENT + line for line in _values(value))] if value else []
        else:
            lines.append(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    return lines
