"""The claims from literal records: verdicts worked by hand, pairs that count, settings that must not mix."""

from dataclasses import replace
from fractions import Fraction

import pytest
from scipy import stats
from test_tables import cell, md_rows

from bdbench.analysis.claims import (
    CONTRADICTED,
    SUPPORTED,
    TOO_FEW,
    TOO_FEW_SEEDS,
    UNDECIDED,
    Comparison,
    Finding,
    _adjusted,
    findings,
)
from bdbench.analysis.evidence import SettingEvidence, gather
from bdbench.analysis.intervals import paired_interval
from bdbench.analysis.means import means
from bdbench.analysis.methods import FINE_MIXING, FINE_MIXING_SEL, FINE_PRUNING, FINE_PRUNING_F, FINE_TUNING, NO_DEFENSE
from bdbench.errors import UsageError
from bdbench.reports.claims_page import ALL_TASKS, text
from bdbench.specs.keys import PROTOCOL
from bdbench.specs.records import AttackFacts


@pytest.mark.parametrize(
    ("differences", "below", "word"),
    [
        ([-0.3, -0.3], 0.0, SUPPORTED),
        ([-0.3, -0.1], 0.0, UNDECIDED),
        ([0.01, 0.01], 0.0, CONTRADICTED),
        ([0.01, 0.01], 0.02, SUPPORTED),
        ([0.02, 0.02], 0.02, UNDECIDED),
        ([0.0, 0.0], 0.0, UNDECIDED),
        ([-0.5], 0.0, TOO_FEW),
        ([], 0.0, TOO_FEW),
    ],
)
def test_a_verdict_needs_the_whole_interval(differences, below, word):
    comparison = Comparison(FINE_MIXING, FINE_TUNING, asr_below=Fraction(below))
    interval = paired_interval(differences)
    (alone,) = _adjusted([Finding(comparison, interval, interval, tasks=2, seeds=1)])
    assert alone.verdict == word


def run(mixing=(0.8, 0.2), tuning=(0.8, 0.9), attacks=("word", "style"), tasks=("sst2", "qqp"), seeds=(0, 1), **setting):
    """(CACC, ASR) of Fine-mixing and of fine-tuning on every victim, two seeds."""
    for at in [{"task": t, "attack": a, "seed": s, **setting} for t in tasks for a in attacks for s in seeds]:
        yield cell("none", cacc=0.85, asr=1.0, **at)
        yield cell("fine-tuning", cacc=tuning[0], asr=tuning[1], **at)
        yield cell("fine-mixing", cacc=mixing[0], asr=mixing[1], params={"select": "random"}, **at)


def only_setting(records) -> SettingEvidence:
    (setting,) = gather(records).settings
    return setting


def first_claim(records):
    """(task, rival) -> finding."""
    _, found = findings(only_setting(records).records)[0]
    return {(f.comparison.task or ALL_TASKS, f.comparison.rival.name): f for f in found}


def test_fine_mixing_against_fine_tuning():
    found = first_claim(run())
    assert {task for task, _ in found} == {"qqp", "sst2", ALL_TASKS}
    one, both = found["sst2", "fine-tuning"], found[ALL_TASKS, "fine-tuning"]
    assert (one.asr.mean, one.asr.n, one.verdict) == (Fraction(-7, 10), 4, TOO_FEW_SEEDS)
    assert (both.asr.n, both.verdict) == (8, SUPPORTED)
    assert found["sst2", "fine-pruning"].verdict == TOO_FEW


def test_a_lower_asr_does_not_make_up_for_lost_accuracy():
    assert first_claim(run(mixing=(0.7805, 0.2)))[ALL_TASKS, "fine-tuning"].verdict == SUPPORTED
    assert first_claim(run(mixing=(0.78, 0.2)))[ALL_TASKS, "fine-tuning"].verdict == UNDECIDED  # 0.8 - 0.78 > 0.02 in floats
    assert first_claim(run(mixing=(0.7795, 0.2)))[ALL_TASKS, "fine-tuning"].verdict == CONTRADICTED


