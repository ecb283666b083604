"""The seed paper's claims as a Markdown page: what bears on them, the means, the findings and their verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from bdbench.analysis.claims import CONTRADICTED, SUPPORTED, Claim, Finding, findings
from bdbench.analysis.evidence import Evidence, LeftOutVictims, gather
from bdbench.analysis.means import Means, means
from bdbench.analysis.printed import ABSENT, percent
from bdbench.analysis.summaries import WORKS_FROM, cell_names
from bdbench.reports.markdown import escaped, github_table
from bdbench.reports.words import cautions, cells_on_other_victims
from bdbench.specs.records import Record

ALL_TASKS = "all tasks"
HOW_TO_READ = (
    "Mean paired differences of ASR and CACC in points between two cells on the same victim, with 95 % intervals; victims "
    f"with an undefended ASR below {WORKS_FROM:g} % are left out. The attacks on a task share rows, clean model and draws, "
    "so an interval over several tasks is over clusters, one a task (Student's t); that of one task is over its pairs, and "
    "holds for the rows that were drawn. Supported: the whole interval is on the claimed side; contradicted: none of it "
    "is; not supported: it holds the bound."
)


def text(records: Iterable[Record]) -> str:
    """The claims page in Markdown.

    Raises UsageError if a method has two cells on the same victim, and ValueError if a cell occurs twice.
    """
    evidence = gather(records)
    lines = ["# Claims", "", HOW_TO_READ, "", _coverage(evidence), ""]
    for remark in _remarks(evidence):
        lines += [escaped(remark), ""]
    lines += _means(means(evidence))
    for number, (claim, of_claim) in enumerate(findings(evidence), start=1):
        lines += ["", *_claim(number, claim, of_claim)]
    return "\n".join(lines) + "\n"


def _coverage(evidence: Evidence) -> str:
    """How many cells there are, and which attacks are left out with what undefended ASR."""
    summaries = evidence.summaries
    victims = [record.spec.victim for record in evidence.cells]
    left_out = "; ".join(map(_left_out, evidence.left_out)) or "none"
    return (
        f"{len(victims)} cells of {len({summary.attack for summary in summaries})} attacks on "
        f"{len({summary.task for summary in summaries})} tasks, seeds "
        f"{', '.join(map(str, sorted({victim.seed for victim in victims})))}. "
        f"Left out: {left_out}."
    )


def _remarks(evidence: Evidence) -> list[str]:
    """What else was left out and why, and what a reader has to know of the cells."""
    remarks = [
        f"{count} cells of protocol {protocol} are left out: cells of different protocols are not averaged together."
        for protocol, count in evidence.older_cells.items()
    ]
    if evidence.unequal_victims:
        remarks.append(
            "These cells are left out, because they did not stand on the same victim as its undefended cell "
            "(where there is none, as most of its cells); "
            f"{cells_on_other_victims(evidence.unequal_victims, cell_names(evidence.summaries))}"
        )
    return remarks + cautions(evidence.cells)


def _left_out(victims: LeftOutVictims) -> str:
    reason = f"ASR {percent(statistics.fmean(victims.rates))}" if victims.rates else "no undefended victim"
    seeds = "" if victims.all_seeds else f", seed {', '.join(map(str, victims.seeds))}"
    return f"{victims.task} / {victims.attack}{seeds} ({reason})"


def _means(means: Means) -> list[str]:
    by_seed = ", ".join(f"{count} of seed {seed}" for seed, count in means.victims_by_seed.items())
    by_attack = [[str(row.attack), row.victims, *map(_percent, row.asr)] for row in means.by_attack]
    by_method = [
        [row.method.name, row.victims, _percent(row.cacc), _percent(row.asr), _percent(row.base), str(row.added)]
        for row in means.by_method
    ]
    return [
        "## Means",
        "",
        f"Over the victims on which every method ended well{f' ({by_seed})' if by_seed else ''}. ASR by attack:",
        "",
        github_table(by_attack, ["attack", "victims", *(method.name for method in means.methods)]),
        "",
        "By method. Base: the share of the same rows that goes to the target without the trigger, as a repaired model may "
        "owe to its fine-tuning; ASR - base is what the trigger adds. Of a never-poisoned model the ASR on the same texts, the "
        f"floor, is {_percent(means.floor)} on average: the words of a trigger move any model, to either side.",
        "",
        github_table(by_method, ["method", "victims", "CACC", "ASR", "base", "ASR - base"]),
    ]


def _claim(number: int, claim: Claim, of_claim: Sequence[Finding]) -> list[str]:
    verdicts = [finding.verdict for finding in of_claim]
    rows = [
        [
            finding.comparison.task or ALL_TASKS,
            f"{finding.comparison.ours.name} – {finding.comparison.rival.name}",
            finding.asr.n,
            str(finding.asr),
            str(finding.cacc),
            finding.verdict,
        ]
        for finding in of_claim
    ]
    headers = ["task", "difference", "pairs", "ASR", "CACC", "verdict"]
    supported, contradicted = verdicts.count(SUPPORTED), verdicts.count(CONTRADICTED)
    return [
        f"## {number}. {claim.statement}",
        "",
        github_table(rows, headers, left=(0, 1, 3, 4, 5)),
        "",
        f"Supported in {supported} of {len(verdicts)} comparisons, contradicted in {contradicted}.",
    ]


def _percent(fraction: float | None) -> str:
    return ABSENT if fraction is None else percent(fraction)
