"""Rankings, the bootstrap behind their intervals, and ranks on blocks: by hand, by scipy, and by simulation."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from boards import markdown
from scipy import stats
from test_tables import cell

from bdbench.analysis.block_ranks import block_ranks, critical_difference
from bdbench.analysis.bootstrap import ROUNDS, Block, CellRows, Draws, draw
from bdbench.analysis.intervals import holm
from bdbench.analysis.labels import Label
from bdbench.analysis.ranking import Rules, rankings
from bdbench.analysis.saved_rows import rows_of
from bdbench.analysis.summaries import summarize

# the bootstrap


def rows(right, others=None, hit=None, base=None, rejected=None) -> CellRows:
    of_rows = [
        np.array(part if part is not None else [False] * len(right), dtype=bool) for part in (others, hit, base, rejected)
    ]
    return CellRows(np.array(right, dtype=bool), *of_rows)


def test_the_first_round_is_the_cells_as_they_are():
    block = Block("sst2", "word", 0)
    one = rows([1, 1, 0, 1], others=[1, 1, 0, 0], hit=[1, 0, 0, 0], base=[0, 0, 0, 0], rejected=[0, 0, 0, 1])
    draws = draw([block], {"sst2": 4})
    assert [draws.rates([one], metric)[0, 0] for metric in ("cacc", "asr", "base", "frr")] == [0.75, 0.5, 0, 0.25]
    assert draws.rates([one], "cacc").shape == (ROUNDS + 1, 1)
    estimate = draws.estimate(draws.mean(draws.rates([one], "cacc")), (0.0, 1.0))
    assert estimate.value == 0.75 and estimate.low > 0 and estimate.high == 1.0  # cut


def test_the_same_rows_are_drawn_for_all_cells_of_a_task():
    """Two cells that are right on the same rows differ in no round; one that is right on the others mirrors them."""
    blocks = [Block("sst2", "word", 0), Block("sst2", "sentence", 0)]
    half = np.arange(100) < 50
    draws = draw(blocks, {"sst2": 100})
    alike = draws.rates([rows(half), rows(half)], "cacc")
    assert np.array_equal(alike[:, 0], alike[:, 1]) and alike[1:, 0].std() > 0
    mirrored = draws.rates([rows(half), rows(~half)], "cacc")
    assert np.allclose(mirrored.sum(axis=1), 1)
    assert draws.estimate(draws.mean(mirrored)).high == pytest.approx(0.5)


def test_what_is_drawn_is_the_highest_level_of_which_there_is_enough():
    def drawn(tasks, seeds):
        blocks = [Block(f"task{task}", "word", seed) for task in range(tasks) for seed in range(seeds)]
        return draw(blocks, {f"task{task}": 10 for task in range(tasks)})

    one, few, many = drawn(1, 2), drawn(2, 3), drawn(5, 3)
    assert (one.clusters, one.degrees, set(one.of_rows)) == (0, math.inf, {"task0"})
    assert (few.clusters, few.degrees, set(few.of_rows)) == (3, 4, {"task0", "task1"})
    assert (many.clusters, many.degrees, set(many.of_rows)) == (5, 4, set())
    assert [len(draws.weights) for draws in (one, few, many)] == [1 + ROUNDS, 1 + 2 * ROUNDS, 1 + ROUNDS]
    of_tasks = many.weights.reshape(-1, 5, 3)
    assert (of_tasks[:, :, 0] == of_tasks[:, :, 2]).all() and (of_tasks[:, :, 0].sum(axis=1) == 5).all()
    of_seeds = few.weights.reshape(-1, 2, 3)
    assert (of_seeds.sum(axis=2) == 3).all() and (of_seeds[:, 0] != of_seeds[:, 1]).any()


def test_the_error_of_rows_is_that_of_the_binomial():
    right = np.arange(400) < 300
    draws = draw([Block("sst2", "word", 0)], {"sst2": 400})
    estimate = draws.estimate(draws.mean(draws.rates([rows(right)], "cacc")), (0.0, 1.0))
    half_width = stats.norm.ppf(0.975) * math.sqrt(0.75 * 0.25 / 400)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half_width, rel=0.08)


def test_the_error_of_tasks_is_that_of_students_t():
    shares = [0.2, 0.4, 0.5, 0.7, 0.9]
    draws = draw([Block(f"task{place}", "word", 0) for place in range(5)], {})
    cells = [rows(np.arange(10) < 10 * share) for share in shares]
    estimate = draws.estimate(draws.mean(draws.rates(cells, "cacc")), (0.0, 1.0))
    expected = stats.ttest_1samp(shares, 0).confidence_interval(0.95)
    assert estimate.value == pytest.approx(0.54)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, min(1, expected.high)), abs=0.02)
    assert estimate.p == pytest.approx(stats.ttest_1samp(shares, 0).pvalue, rel=0.3)


@pytest.mark.parametrize(
    ("tasks", "seeds", "of_tasks", "of_seeds"), [(1, 1, 0, 0), (1, 5, 0, 0.1), (2, 3, 0, 0.1), (5, 2, 0.15, 0.05)]
)
def test_95_per_cent_intervals_hold_in_95_per_cent(tasks, seeds, of_tasks, of_seeds, monkeypatch):
    """Rows have difficulties, tasks and seeds shift all of theirs. With 2,000 repetitions 94.2, 96.9, 97.3 and 95.6 %."""
    monkeypatch.setattr("bdbench.analysis.bootstrap.ROUNDS", 200)
    generator, n, repetitions = np.random.default_rng(7), 200, 400
    blocks = [Block(f"task{task}", "word", seed) for task in range(tasks) for seed in range(seeds)]
    share = stats.norm.cdf(0.5 / math.sqrt(2 + of_tasks**2 + of_seeds**2))
    covered = 0
    for repetition in range(repetitions):
        monkeypatch.setattr("bdbench.analysis.bootstrap.SEED", repetition)
        cells = []
        for _ in range(tasks):
            ease = 0.5 + generator.normal(0, of_tasks) + generator.normal(size=n)
            cells += [rows(ease + generator.normal(0, of_seeds) + generator.normal(size=n) > 0) for _ in range(seeds)]
        draws = draw(blocks, {block.task: n for block in blocks})
        estimate = draws.estimate(draws.mean(draws.rates(cells, "cacc")), (0.0, 1.0))
        covered += estimate.low <= share <= estimate.high
    assert 0.93 <= covered / repetitions <= 0.98, covered / repetitions


# ranks on blocks


def test_average_ranks_and_tests_are_those_of_scipy():
    generator = np.random.default_rng(3)
    table = generator.random((4, 12)) + np.array([0.0, 0.1, 0.5, 0.6])[:, None]
    labels = [Label(name) for name in "abcd"]
    ranks = block_ranks(dict(zip(labels, table, strict=True)))
    assert ranks.friedman_p == pytest.approx(stats.friedmanchisquare(*table).pvalue)
    assert sum(ranks.average_ranks.values()) == pytest.approx(10) and ranks.blocks == 12
    plain = stats.wilcoxon(table[0] - table[3]).pvalue
    assert plain <= ranks.p_values[labels[0], labels[3]] <= 6 * plain + 1e-12
    assert ranks.wins[labels[0], labels[3]] + ranks.wins[labels[3], labels[0]] == 1


@pytest.mark.parametrize("blocks", [9, 13, 14, 50, 51])
def test_pairs_that_are_tested_at_once_are_tested_as_if_alone(blocks):
    """Some differ everywhere, some have ties, zeros, or nothing but zeros."""
    table = np.random.default_rng(3).random((7, blocks))
    table[1:4] = np.round(4 * table[1:4]) / 4
    table[4], table[5] = table[3], table[0] + np.where(np.arange(blocks) % 3, 0.5, 0)
    labels = [Label(name) for name in "abcdefg"]
    pairs = list(itertools.combinations(range(7), 2))
    differences = [table[one] - table[other] for one, other in pairs]
    alone = [float(stats.wilcoxon(row).pvalue) if row.any() else 1.0 for row in differences]
    p_values = block_ranks(dict(zip(labels, table, strict=True))).p_values
    assert p_values == {(labels[one], labels[other]): p for (one, other), p in zip(pairs, holm(alone), strict=True)}


def test_the_critical_difference_is_demsars():
    """Demsar (2006), table 5: q is 2.569 of 4 classifiers; so of 14 data sets 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25."""
    assert critical_difference(4, 14) == pytest.approx(2.569 * math.sqrt(20 / 84), abs=1e-3)
    assert critical_difference(2, 10) == pytest.approx(1.960 * math.sqrt(6 / 60), abs=1e-3)


def test_few_blocks_say_nothing_and_equals_do_not_differ():
    assert block_ranks({Label(name): [0.1] * 4 for name in "abc"}) is None
    assert block_ranks({Label(name): [0.1] * 9 for name in "ab"}) is None
    alike = block_ranks({Label(name): [0.1, 0.2, 0.3, 0.4, 0.5] for name in "abc"})
    assert alike.friedman_p == 1 and set(alike.p_values.values()) == {1} and set(alike.average_ranks.values()) == {2}


# rankings


def no_predictions(record):
    return None


ATTACKS = ("word", "sentence")


def board(**asr_by_defense):
    """Cells of two attacks on which "none" leaves everything; a defense's own ASR, and with "cacc" another accuracy."""
    records = [cell("none", attack, asr=1.0, base=0.1) for attack in ATTACKS]
    for name, (asr, cacc) in asr_by_defense.items():
        records += [cell(name.replace("_", "-"), attack, cacc=cacc, asr=asr, base=0.1) for attack in ATTACKS]
    return records


