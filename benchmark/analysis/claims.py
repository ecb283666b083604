"""The seed paper's claims put to the test: paired differences between two defenses, their intervals, and a verdict.

The abstract of arXiv:2210.09545 says that Fine-mixing beats the usual mitigation methods and that E-PUR helps them too. Each
claim here is a bound on the mean difference of ASR (and of CACC) between two defenses of the same victims. A pair is a
(task, attack, seed) for which both cells ended well, on a victim on which the attack works undefended. The cells are of one
setting and one defender (`evidence.by_defender`). The verdicts of one claim are corrected for their number (Holm, 1979);
those on a single task need three seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from bdbench.analysis.intervals import LEVEL, Interval, holm, paired_interval
from bdbench.analysis.methods import FINE_MIXING, FINE_PRUNING, FINE_TUNING, NO_DEFENSE, REPAIRS, Method
from bdbench.analysis.summaries import seeds_by_task
from bdbench.errors import UsageError
from bdbench.specs.records import Record

MARGIN = Fraction(2, 100)  # two points: the CACC that a lower ASR may cost, and the ASR within which two defenses are tied
# All pairs of a task and seed share rows, clean model, clean set and draws: fewer seeds than these show no spread of them.
# One task has no verdict then. That on several tasks has one, which says on how few seeds it stands: those of the task that has
# the fewest, since an interval over tasks is no surer than the least certain of them.
ENOUGH_SEEDS = 3
SUPPORTED, UNDECIDED, CONTRADICTED = "supported", "not supported", "contradicted"
TOO_FEW, TOO_FEW_SEEDS = "too few cells", "too few seeds"
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
    asr_below: Fraction = Fraction(0)
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
    """What the cells say of one comparison: the mean differences of ASR and CACC, ours less the rival's.

    They are over so many `tasks`, each with `seeds` seeds or more. `adjusted_p` is the p-value of the comparison among those
    of its claim, and None where there is too little for a verdict.
    """

    comparison: Comparison
    asr: Interval
    cacc: Interval
    tasks: int
    seeds: int
    adjusted_p: float | None = None

    @property
    def lacks(self) -> str | None:
        """What there is too little of for a verdict, in the words of one; None if there is enough."""
        if self.asr.n < 2:
            return TOO_FEW
        return TOO_FEW_SEEDS if self.tasks < 2 and self.seeds < ENOUGH_SEEDS else None

    @property
    def verdict(self) -> str:
        """Supported or contradicted if the adjusted p-value says so; what is lacking for a verdict, if anything is."""
        if self.adjusted_p is None:
            return self.lacks or UNDECIDED
        return self.side[0] if self.adjusted_p < LEVEL else UNDECIDED

    @property
    def few_seeds(self) -> bool:
        """Whether there is a verdict that stands on fewer seeds than show their spread."""
        return self.adjusted_p is not None and self.seeds < ENOUGH_SEEDS

    @property
    def side(self) -> tuple[str, float]:
        """The side to which the comparison leans, supported or contradicted, and its p-value there, not adjusted.

        It is supported if every bound is kept, so that the largest p-value counts. It is contradicted if one is not: then the
        smallest counts, as often as there are bounds (Bonferroni).
        """
        bound = self.comparison.asr_below
        kept, broken = [self.asr.p_below(bound)], [self.asr.p_above(bound)]
        if self.comparison.keeps_accuracy:
            kept.append(self.cacc.p_above(-MARGIN))
            broken.append(self.cacc.p_below(-MARGIN))
        for_it, against_it = max(kept), min(1.0, len(broken) * min(broken))
        return (SUPPORTED, for_it) if for_it <= against_it else (CONTRADICTED, against_it)


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


def findings(records: Sequence[Record]) -> list[tuple[Claim, list[Finding]]]:
    """Every claim with what these cells, all of one setting, say: the verdicts of a claim are one family.

    Raises UsageError if a method has two cells on the same victim.
    """
    tasks = sorted({record.spec.victim.task for record in records})
    return [(claim, _adjusted([_finding(comparison, records) for comparison in claim.comparisons])) for claim in claims(tasks)]


def _finding(comparison: Comparison, records: Iterable[Record]) -> Finding:
    covered = [record for record in records if comparison.covers(record)]
    ours, rivals = records_by_victim(comparison.ours, covered), records_by_victim(comparison.rival, covered)
    shared = sorted(ours.keys() & rivals.keys())
    specs = [ours[victim].spec.victim for victim in shared]
    tasks = [spec.task for spec in specs]

    def interval(metric: str) -> Interval:
        differences = [ours[victim].metrics[metric].share - rivals[victim].metrics[metric].share for victim in shared]
        return paired_interval(differences, tasks)

    fewest_seeds = min(map(len, seeds_by_task(specs).values()), default=0)
    return Finding(comparison, interval("asr"), interval("cacc"), len(set(tasks)), fewest_seeds)


def _adjusted(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of a claim, the p-values of those that may have a verdict adjusted for their number."""
    tested = [place for place, finding in enumerate(findings) if finding.lacks is None]
    adjusted = dict(zip(tested, holm([findings[place].side[1] for place in tested]), strict=True))
    return [replace(finding, adjusted_p=adjusted.get(place)) for place, finding in enumerate(findings)]


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
