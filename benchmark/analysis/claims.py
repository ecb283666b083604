"""The seed paper's claims put to the test: paired differences between two defenses, their intervals, and a verdict.

The abstract of arXiv:2210.09545 says that Fine-mixing beats the usual mitigation methods and that E-PUR helps them too. Each
claim here is a bound on the mean difference of ASR (and of CACC) between two defenses of the same victims. A pair is a
(task, attack, seed) for which both cells ended well; victims on which the attack did not work undefended are left out.

All attacks on a task share its rows, its clean model and, of a seed, the clean set and the draws of a defense. So an interval
over several tasks takes the pairs of a task for one cluster (Liang and Zeger, 1986): the five tasks decide, not the seventy
pairs. The interval of one task is over its pairs as if they were independent, and holds for the rows that were drawn.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scipy import stats
from tabulate import tabulate

from bdbench.analysis.tables import ABSENT, WORKS_FROM, Label, Summary, percent, points, summarize, works
from bdbench.errors import UsageError
from bdbench.params import Value
from bdbench.specs.records import Record

CONFIDENCE = 0.95
MARGIN = 0.02  # two points: the CACC that a lower ASR may cost, and the ASR within which two defenses are tied
SUPPORTED, UNDECIDED, TOO_FEW, CONTRADICTED = "supported", "not supported", "too few cells", "contradicted"
ALL_TASKS = "all tasks"


@dataclass(frozen=True)
class Method:
    """A defense by its components; `variant` is the hyperparameter value that makes the paper's variant of it, and `plain`
    tells the method without that value from the one with it."""

    name: str
    parts: tuple[str, ...]
    variant: tuple[str, Value] | None = None
    plain: bool = True

    def fits(self, record: Record) -> bool:
        values = {item for part in record.spec.defense for item in part.params.items()}
        named = tuple(part.name for part in record.spec.defense) == self.parts
        return named and (self.variant in values) != self.plain

    def after_e_pur(self) -> Method:
        if self == NO_DEFENSE:
            return Method("E-PUR", ("e-pur",))
        return replace(self, name=f"E-PUR + {self.name}", parts=("e-pur", *self.parts))


NO_DEFENSE = Method("no defense", ("none",))
FINE_TUNING = Method("fine-tuning", ("fine-tuning",))
FINE_PRUNING = Method("fine-pruning", ("fine-pruning",), ("frozen", True))
FINE_PRUNING_F = replace(FINE_PRUNING, name="fine-pruning (F)", plain=False)
FINE_MIXING = Method("Fine-mixing", ("fine-mixing",), ("select", "activation"))
FINE_MIXING_SEL = replace(FINE_MIXING, name="Fine-mixing (Sel)", plain=False)
REPAIRS = (FINE_TUNING, FINE_PRUNING, FINE_PRUNING_F, FINE_MIXING_SEL, FINE_MIXING)
METHODS = (NO_DEFENSE, *REPAIRS, *(method.after_e_pur() for method in (NO_DEFENSE, *REPAIRS)))
POISONED_EMBEDDINGS = ("embedding-poisoning", "data-free-embedding-poisoning")
SURGERY = ("embedding-surgery",)


@dataclass(frozen=True)
class Comparison:
    """One line of a claim: `ours` against `rival` on one task or all of them, against some attacks or all (None).

    The mean difference of ASR, ours less the rival's, has to lie below `asr_below`; with `keeps_accuracy` that of CACC has
    to lie above -MARGIN.
    """

    ours: Method
    rival: Method
    task: str | None = None
    attacks: tuple[str, ...] | None = None
    asr_below: float = 0.0
    keeps_accuracy: bool = False


@dataclass(frozen=True)
class Claim:
    statement: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Interval:
    """The mean of n paired differences, fractions in [-1, 1], and its interval; unbounded with fewer than two pairs."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return ABSENT
        return points(self.mean) + (f" [{points(self.low)}, {points(self.high)}]" if self.n > 1 else "")