DEFAULT = Rules()


def ranks_of(records, rules=DEFAULT, predictions_of=no_predictions):
    (ranking,) = rankings(summarize(records), predictions_of, rules)
    return {str(place.defense): (place.rank, place.tied, place.unranked) for place in ranking.places}, ranking


def test_defenses_are_ranked_by_what_the_trigger_adds_and_equals_are_tied():
    ranks, ranking = ranks_of(board(mixing=(0.2, 0.88), other=(0.2, 0.87), tuning=(1.0, 0.9), coin=(0.1, 0.5)))
    assert ranks == {
        "mixing": (1, True, ""),
        "other": (1, True, ""),
        "tuning": (3, False, ""),
        "coin": (None, False, "loses more than 5 points"),
    }
    first = ranking.places[0]
    values = {name: estimate.value for name, estimate in first.estimates.items()}
    expected = {"cacc": 0.88, "lost": 0.02, "asr": 0.2, "added": 0.1, "worst": 0.2, "anti-bad": math.sqrt(0.88 * 0.8)}
    assert values == pytest.approx(expected)
    assert not ranking.has_intervals and first.estimates["asr"].low is None
    assert (ranking.tasks, ranking.attacks, len(ranking.blocks)) == (1, 2, 2)
    assert ranking.undefended.rank is None and ranking.undefended.estimates["asr"].value == 1