def test_one_task_has_a_verdict_from_three_seeds_on():
    for seeds, verdict in (((0, 1), TOO_FEW_SEEDS), ((0, 1, 7), SUPPORTED)):
        found = first_claim(run(seeds=seeds))
        assert {found[task, "fine-tuning"].verdict for task in ("sst2", "qqp")} == {verdict}
        assert found[ALL_TASKS, "fine-tuning"].verdict == SUPPORTED
    alone = first_claim(run(tasks=("sst2",)))  # all tasks are one task here
    assert alone[ALL_TASKS, "fine-tuning"].verdict == TOO_FEW_SEEDS
    page = text(run(tasks=("sst2",)))
    assert "fewer than 3 seeds has no verdict (too few seeds)" in page
    assert "Supported in 0 of 4 comparisons, contradicted in 0; 4 have no verdict." in page


def spread(means):
    """Cells of fine-tuning and of E-PUR + Fine-mixing on four tasks, and of other rivals: ASR differences of these means,
    +- 5, 0, 0 and +- 5 points by task."""
    shifts = {"amazon": -0.05, "imdb": 0.05, "qqp": 0.0, "sst2": 0.0}
    for task, shift in shifts.items():
        yield cell("none", task=task)
        yield cell("e-pur+fine-mixing", asr=0.1, task=task)
        for rival, mean in means.items():
            yield cell(rival, asr=0.1 - mean + shift, task=task)


def test_the_verdicts_of_a_claim_are_corrected_for_their_number():
    """The standard error of every difference is sqrt(0.005 / 3 / 4); a mean of -6 points is significant alone, not among four.

    The bound is at +2 points: t = (0.02 - mean) / 0.020412 at three degrees of freedom.
    """
    means = {"fine-tuning": -0.3, "fine-pruning": -0.06, "fine-mixing": -0.055, "e-pur": -0.085}
    error = (0.005 / 3 / 4) ** 0.5
    plain = {rival: 2 * stats.t.sf((0.02 - mean) / error, 3) for rival, mean in means.items()}
    assert plain["fine-tuning"] < 0.05 / 4 < plain["e-pur"] < plain["fine-pruning"] < plain["fine-mixing"] < 0.05
    _, found = findings(only_setting(spread(means)).records)[3]
    tested = {finding.comparison.rival.name: finding for finding in found if finding.asr.n}
    expected = {"fine-tuning": 4 * plain["fine-tuning"], "E-PUR": 3 * plain["e-pur"]}
    expected |= dict.fromkeys(("fine-pruning", "Fine-mixing"), 2 * plain["fine-pruning"])  # none falls below one before it
    assert {rival: finding.adjusted_p for rival, finding in tested.items()} == pytest.approx(expected)
    verdicts = {"fine-tuning": SUPPORTED, "E-PUR": SUPPORTED, "fine-pruning": UNDECIDED, "Fine-mixing": UNDECIDED}
    assert {rival: finding.verdict for rival, finding in tested.items()} == verdicts
    for finding in tested.values():  # the printed interval is the plain one, and would say supported
        assert finding.asr.high < 0.02
    assert [finding.verdict for finding in found if not finding.asr.n] == [TOO_FEW] * 6


def test_a_comparison_with_two_bounds_is_supported_by_the_weaker_and_contradicted_by_the_stronger_of_them():
    comparison = Comparison(FINE_MIXING, FINE_TUNING, keeps_accuracy=True)
    lower, slightly = paired_interval([-0.3, -0.2, -0.25, -0.26]), paired_interval([-0.03, -0.01, -0.02, -0.05])
    kept, lost = paired_interval([0.0, 0.01, 0.0, 0.02]), paired_interval([-0.1, -0.12, -0.11, -0.11])
    assert Finding(comparison, lower, kept, 1, 3).side == (SUPPORTED, max(lower.p_below(0), kept.p_above(-0.02)))
    assert Finding(comparison, lower, lost, 1, 3).side == (CONTRADICTED, 2 * lost.p_below(Fraction(-2, 100)))
    assert Finding(comparison, slightly, kept, 1, 3).side == (SUPPORTED, slightly.p_below(0))