@dataclass(frozen=True)
class Finding:
    """What the cells say of one comparison."""

    comparison: Comparison
    asr: Interval
    cacc: Interval
    verdict: str = field(init=False)

    def __post_init__(self) -> None:
        verdicts = {verdict(self.asr, below=self.comparison.asr_below)}
        if self.comparison.keeps_accuracy:
            loss = Interval(-self.cacc.mean, -self.cacc.high, -self.cacc.low, self.cacc.n)
            verdicts.add(verdict(loss, below=MARGIN))
        worst = next(word for word in (CONTRADICTED, TOO_FEW, UNDECIDED, SUPPORTED) if word in verdicts)
        object.__setattr__(self, "verdict", worst)


def claims(tasks: Sequence[str]) -> list[Claim]:
    """The claims of the abstract, the first one for each of these tasks and for all."""
    others = tuple(method for method in (*REPAIRS, NO_DEFENSE) if method != FINE_MIXING)
    best = FINE_MIXING.after_e_pur()
    rivals = (*REPAIRS, *(method.after_e_pur() for method in others))
    return [
        Claim(
            "Fine-mixing has a lower ASR than fine-tuning and than fine-pruning, at a CACC no more than 2 points lower",
            tuple(
                Comparison(FINE_MIXING, rival, task, keeps_accuracy=True)
                for task in (*tasks, None)
                for rival in (FINE_TUNING, FINE_PRUNING)
            ),
        ),
        Claim(
            "E-PUR lowers the ASR of every method against poisoned embeddings (EP, DFEP)",
            tuple(Comparison(method.after_e_pur(), method, attacks=POISONED_EMBEDDINGS) for method in (NO_DEFENSE, *REPAIRS)),
        ),
        Claim(
            "E-PUR lowers the ASR of every method against embedding surgery (ES)",
            tuple(Comparison(method.after_e_pur(), method, attacks=SURGERY) for method in (NO_DEFENSE, *REPAIRS)),
        ),
        Claim(
            "E-PUR + Fine-mixing has the lowest ASR on average, or is within 2 points of it",
            tuple(Comparison(best, rival, asr_below=MARGIN) for rival in rivals),
        ),
    ]


def paired_interval(differences: Sequence[float], tasks: Sequence[str] = ()) -> Interval:
    """The mean d of n paired differences d_i with an interval of Student's t around it.

    Of several `tasks` (one name per difference) each is a cluster g, so that with G of them the squared standard error is
    G / (G - 1) sum_g (sum_{i in g} (d_i - d))^2 / n^2, at G - 1 degrees of freedom; otherwise each pair is its own cluster.
    """
    n = len(differences)
    if n < 2:
        mean = differences[0] if n else float("nan")
        return Interval(mean, float("-inf"), float("inf"), n)
    mean = statistics.fmean(differences)
    clusters: dict[object, float] = {}
    for cluster, difference in zip(tasks if len(set(tasks)) > 1 else range(n), differences, strict=True):
        clusters[cluster] = clusters.get(cluster, 0.0) + difference - mean
    count = len(clusters)
    error = math.sqrt(count / (count - 1) * math.fsum(total**2 for total in clusters.values())) / n
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return Interval(mean, mean - half, mean + half, n)


def verdict(interval: Interval, below: float) -> str:
    """Whether the mean lies below a bound: supported if all of the interval does, contradicted if none of it does."""
    if interval.n < 2:
        return TOO_FEW
    if interval.high < below:
        return SUPPORTED
    return CONTRADICTED if interval.low > below else UNDECIDED


def findings(records: Iterable[Record]) -> list[tuple[Claim, list[Finding]]]:
    """Every claim with what the records say. Raises UsageError if a method has two cells on the same victim."""
    return _findings(_counting(_by_attack(records)))


def _findings(counting: Mapping[Label, Sequence[Record]]) -> list[tuple[Claim, list[Finding]]]:
    records = [record for of_label in counting.values() for record in of_label]
    tasks = sorted({record.spec.victim.task for record in records})
    return [(claim, [_finding(comparison, records) for comparison in claim.comparisons]) for claim in claims(tasks)]