@pytest.mark.parametrize(("by", "first"), [("added", "low"), ("asr", "low"), ("worst", "even"), ("anti-bad", "accurate")])
def test_each_criterion_has_its_own_winner(by, first):
    """Means of ASR: low 0.3 (0.6 at worst), even 0.35, accurate 0.36 with the best accuracy."""
    records = [cell("none", attack) for attack in ATTACKS]
    for name, cacc, rates in (("low", 0.86, (0.0, 0.6)), ("even", 0.86, (0.35, 0.35)), ("accurate", 0.95, (0.36, 0.36))):
        records += [cell(name, attack, cacc=cacc, asr=asr) for attack, asr in zip(ATTACKS, rates, strict=True)]
    ranks, ranking = ranks_of(records, Rules(by=by, tolerance=0.1))
    assert next(iter(ranks)) == first and ranks[first][0] == 1
    low = next(place for place in ranking.places if str(place.defense) == "low")
    assert low.estimates["worst"].value == 0.6 and low.worst_attack == "sentence"


def test_a_victim_counts_if_the_attack_works_and_every_defense_was_run_on_it():
    records = [*board(mixing=(0.2, 0.88)), cell("none", "weak", asr=0.5), cell("mixing", "weak", asr=0.0)]
    ranks, ranking = ranks_of(records)
    assert {block.attack for block in ranking.blocks} == set(ATTACKS) and ranking.left_out == 0
    skipped = [*records, cell("none", "third"), cell("mixing", "third", status="skipped", error="no")]
    assert ranks_of(skipped)[1].left_out == 1 and ranks_of(skipped)[0] == ranks
    missing = [*records, cell("none", "third")]
    assert ranks_of(missing)[1].left_out == 1
    failed = [*records, cell("none", "third"), cell("mixing", "third", status="failed", error="no")]
    ranks, ranking = ranks_of(failed)
    assert ranks == {"mixing": (None, False, "failed on 1")} and len(ranking.blocks) == 3