def test_models_under_one_task_have_verdicts_of_their_own():
    """Two folders of one name hold two models: on one Fine-mixing beats fine-tuning, on the other it is beaten."""
    first, second = "11112222" + 56 * "0", "99ffee00" + 56 * "0"
    at = {"seeds": (0, 1, 2), "model": "model"}
    records = [*run(digest=first, **at), *run(mixing=(0.8, 0.9), tuning=(0.8, 0.2), digest=second, **at)]
    settings = {str(setting.setting): setting for setting in gather(records).settings}
    assert [setting.strip() for setting in settings] == ["[digest=11112222]", "[digest=99ffee00]"]
    verdicts = []
    for setting in settings.values():
        _, found = findings(setting.records)[0]
        verdicts.append({finding.verdict for finding in found if finding.comparison.rival == FINE_TUNING})
    assert verdicts == [{SUPPORTED}, {CONTRADICTED}]
    page = text(records)
    for digits in ("11112222", "99ffee00"):
        assert f"## Means [digest={digits}]" in page
        assert page.count(f" points lower [digest={digits}]\n") == 1
    assert "The cells are of 2 settings" in page and "settings" not in text(run())


def test_a_model_under_two_names_is_one_model():
    records = [record for seed, name in ((0, "b"), (1, "a")) for record in run(seeds=(seed,), model=name, digest="same")]
    assert first_claim(records)["sst2", "fine-tuning"].asr.n == 4
    assert text(records) == text(records[::-1]) and "[" not in text(records).split("## Means")[1].split("##")[0].split("|")[0]


@pytest.mark.parametrize("field", ["precision", "source", "train_rows", "epochs"])
def test_settings_are_never_pooled(field):
    values = {"precision": ("bf16", "fp32"), "source": ("builtin", "hub"), "train_rows": (100, 200), "epochs": (1, 2)}[field]
    records = [record for value in values for record in run(**{field: value})]
    assert [setting.setting.suffix for setting in gather(records).settings] == [f"[{field}={value}]" for value in values]
    assert all(first_claim(run(**{field: value}))["sst2", "fine-tuning"].asr.n == 4 for value in values)


def test_a_degenerate_victim_is_left_out_and_the_page_says_why():
    records = [*run(), *(cell(d, "all", 0.5, 1.0, base=1.0, floor=1.0) for d in ("none", "fine-tuning", "fine-mixing"))]
    page = text(records)
    reason = "ASR 100.0 at a base rate of 100.0, ASR 100.0 at a floor of 100.0, CACC 50.0 at a majority rate of at most 50.0"
    assert f"Left out: sst2 / all / seed 0 ({reason})." in page
    assert "| all " not in page.split("## Means")[1].split("##")[0]
    assert first_claim(records)["sst2", "fine-tuning"].asr.n == 4


def test_attacks_that_failed_and_cells_without_a_partner_are_left_out():
    records = [record for record in run() if record.spec.victim.attack.name != "style"]
    for seed in (0, 1):
        at = {"attack": "style", "seed": seed}
        records += [cell("none", asr=0.5, **at), cell("fine-tuning", asr=0.0, **at)]
        records += [cell("fine-mixing", asr=0.9, **at)]
    records += [cell(defense, "new") for defense in ("none", "fine-tuning")] + [cell("fine-mixing", "new", status="failed")]
    covered = "21 cells of 3 attacks on 2 tasks, seeds 0, 1. Left out: "
    covered += "sst2 / style / seed 0 (ASR 50.0); sst2 / style / seed 1 (ASR 50.0)."
    assert covered in text(records)
    finding = first_claim(records)["sst2", "fine-tuning"]
    assert (finding.asr.mean, finding.asr.n) == (pytest.approx(-0.7), 2)


def test_the_interval_of_all_tasks_takes_a_task_for_one():
    """Of each task two equal differences, of -0.7 and -0.5: standard error 0.1 at one degree of freedom, of each task none."""
    records = [*run(tasks=("sst2",), attacks=("word",)), *run(tasks=("qqp",), attacks=("word",), mixing=(0.8, 0.4))]
    found = first_claim(records)
    one, both = found["qqp", "fine-tuning"], found[ALL_TASKS, "fine-tuning"]
    assert (str(one.asr), one.verdict) == ("-50.0 [-50.0, -50.0]", TOO_FEW_SEEDS)
    assert (str(both.asr), both.asr.n, both.verdict) == ("-60.0 [-187.1, +67.1]", 4, UNDECIDED)