def _by_attack(records: Iterable[Record]) -> list[list[Summary]]:
    """The cells of every task and attack."""
    found: dict[tuple[str, str], list[Summary]] = {}
    for summary in summarize(records):
        found.setdefault((str(summary.task), str(summary.attack)), []).append(summary)
    return list(found.values())


def _counting(by_attack: Iterable[Sequence[Summary]]) -> dict[Label, list[Record]]:
    """By the attack's label, in the order of the tables: the cells that ended well on victims on which the attack works."""
    found: dict[Label, list[Record]] = {}
    for of_attack in by_attack:
        working = {victim for victim, rate in _undefended(of_attack).items() if works(rate)}
        cells = [record for record in _ended_well(of_attack) if record.spec.victim.key() in working]
        if cells:
            found.setdefault(of_attack[0].attack, []).extend(cells)
    return dict(sorted(found.items(), key=lambda item: item[0].rank))


def _ended_well(of_attack: Iterable[Summary]) -> list[Record]:
    return [record for summary in of_attack for record in summary.records if record.status == "ok"]


def _undefended(of_attack: Iterable[Summary]) -> dict[str, float]:
    """The undefended ASR of every victim of a task and attack with a trigger, by the victim's key; NaN if it is not known."""
    records = [record for record in _ended_well(of_attack) if "asr" in record.metrics]
    rates = dict.fromkeys((record.spec.victim.key() for record in records), math.nan)
    return rates | {r.spec.victim.key(): r.metrics["asr"].value for r in records if NO_DEFENSE.fits(r)}


def _finding(comparison: Comparison, records: Sequence[Record]) -> Finding:
    wanted = [
        record
        for record in records
        if comparison.task in (None, record.spec.victim.task)
        and (comparison.attacks is None or record.spec.victim.attack.name in comparison.attacks)
    ]
    ours, rivals = _by_victim(comparison.ours, wanted), _by_victim(comparison.rival, wanted)
    both = sorted(ours.keys() & rivals.keys())

    def interval(metric: str) -> Interval:
        differences = [ours[victim].metrics[metric].value - rivals[victim].metrics[metric].value for victim in both]
        return paired_interval(differences, [ours[victim].spec.victim.task for victim in both])

    return Finding(comparison, interval("asr"), interval("cacc"))


def _by_victim(method: Method, records: Sequence[Record]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in records:
        if method.fits(record):
            key = record.spec.victim.key()
            if key in found:
                raise UsageError(
                    f"{method.name} was run on {record.spec.label()} with two settings (records {found[key].key} and "
                    f"{record.key}); claims compare one setting of each defense: keep the others in another folder"
                )
            found[key] = record
    return found


def _means(counting: Mapping[Label, Sequence[Record]]) -> list[str]:
    """Two tables over the victims on which every method that occurs ended well: ASR by attack, all rates by method."""
    label_of = {record.spec.victim.key(): label for label, records in counting.items() for record in records}
    everything = [record for records in counting.values() for record in records]
    cells = {method: found for method in METHODS if (found := _by_victim(method, everything))}
    common = [victim for victim in label_of if all(victim in found for found in cells.values())]
    specs = {record.spec.victim.key(): record.spec.victim for record in everything}
    tasks, seeds = [specs[victim].task for victim in common], Counter(specs[victim].seed for victim in common)

    def values(method: Method, metric: str, victims: Iterable[str]) -> list[float]:
        metrics = [cells[method][victim].metrics for victim in victims]
        # early records have no base rate, and then there is no mean of it
        return [found[metric].value for found in metrics] if all(metric in found for found in metrics) else []

    def mean(rates: Sequence[float]) -> str:
        return percent(statistics.fmean(rates)) if rates else ABSENT

    by_label, by_method = [], []
    for label in counting:
        victims = [victim for victim in common if label_of[victim] == label]
        by_label.append([str(label), len(victims), *(mean(values(method, "asr", victims)) for method in cells)])
    for method in cells:
        cacc, asr, base = (values(method, metric, common) for metric in ("cacc", "asr", "base"))
        excess = [with_it - without for with_it, without in zip(asr, base, strict=True)] if base else []
        added = str(paired_interval(excess, tasks if base else ()))
        by_method.append([method.name, len(common), mean(cacc), mean(asr), mean(base), added])
    floor = mean(values(next(iter(cells)), "floor", common)) if cells else ABSENT
    return [
        "## Means",
        "",
        "Over the victims on which every method ended well"
        + (f" ({', '.join(f'{n} of seed {seed}' for seed, n in sorted(seeds.items()))})" if seeds else "")
        + ". ASR by attack:",
        "",
        _table(by_label, ["attack", "victims", *(method.name for method in cells)]),
        "",
        "By method. Base: the share of the same rows that goes to the target without the trigger, as a repaired model may "
        "owe to its fine-tuning; ASR - base is what the trigger adds. Of a never-poisoned model the ASR on the same texts, the "
        f"floor, is {floor} on average: the words of a trigger move any model, to either side.",
        "",
        _table(by_method, ["method", "victims", "CACC", "ASR", "base", "ASR - base"]),
    ]


def _table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    alignment = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=alignment if rows else None)


