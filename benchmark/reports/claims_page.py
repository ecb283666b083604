"""The seed paper's claims as a Markdown page: what bears on them, the means, the findings and their verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bdbench.analysis.claims import CONTRADICTED, ENOUGH_SEEDS, SUPPORTED, UNDECIDED, Claim, Finding, findings
from bdbench.analysis.evidence import Evidence, SettingEvidence, gather
from bdbench.analysis.intervals import LEVEL
from bdbench.analysis.labels import Label
from bdbench.analysis.means import Means, MethodMeans, means
from bdbench.analysis.printed import ABSENT, p_value, percent
from bdbench.analysis.summaries import cell_names
from bdbench.reports.markdown import escaped, github_table
from bdbench.reports.words import (
    WORKS,
    cautions,
    cells_on_other_victims,
    counted_cells,
    left_out,
    left_out_files,
    not_judged,
    number,
)
from bdbench.specs.records import Record
from bdbench.specs.saved import LeftOut
from bdbench.specs.tuned import Tuned

ALL_TASKS = "all tasks"
HOW_TO_READ = (
    "Mean paired differences of ASR and CACC in points between two cells on the same victim, with plain 95 % intervals; "
    f"victims on which the attack does not work are left out. {WORKS} The attacks on a task share rows, clean model and draws, "
    "so an interval over several tasks is over clusters, one a task (Student's t), with a standard error no smaller than that "
    "of independent pairs. Each task counts the same in a mean. The interval of one task is over its pairs, and holds for the "
    f"rows that were drawn. One task with fewer than {ENOUGH_SEEDS} seeds has no verdict (too few seeds); one on "
    "several tasks says on how few it stands: those of its task with the fewest."
)
HOW_TO_JUDGE = (
    "The verdicts of one claim are corrected for their number (Holm): p is the adjusted p-value of a comparison, from the same "
    "t distributions as the intervals, which are not corrected. Supported: every difference is on the claimed side, p below "
    f"{LEVEL}; contradicted: one is on the other side, p below {LEVEL}; not supported: neither."
)
SETTINGS = (
    "The cells are of {count} settings, told apart in the headings (model, data, precision, rows, clean set, the rule for the "
    "reserve ratio, ...). Each has its own means and verdicts: nothing is averaged, compared or corrected over settings."
)


def text(records: Iterable[Record], tunings: Iterable[Tuned] = (), left_out_records: Sequence[LeftOut] = ()) -> str:
    """The claims page in Markdown; cells that only a tuning chose are left out. `left_out_records` could not be read.

    Raises UsageError if a method has two cells on the same victim, and ValueError if a cell occurs twice.
    """
    records = list(records)
    evidence = gather(records, tunings)
    lines = ["# Claims", "", HOW_TO_READ, "", HOW_TO_JUDGE, ""]
    for remark in (_coverage(evidence), *left_out_files(left_out_records, len(records)), *_remarks(evidence)):
        lines += [escaped(remark), ""]
    settings = evidence.settings or (SettingEvidence(Label(""), {}),)
    findings_by_setting = {of_setting.setting: findings(of_setting.records) for of_setting in settings}
    if len(settings) > 1:
        lines += _overview(findings_by_setting)
    for of_setting in settings:
        setting = of_setting.setting.suffix
        means_of_setting = means(of_setting)
        lines += [f"## {_heading('Means', setting)}", "", *_means(means_of_setting)]
        if len(means_of_setting.by_task) > 1:
            lines += [f"## {_heading('Means by task', setting)}", "", *_means_by_task(means_of_setting)]
        for place, (claim, of_claim) in enumerate(findings_by_setting[of_setting.setting], start=1):
            lines += [f"## {place}. {_heading(claim.statement, setting)}", "", *_claim(of_claim)]
    return "\n".join(lines[:-1]) + "\n"


def _coverage(evidence: Evidence) -> str:
    """How many cells there are, and which victims are left out for what undefended rates."""
    summaries = evidence.summaries
    victims = [record.spec.victim for record in evidence.cells]
    listed = "; ".join(map(left_out, evidence.left_out)) or "none"
    attacks, tasks = {summary.attack for summary in summaries}, {summary.task for summary in summaries}
    seeds = sorted({victim.seed for victim in victims})
    return (
        f"{counted_cells(len(victims))} of {number(len(attacks), 'attack')} on {number(len(tasks), 'task')}, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds)) or ABSENT}. Left out: {listed}."
    )


def _remarks(evidence: Evidence) -> list[str]:
    """What else was left out and why, and what a reader has to know of the cells."""
    remarks = [
        f"Left out: {counted_cells(count)} of protocol {protocol}; cells of different protocols are not averaged together."
        for protocol, count in evidence.older_cells.items()
    ]
    if evidence.tuned_cells:
        remarks.append(
            f"Left out: {counted_cells(evidence.tuned_cells)} with hyperparameters that a tuning chose; the claims compare "
            "defenses with their default ones."
        )
    if evidence.adaptive_cells:
        remarks.append(
            f"Left out: {counted_cells(evidence.adaptive_cells)} of adaptive attacks; such an attack is made to get past some "
            "of the methods, and would favor the others."
        )
    if evidence.unequal_victims:
        remarks.append(
            "These cells are left out, because they did not stand on the same victim as its undefended cell "
            "(where there is none, as most of its cells); "
            f"{cells_on_other_victims(evidence.unequal_victims, cell_names(evidence.summaries))}"
        )
    if len(evidence.settings) > 1:
        remarks.append(SETTINGS.format(count=len(evidence.settings)))
    return remarks + not_judged(evidence.victims) + cautions(evidence.cells)


def _overview(findings_by_setting: Mapping[Label, list[tuple[Claim, list[Finding]]]]) -> list[str]:
    """A row for each claim and setting: how many of its comparisons have which verdict."""
    claims = [claim for claim, _ in next(iter(findings_by_setting.values()))]
    lines = ["## Verdicts by setting", ""]
    lines += [f"{place}. {escaped(claim.statement)}" for place, claim in enumerate(claims, start=1)]
    rows = []
    for place in range(1, len(claims) + 1):
        for setting, of_setting in findings_by_setting.items():
            of_claim = of_setting[place - 1][1]
            verdicts = [finding.verdict for finding in of_claim if finding.adjusted_p is not None]
            counts = [verdicts.count(verdict) for verdict in (SUPPORTED, UNDECIDED, CONTRADICTED)]
            seeds = min((finding.seeds for finding in of_claim if finding.asr.n), default=0)
            rows.append([place, escaped(setting.suffix), seeds, *counts, len(of_claim) - len(verdicts)])
    headers = ["claim", "setting", "seeds", "supported", "not supported", "contradicted", "no verdict"]
    return [*lines, "", github_table(rows, headers, left=(1,)), ""]


def _heading(title: str, setting: str) -> str:
    return escaped(f"{title} {setting}")


def _means(means: Means) -> list[str]:
    by_seed = ", ".join(f"{count} of seed {seed}" for seed, count in means.victims_by_seed.items())
    by_attack = [[escaped(str(row.attack)), row.victims, *map(_percent, row.asr)] for row in means.by_attack]
    by_method = [
        [row.method.name, row.victims, _percent(row.cacc), _percent(row.asr), _percent(row.base), str(row.added)]
        for row in means.by_method
    ]
    floor = ""
    if means.floor is not None:
        floor = (
            f" Of a never-poisoned model the ASR on the same texts, the floor, is {_percent(means.floor)} on average: the "
            "words of a trigger move any model, to either side."
        )
    return [
        f"Over the victims on which every method ended well{f' ({by_seed})' if by_seed else ''}. ASR by attack:",
        "",
        github_table(by_attack, ["attack", "victims", *(method.name for method in means.methods)]),
        "",
        "By method. Base: the share of the same rows that goes to the target without the trigger, as a repaired model may "
        f"owe to its fine-tuning; ASR - base is what the trigger adds.{floor}",
        "",
        github_table(by_method, ["method", "victims", "CACC", "ASR", "base", "ASR - base"]),
        "",
    ]


def _means_by_task(means: Means) -> list[str]:
    columns = [[*map(_rates, of_task.by_method), _percent(of_task.floor)] for of_task in means.by_task]
    rows = list(zip([*(method.name for method in means.methods), "floor"], *columns, strict=True))
    tasks = [f"{of_task.task} ({of_task.victims})" for of_task in means.by_task]
    return [
        "Over the same victims, CACC / ASR (base); behind each task the number of its victims.",
        "",
        github_table(rows, ["method", *map(escaped, tasks)]),
        "",
    ]


def _rates(means: MethodMeans) -> str:
    return f"{_percent(means.cacc)} / {_percent(means.asr)} ({_percent(means.base)})"


def _claim(of_claim: Sequence[Finding]) -> list[str]:
    verdicts = [finding.verdict for finding in of_claim]
    rows = [
        [
            escaped(finding.comparison.task or ALL_TASKS),
            f"{finding.comparison.ours.name} – {finding.comparison.rival.name}",
            finding.asr.n,
            str(finding.asr),
            str(finding.cacc),
            p_value(finding.adjusted_p),
            _verdict(finding),
        ]
        for finding in of_claim
    ]
    headers = ["task", "difference", "pairs", "ASR", "CACC", "p", "verdict"]
    supported, contradicted = verdicts.count(SUPPORTED), verdicts.count(CONTRADICTED)
    without = sum(finding.adjusted_p is None for finding in of_claim)
    return [
        github_table(rows, headers, left=(0, 1, 3, 4, 6)),
        "",
        f"Supported in {supported} of {len(verdicts)} comparisons, contradicted in {contradicted}; {without} have no verdict.",
        "",
    ]


def _verdict(finding: Finding) -> str:
    seeds = f" ({finding.seeds} seed{'s' if finding.seeds > 1 else ''})" if finding.few_seeds else ""
    return f"{finding.verdict}{seeds}"


def _percent(fraction: float | None) -> str:
    return ABSENT if fraction is None else percent(fraction)