def test_each_victim_is_judged_by_its_own_undefended_asr():
    """90.1 % on average, but the victim of seed 0 is left out; and one that works stays."""
    listed = ["sst2 / word / seed 0 (ASR 70.4)", "sst2 / word / seed 1 (ASR 50.0)"]
    for rates, left in (((0.704, 1.0, 1.0), listed[:1]), ((0.704, 0.5, 1.0), listed)):
        records = []
        for seed, rate in enumerate(rates):
            records += [cell("none", asr=rate, seed=seed), cell("fine-tuning", asr=rate, seed=seed)]
            records += [cell("fine-mixing", asr=0.2, params={"select": "random"}, seed=seed)]
        working = rates.count(1.0)
        assert first_claim(records)["sst2", "fine-tuning"].asr.n == working
        assert f"Left out: {'; '.join(left)}." in text(records)
        assert md_rows(text(records), "Means")["no defense"][:3] == [str(working), "90.0", "100.0"]


def test_in_the_means_a_task_of_more_seeds_counts_no_more_than_another():
    """ASR 20 and 60 %, CACC 80 and 60 % on QQP and SST-2: means of 40 and 70 %, though six of eight victims are of QQP."""
    records = [*run(tasks=("qqp",), seeds=(0, 1, 2)), *run(tasks=("sst2",), seeds=(0,), mixing=(0.6, 0.6))]
    of_all = means(only_setting(records))
    (mixing,) = [of_method for of_method in of_all.by_method if of_method.method == FINE_MIXING]
    assert (mixing.victims, mixing.asr, mixing.cacc) == (8, pytest.approx(0.4), pytest.approx(0.7))
    assert [of_attack.asr[of_all.methods.index(FINE_MIXING)] for of_attack in of_all.by_attack] == pytest.approx([0.4, 0.4])


def test_the_means_say_how_many_victims_are_of_which_seed():
    victims = ((0, "word"), (0, "style"), (1, "word"))
    records = [cell(defense, attack, seed=seed) for seed, attack in victims for defense in ("none", "e-pur")]
    assert "every method ended well (2 of seed 0, 1 of seed 1)." in text(records)


def test_e_pur_is_compared_with_what_follows_it_on_poisoned_embeddings_alone():
    records = []
    for seed in (0, 1):
        for attack, after in (("embedding-poisoning", 0.1), ("embedding-surgery", 0.95), ("badnets-word", 1.0)):
            at = {"attack": attack, "seed": seed}
            records += [cell("none", **at), cell("e-pur", asr=after, **at)]
            records += [cell("fine-tuning", **at), cell("e-pur+fine-tuning", asr=after, **at)]
    (_, poisoned), (_, surgery) = findings(only_setting(records).records)[1:3]
    assert [(f.comparison.ours.name, f.asr.n) for f in poisoned[:2]] == [("E-PUR", 2), ("E-PUR + fine-tuning", 2)]
    assert [float(f.asr.mean) for f in (*poisoned[:2], *surgery[:2])] == [-0.9, -0.9, -0.05, -0.05]


def test_variants_are_told_apart():
    frozen = cell("fine-pruning", params={"frozen": True})
    selected, after = (cell(name, params={"select": "activation"}) for name in ("fine-mixing", "e-pur+fine-mixing"))
    assert FINE_PRUNING_F.fits(frozen) and not FINE_PRUNING.fits(frozen)
    assert FINE_MIXING_SEL.fits(selected) and not FINE_MIXING.fits(selected) and not FINE_MIXING_SEL.fits(after)
    assert FINE_MIXING_SEL.after_e_pur().fits(after) and not FINE_MIXING.after_e_pur().fits(after)
    assert NO_DEFENSE.after_e_pur().fits(cell("e-pur"))


RULES = [{"search": True, "tolerance": 0.02, "trials": 3}, {"search": True, "tolerance": 0.05, "trials": 3}]
RULES.append({"search": False, "tolerance": 0.05, "trials": 3})