def _coverage(by_attack: Sequence[Sequence[Summary]]) -> str:
    """How many cells there are, and which attacks are left out with what undefended ASR."""
    summaries = [summary for of_attack in by_attack for summary in of_attack]
    records = [record for summary in summaries for record in summary.records]
    left = []
    for of_attack in by_attack:
        rates = _undefended(of_attack)
        failed = [victim for victim, rate in rates.items() if not works(rate)]
        if failed:
            found = [rates[victim] for victim in failed if not math.isnan(rates[victim])]
            why = f"ASR {percent(statistics.fmean(found))}" if found else "no undefended victim"
            seeds = {r.spec.victim.seed for r in _ended_well(of_attack) if r.spec.victim.key() in failed}
            which = f", seed {', '.join(map(str, sorted(seeds)))}" if len(failed) < len(rates) else ""
            left.append(f"{of_attack[0].task} / {of_attack[0].attack}{which} ({why})")
    return (
        f"{len(records)} cells of {len({summary.attack for summary in summaries})} attacks on "
        f"{len({summary.task for summary in summaries})} tasks, seeds "
        f"{', '.join(map(str, sorted({record.spec.victim.seed for record in records})))}. "
        f"Left out: {'; '.join(left) or 'none'}."
    )


def text(records: Iterable[Record]) -> str:
    """The claims, what was found, and the verdicts, in Markdown."""
    by_attack = _by_attack(records)
    counting = _counting(by_attack)
    lines = [
        "# Claims",
        "",
        "Mean paired differences of ASR and CACC in points between two cells on the same victim, with 95 % intervals; victims "
        f"with an undefended ASR below {WORKS_FROM:g} % are left out. The attacks on a task share rows, clean model and draws, "
        "so an interval over several tasks is over clusters, one a task (Student's t); that of one task is over its pairs, and "
        "holds for the rows that were drawn. Supported: the whole interval is on the claimed side; contradicted: none of it "
        "is; not supported: it holds the bound.",
        "",
        _coverage(by_attack),
        "",
        *_means(counting),
    ]
    for number, (claim, found) in enumerate(_findings(counting), start=1):
        held = sum(finding.verdict == SUPPORTED for finding in found)
        against = sum(finding.verdict == CONTRADICTED for finding in found)
        rows = [
            [
                finding.comparison.task or ALL_TASKS,
                f"{finding.comparison.ours.name} – {finding.comparison.rival.name}",
                finding.asr.n,
                str(finding.asr),
                str(finding.cacc),
                finding.verdict,
            ]
            for finding in found
        ]
        summary = f"Supported in {held} of {len(found)} comparisons, contradicted in {against}."
        headers = ["task", "difference", "pairs", "ASR", "CACC", "verdict"]
        lines += ["", f"## {number}. {claim.statement}", "", tabulate(rows, headers, tablefmt="github"), "", summary]
    return "\n".join(lines) + "\n"