def test_kinds_are_ranked_apart_unless_asked_for():
    guard = [replace(record, kind="detector") for record in board(strip=(0.5, 0.9))[2:]]
    filtered = [replace(record, kind="filter") for record in board(cube=(0.1, 0.9))[2:]]
    records = [*board(mixing=(0.2, 0.9)), *guard, *filtered]
    apart = rankings(summarize(records), no_predictions)
    assert [(ranking.group, [str(place.defense) for place in ranking.places]) for ranking in apart] == [
        ("repairs", ["mixing"]),
        ("guards", ["STRIP"]),
        ("training", ["CUBE"]),
    ]
    (together,) = rankings(summarize(records), no_predictions, Rules(together=True))
    assert [str(place.defense) for place in together.places] == ["CUBE", "mixing", "STRIP"]


def test_a_task_of_more_seeds_counts_no_more_than_another():
    """Three seeds of SST-2 and one of QQP: of the word (0 + 0.8) / 2, of the sentence (0.9 + 0) / 2, not 0.2 and 0.675."""
    records = []
    for task, seeds, rates in (("sst2", (0, 1, 2), (0.0, 0.9)), ("qqp", (0,), (0.8, 0.0))):
        for seed, (attack, asr) in itertools.product(seeds, zip(ATTACKS, rates, strict=True)):
            at = {"task": task, "seed": seed}
            records += [cell("none", attack, **at), cell("low", attack, cacc=0.85 if task == "qqp" else 0.89, asr=asr, **at)]
    _, ranking = ranks_of(records)
    (low,) = ranking.places
    assert low.estimates["asr"].value == pytest.approx(0.425) and low.estimates["cacc"].value == pytest.approx(0.87)
    assert (low.estimates["worst"].value, low.worst_attack) == (pytest.approx(0.45), "sentence")
    page = markdown(records)
    assert "8 victims: 2 tasks, 2 attacks, 1 to 3 seeds." in page and "; 1 to 3 seeds." in page  # the ranking, a caption


def test_models_are_ranked_apart():
    records = [*board(mixing=(0.2, 0.9)), *(replace_model(record) for record in board(mixing=(0.9, 0.9)))]
    first, second = rankings(summarize(records), no_predictions)
    assert {first.setting.variant, second.setting.variant} == {(("model", "minilm"),), (("model", "mpnet"),)}


def replace_model(record):
    return cell(record.spec.defense_name, record.spec.victim.attack.name, asr=record.metrics["asr"].value, model="mpnet")


GOLD = np.array([0, 1] * 100, dtype=np.int16)


def predictions(asr, seed, shift=0):
    """Of 200 test rows, half of them triggered: so many rows of the others are taken for the target."""
    hits = np.zeros(100, dtype=np.int16)
    hits[np.random.default_rng(seed).permutation(100)[: round(100 * asr)]] = 1
    return {"clean": GOLD, "clean_gold": GOLD, "triggered": hits, "triggered_gold": np.zeros(100, dtype=np.int16)}


def test_with_predictions_there_are_intervals_and_what_cannot_be_told_apart_is_tied():
    def made(name, attack, asr):
        return cell(name, attack, cacc=1.0, asr=asr, base=0.0, rows=(200, 100))

    rates = {"none": 1.0, "first": 0.1, "second": 0.12, "third": 0.9}
    records = [made(name, attack, asr) for name, asr in rates.items() for attack in ATTACKS]

    def predictions_of(record):
        return predictions(record.metrics["asr"].value, seed=hash_of(record))

    def hash_of(record):
        return [*rates].index(record.spec.defense_name) * 2 + ATTACKS.index(record.spec.victim.attack.name)

    ranks, ranking = ranks_of(records, predictions_of=predictions_of)
    assert ranks == {"first": (1, True, ""), "second": (1, True, ""), "third": (3, False, "")}
    estimates = ranking.places[0].estimates
    assert ranking.has_intervals and estimates["asr"].low < 0.1 < estimates["asr"].high
    assert estimates["asr"].value == pytest.approx(0.1) and estimates["added"].value == pytest.approx(0.1)
    _, again = ranks_of(records[::-1], predictions_of=predictions_of)
    assert again.places[0].estimates == estimates