def under_rules(seeds=(0, 1, 2)):
    """On two tasks Fine-mixing leaves an ASR of 80, 20 and 90 % by the three rules; fine-tuning, without one, leaves 85 %."""
    for task in ("qqp", "sst2"):
        for seed in seeds:
            at = {"task": task, "seed": seed}
            yield cell("none", **at)
            yield cell("fine-tuning", asr=0.85, **at)
            for rule, asr in zip(RULES, (0.8, 0.2, 0.9), strict=True):
                yield cell("fine-mixing", asr=asr, params=rule, **at)


def test_each_rule_for_the_reserve_ratio_has_verdicts_of_its_own():
    settings = gather(under_rules()).settings
    assert [setting.setting.suffix for setting in settings] == [
        "[search=False]",
        "[search=True, tolerance=0.02]",
        "[search=True, tolerance=0.05]",
    ]
    for setting, difference in zip(settings, (0.05, -0.05, -0.65), strict=True):
        (mixing,) = [f for f in findings(setting.records)[0][1] if f.asr.n == 6 and f.comparison.rival == FINE_TUNING]
        assert float(mixing.asr.mean) == pytest.approx(difference)
    page = text(under_rules())
    overview = [line for line in page.split("## Verdicts by setting")[1].split("## Means")[0].splitlines() if "=" in line]
    # of claim 1 three comparisons with fine-tuning have enough cells, those with fine-pruning have none
    assert [" ".join(line.strip("| ").split()) for line in overview[:3]] == [
        r"1 | \[search=False] | 3 | 0 | 0 | 3 | 3",
        r"1 | \[search=True, tolerance=0.02] | 3 | 3 | 0 | 0 | 3",
        r"1 | \[search=True, tolerance=0.05] | 3 | 3 | 0 | 0 | 3",
    ]
    assert "Verdicts by setting" not in text(run())


def test_clean_sets_have_verdicts_of_their_own():
    records = [record for clean_rows in (64, 16) for record in run(clean_rows=clean_rows) if record.spec.defense_name != "none"]
    records += [
        cell("none", clean_rows=0, task=t, attack=a, seed=s) for t in ("sst2", "qqp") for a in ("word", "style") for s in (0, 1)
    ]
    assert [setting.setting.suffix for setting in gather(records).settings] == ["[clean_rows=16]", "[clean_rows=64]"]
    assert {len(setting.records) for setting in gather(records).settings} == {24}


def test_cells_of_other_defenses_make_no_defender():
    cells = [cell("strip", task=task) for task in ("qqp", "sst2")]
    others = [replace(record, spec=replace(record.spec, frr=0.05, validation_rows=200)) for record in cells]
    of_both, of_rules = (gather(records).settings for records in ([*under_rules(), *others], under_rules()))
    assert [setting.setting for setting in of_both] == [setting.setting for setting in of_rules]


def test_a_verdict_says_on_how_few_seeds_it_stands():
    row = "| all tasks | Fine-mixing – fine-tuning  | {} | -65.0 [-65.0, -65.0] | +0.0 [+0.0, +0.0] | < 0.001 | supported{} |"
    for seeds, remark in (((0,), " (1 seed)"), ((0, 1), " (2 seeds)"), ((0, 1, 2), "")):
        page = text(record for record in under_rules(seeds) if record.spec.defense[0].params.get("tolerance") != 0.02)
        page = " ".join(page.split())
        assert " ".join(row.format(2 * len(seeds), remark).split()) in page


def test_the_task_with_the_fewest_seeds_says_on_how_few_a_verdict_stands():
    """Three seeds of one task are no spread of another, of which there is one."""
    records = [*run(tasks=("qqp",), seeds=(0, 1, 2)), *run(tasks=("sst2",), seeds=(0,))]
    (both,) = [finding for finding in findings(records)[0][1] if finding.tasks == 2]
    assert (both.seeds, both.few_seeds) == (1, True)
    rules = [record for record in under_rules() if record.spec.victim.task == "qqp" or record.spec.victim.seed == 0]
    assert r"| 1 | \[search=True, tolerance=0.05] | 1 |" in " ".join(text(rules).split())


def test_two_settings_of_a_defense_are_refused():
    with pytest.raises(UsageError, match="two settings"):
        text([*run(), cell("fine-tuning", params={"epochs": 9})])


