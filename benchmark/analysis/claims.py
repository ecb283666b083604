"""The seed paper's claims put to the test: paired differences between two defenses, their intervals, and a verdict.

The abstract of arXiv:2210.09545 says that Fine-mixing beats the usual mitigation methods and that E-PUR helps them too. Each
claim here is a bound on the mean difference of ASR (and of CACC) between two defenses of the same victims. A pair is a
(task, attack, seed) for which both cells ended well, on a victim on which the attack works undefended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bdbench.analysis.evidence import Evidence
from bdbench.analysis.intervals import Interval, paired_interval
from bdbench.analysis.methods import FINE_MIXING, FINE_PRUNING, FINE_TUNING, NO_DEFENSE, REPAIRS, Method
from bdbench.errors import UsageError
from bdbench.specs.records import Record

MARGIN = 0.02  # two points: the CACC that a lower ASR may cost, and the ASR within which two defenses are tied
SUPPORTED, UNDECIDED, TOO_FEW, CONTRADICTED = "supported", "not supported", "too few cells", "contradicted"
WORST_FIRST = (CONTRADICTED, TOO_FEW, UNDECIDED, SUPPORTED)
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

    def covers(self, record: Record) -> bool:
        """Whether the record is of a task and attack that this line is about."""
        victim = record.spec.victim
        return self.task in (None, victim.task) and (self.attacks is None or victim.attack.name in self.attacks)


@dataclass(frozen=True)
class Claim:
    """What the paper says, and the comparisons that show it."""

    statement: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Finding:
    """What the cells say of one comparison: the mean differences of ASR and CACC, ours less the rival's."""

    comparison: Comparison
    asr: Interval
    cacc: Interval

    @property
    def verdict(self) -> str:
        """The worse of the verdicts on ASR and, where it has to be kept, on accuracy."""
        verdicts = [verdict(self.asr, below=self.comparison.asr_below)]
        if self.comparison.keeps_accuracy:
            verdicts.append(verdict(-self.cacc, below=MARGIN))
        return min(verdicts, key=WORST_FIRST.index)


def verdict(interval: Interval, below: float) -> str:
    """Whether the mean lies below a bound: supported if all of the interval does, contradicted if none of it does."""
    if interval.n < 2:
        return TOO_FEW
    if interval.high < below:
        return SUPPORTED
    return CONTRADICTED if interval.low > below else UNDECIDED


def claims(tasks: Sequence[str]) -> list[Claim]:
    """The claims of the abstract, the first one for each of these tasks and for all."""
    best = FINE_MIXING.after_e_pur()
    compositions = [method.after_e_pur() for method in (*REPAIRS, NO_DEFENSE)]
    rivals = (*REPAIRS, *(method for method in compositions if method != best))
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


def findings(evidence: Evidence) -> list[tuple[Claim, list[Finding]]]:
    """Every claim with what the cells say. Raises UsageError if a method has two cells on the same victim."""
    records = evidence.records
    tasks = sorted({record.spec.victim.task for record in records})
    return [(claim, [_finding(comparison, records) for comparison in claim.comparisons]) for claim in claims(tasks)]


def _finding(comparison: Comparison, records: Iterable[Record]) -> Finding:
    covered = [record for record in records if comparison.covers(record)]
    ours, rivals = records_by_victim(comparison.ours, covered), records_by_victim(comparison.rival, covered)
    shared = sorted(ours.keys() & rivals.keys())
    tasks = [ours[victim].spec.victim.task for victim in shared]

    def interval(metric: str) -> Interval:
        differences = [ours[victim].metrics[metric].value - rivals[victim].metrics[metric].value for victim in shared]
        return paired_interval(differences, tasks)

    return Finding(comparison, interval("asr"), interval("cacc"))


def records_by_victim(method: Method, records: Iterable[Record]) -> dict[str, Record]:
    """The method's cells by the key of their victim. Raises UsageError if two are on the same victim."""
    by_victim: dict[str, Record] = {}
    for record in records:
        if not method.fits(record):
            continue
        key = record.spec.victim.key()
        if key in by_victim:
            raise UsageError(
                f"{method.name} was run on {record.spec.label()} with two settings (records {by_victim[key].key} and "
                f"{record.key}); claims compare one setting of each defense: keep the others in another folder"
            )
        by_victim[key] = record
    return by_victim