def test_a_rejected_row_is_neither_right_nor_the_target():
    record = replace(cell("strip"), spec=replace(cell("strip").spec, frr=0.25))
    saved = {
        "clean": np.array([0, 1, 1, 0], dtype=np.int16),
        "clean_gold": np.array([0, 1, 0, 0], dtype=np.int16),
        "triggered": np.array([1, 1, 0], dtype=np.int16),
        "triggered_gold": np.array([0, 0, 0], dtype=np.int16),
        "validation_scores": np.array([0.0, 1, 2, 3]),  # the threshold is 2
        "clean_scores": np.array([0.0, 3, 0, 2]),
        "triggered_scores": np.array([3.0, 1, 1]),
    }
    of_rows = rows_of(record, saved)
    assert of_rows.right.tolist() == [True, False, False, True] and of_rows.rejected.tolist() == [False, True, False, False]
    assert of_rows.others.tolist() == [True, False, True, True] and of_rows.hit.tolist() == [False, False, True, False]
    assert of_rows.base.tolist() == [False, False, True, False]


def test_the_page_begins_with_the_ranking():
    page = markdown(board(mixing=(0.2, 0.88), tuning=(1.0, 0.9), coin=(0.1, 0.5)))
    assert page.index("## Ranking") < page.index("## Overall")
    table = page.split("### Repairs of weights")[1].split("\n\n")[1].splitlines()
    cells = [[text.strip() for text in line.strip("|").split("|")] for line in table[2:]]
    assert [row[:2] for row in cells] == [
        ["1", "mixing"],
        ["2", "tuning"],
        ["–", "coin (loses more than 5 points)"],
        ["–", "none"],
    ]
    assert cells[0][4:10] == ["88.0", "+2.0", "20.0", "+10.0", "20.0", f"{100 * math.sqrt(0.88 * 0.8):.1f}"]
    assert "2 victims: 1 task, 2 attacks, 1 seed. Without intervals" in page


def test_a_loss_is_tolerated_as_it_is_printed():
    """From 90 to 85 % are 5 points, though 0.9 - 0.85 is more than 0.05 in floats."""
    ranks, _ = ranks_of(board(edge=(0.2, 0.85), over=(0.1, 0.849)))
    assert ranks == {"edge": (1, False, ""), "over": (None, False, "loses more than 5 points")}


def test_a_ranking_of_no_victims_does_not_blame_the_predictions():
    """There are none on which every defense was run."""
    apart = [cell("none", "word"), cell("one", "word", asr=0.2), cell("none", "sentence"), cell("two", "sentence", asr=0.2)]
    assert "0 victims: 0 tasks, 0 attacks, 0 seeds. Left out: 2 victims" in markdown(apart)


def test_average_ranks_are_shown_where_there_are_victims_enough():
    attacks = [f"attack{number}" for number in range(6)]
    rates = {"none": 1.0, "best": 0.1, "middle": 0.3, "last": 0.5}
    records = [cell(name, attack, asr=asr) for name, asr in rates.items() for attack in attacks]
    page = markdown(records)
    table = page.split("### Repairs of weights: average ranks")[1].split("\n\n")[1].splitlines()
    cells = [[text.strip() for text in line.strip("|").split("|")] for line in table[2:]]
    # of six pairs without a tie Wilcoxon's p is 2 / 2^6 = 0.031 at least, and three times as much after Holm
    assert cells == [
        ["best", "1.00", "100.0", "0 of 2"],
        ["middle", "2.00", "50.0", "0 of 2"],
        ["last", "3.00", "0.0", "0 of 2"],
    ]
    assert "on each of 6 victims by itself; 1 is best. They differ with p = 0.002 (Friedman)" in page
    assert "Of so few victims, and so many pairs of defenses, none could be clearly better." in page
    assert block_ranks({Label(name): [rate] * 7 for name, rate in rates.items() if name != "none"}).can_differ


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rank-by", "elo"], "--rank-by elo: one of added, asr, worst, anti-bad"),
        (["--tolerance", "5"], "--tolerance 5: a share of clean accuracy between 0 and 1"),
    ],
)
def test_rules_that_there_are_not_are_refused(words, said, in_process, tmp_path):
    ended = in_process("report", tmp_path, *words)
    assert ended.returncode == 2 and said in ended.stderr


def test_draws_without_rounds_have_no_interval():
    draws = Draws((Block("sst2", "word", 0),), np.ones((1, 1)))
    assert draws.estimate(draws.mean(np.array([[0.4]]))).low is None