def test_the_means_are_over_the_victims_that_all_methods_share():
    records = []
    for task, tuned, mixed in (("sst2", 0.9, 0.3), ("qqp", 0.7, 0.2)):
        at = {"task": task, "attack": "word"}
        records += [cell("none", cacc=0.9, asr=1.0, base=0.1, **at), cell("fine-tuning", asr=tuned, base=0.2, **at)]
        records += [cell("fine-mixing", cacc=0.8, asr=mixed, base=0.25, params={"select": "random"}, **at)]
    # neither a victim that one method lacks, nor one whose attack failed
    records += [cell("none", "new"), cell("fine-tuning", "new", asr=0.0)]
    records += [cell(defense, "failed", asr=0.1) for defense in ("none", "fine-tuning", "fine-mixing")]
    rows = md_rows(text(records), "Means")
    assert rows["attack"] == ["victims", "no defense", "fine-tuning", "Fine-mixing"]
    assert rows["word"] == ["2", "100.0", "80.0", "25.0"] and rows["new"] == ["0", "–", "–", "–"] and "failed" not in rows
    # ASR - base: 0.05 and -0.05 around 0, standard error 0.05, t 12.7062
    assert rows["Fine-mixing"] == ["2", "80.0", "25.0", "25.0", "+0.0 [-63.5, +63.5]"]
    assert rows["no defense"] == ["2", "90.0", "100.0", "10.0", "+90.0 [+90.0, +90.0]"]


def test_the_means_by_task_are_over_the_victims_of_the_task():
    records = []
    for task, attack, mixed in (("sst2", "word", 0.3), ("sst2", "style", 0.5), ("qqp", "word", 0.2)):
        at = {"task": task, "attack": attack}
        records += [cell("none", cacc=0.9, asr=1.0, base=0.1, **at)]
        records += [cell("fine-mixing", cacc=mixed + 0.3, asr=mixed, base=0.25, params={"select": "random"}, **at)]
    rows = md_rows(text(records), "Means by task")
    assert rows["method"] == ["qqp (1)", "sst2 (2)"]
    assert rows["Fine-mixing"] == ["50.0 / 20.0 (25.0)", "70.0 / 40.0 (25.0)"]
    assert rows["no defense"] == ["90.0 / 100.0 (10.0)"] * 2 and rows["floor"] == ["5.0", "5.0"]
    # of one task the means by method say it all
    assert "by task" not in text([record for record in records if record.spec.victim.task == "sst2"])


def test_an_adaptive_attack_counts_for_no_claim():
    against = AttackFacts(against=("fine-mixing",))
    adaptive = [replace(record, attack=against) for record in run(attacks=("knows-mix",), mixing=(0.8, 1.0))]
    page, without = text([*run(), *adaptive]), text(run())
    assert "Left out: 12 cells of adaptive attacks; such an attack is made to get past some of the methods" in page
    assert md_rows(page, "Means") == md_rows(without, "Means") and "adaptive" not in without
    assert first_claim([*run(), *adaptive])["sst2", "fine-tuning"] == first_claim(run())["sst2", "fine-tuning"]


def test_the_page_of_one_cell_says_so_and_has_no_floor_without_victims():
    assert "1 cell of 1 attack on 1 task, seed 0. Left out: none." in text([cell()])
    assert "0 cells of 0 attacks on 0 tasks, seeds –." in text([]) and "never-poisoned" not in text([])


def test_records_from_before_the_base_rate_have_means_without_it():
    records = [cell(defense, asr=asr, seed=seed) for seed in (0, 1) for defense, asr in (("none", 1.0), ("fine-tuning", 0.5))]
    del records[1].metrics["base"]
    rows = md_rows(text(records), "Means")
    assert rows["fine-tuning"] == ["2", "90.0", "50.0", "–", "–"]
    assert rows["no defense"] == ["2", "90.0", "100.0", "10.0", "+90.0 [+90.0, +90.0]"]
    assert "no defense" not in md_rows(text([]), "Means")


def test_the_page_counts_its_verdicts():
    page = text(run())
    assert page.count("| supported") == 1 and "Supported in 1 of 6 comparisons, contradicted in 0; 5 have no verdict." in page
    row = "| all tasks | Fine-mixing – fine-tuning  |       8 | -70.0 [-70.0, -70.0] | +0.0 [+0.0, +0.0] | < 0.001 | supported"
    assert row in page


def test_one_pair_keeps_its_sign_and_its_decimals():
    records = [cell("none", asr=1.0), cell("fine-tuning", asr=1.0), cell("fine-pruning", asr=0.25)]
    page = text([*records, cell("fine-mixing", cacc=0.8, asr=0.5)])
    assert "| sst2      | Fine-mixing – fine-tuning  |       1 | -50.0 | -10.0  |   – | too few cells |" in page
    assert "| sst2      | Fine-mixing – fine-pruning |       1 | +25.0 | -10.0  |   – | too few cells |" in page


def victims_of_mixing(moved):
    """Fine-mixing and fine-tuning on four victims; the cells in `moved`, (defense, seed), stood on other bits."""
    records = []
    for seed in range(4):
        for defense, asr in (("none", 1.0), ("fine-tuning", 0.9), ("fine-mixing", 0.1 * (seed + 1))):
            weights = "99ffee00" if (defense, seed) in moved else "ab12cd34"
            records.append(cell(defense, asr=asr, seed=seed, weights=weights + 56 * "0"))
    return records


def test_a_pair_stands_on_the_same_bits():
    """Without seed 3 the differences of ASR are -0.8, -0.7 and -0.6: mean -0.7; with it they would be -0.65 on average."""
    assert first_claim(victims_of_mixing([]))["sst2", "fine-tuning"].asr.mean == pytest.approx(-0.65)
    records = victims_of_mixing([("fine-mixing", 3)])
    finding = first_claim(records)["sst2", "fine-tuning"]
    assert (finding.asr.mean, finding.asr.n) == (pytest.approx(-0.7), 3)
    page = text(records)
    assert "of the weights: sst2 / word / Fine-mixing / seed 3 (99ffee00, not ab12cd34)." in page
    # the means are over the victims that all methods share: seeds 0, 1 and 2
    assert md_rows(page, "Means")["Fine-mixing"][:3] == ["3", "90.0", "20.0"]
    assert "did not stand" not in text(victims_of_mixing([]))


def test_the_undefended_asr_judges_only_its_own_bits():
    """Both defenses of seed 3 stood on the same bits, but on those nothing says whether the attack works."""
    records = victims_of_mixing([("none", 3)])
    assert first_claim(records)["sst2", "fine-tuning"].asr.n == 3
    page = text(records)
    named = "sst2 / word / Fine-mixing / seed 3 (ab12cd34, not 99ffee00); sst2 / word / fine-tuning / seed 3 (ab12cd34, not"
    assert named in page
    assert md_rows(page, "Means")["no defense"][0] == "3"


def test_all_cells_on_the_same_other_bits_are_a_victim_like_any_other():
    moved = [("none", 3), ("fine-tuning", 3), ("fine-mixing", 3)]
    assert first_claim(victims_of_mixing(moved))["sst2", "fine-tuning"].asr.n == 4


def test_claims_on_an_older_protocol_say_so():
    old = f"Made under protocol 1, which {PROTOCOL} has replaced: 24 cells, shown as measured. A new run does not reuse them."
    records = [replace(record, spec=under(record.spec, protocol=1)) for record in run()]
    assert old in text(records).split("## Means")[0] and "Made under" not in text(run())


def test_claims_are_on_one_protocol_and_the_older_cells_are_left_out():
    older = [replace(record, spec=under(record.spec, protocol=1)) for record in run(mixing=(0.8, 0.9))]
    page = text([*older, *run()])
    assert first_claim([*older, *run()])["sst2", "fine-tuning"].asr.n == 4
    assert first_claim([*older, *run()])["sst2", "fine-tuning"].asr.mean == pytest.approx(-0.7)
    assert "Left out: 24 cells of protocol 1; cells of different protocols are not averaged together." in page
    assert "24 cells of 2 attacks on 2 tasks, seeds 0, 1. Left out: none." in page and "Made under" not in page


def under(spec, protocol):
    return replace(spec, victim=replace(spec.victim, protocol=protocol))


def test_claims_of_different_sources_say_so():
    records = [replace(record, env={"source": str(number % 2) * 64}) for number, record in enumerate(run())]
    assert "2 different versions of bdbench's source (00000000, 11111111)." in text(records)
