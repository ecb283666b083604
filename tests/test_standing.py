"""When an attack works on a victim: each condition alone, at its very bound, on few rows and on many."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from test_tables import cell

from bdbench.analysis.standing import Shortfall, majority_share, shortfalls, victims
from bdbench.analysis.summaries import summarize
from bdbench.specs.metrics import Metric, majority_rate

ASR, BASE, FLOOR, ACCURACY, UNKNOWN = (
    Shortfall.ASR,
    Shortfall.BASE,
    Shortfall.FLOOR,
    Shortfall.ACCURACY,
    Shortfall.UNKNOWN,
)


def metrics(cacc=(360, 400), asr=(200, 200), base=(20, 200), floor=(20, 200), majority=None):
    """Metrics from (hits, rows); None leaves one out."""
    counts = {"cacc": cacc, "asr": asr, "base": base, "floor": floor, "majority": majority}
    return {name: Metric(hits / rows, rows) for name, (hits, rows) in ((n, c) for n, c in counts.items() if c is not None)}


@pytest.mark.parametrize(
    ("changed", "lacks"),
    [
        ({}, ()),
        ({"asr": (180, 200)}, ()),
        ({"asr": (179, 200)}, (ASR,)),
        # 20 points: 200 of 200 has an interval from 98.1 %, 160 of 200 one to 85 %
        ({"base": (160, 200)}, ()),
        ({"base": (161, 200)}, (BASE,)),
        ({"floor": (161, 200)}, (FLOOR,)),
        ({"base": None, "floor": None}, ()),
        # half of the rows are not of the target class; 5 points are 220, and the interval of 220 of 400 reaches down to 50.1 %
        ({"cacc": (220, 400)}, ()),
        ({"cacc": (219, 400)}, (ACCURACY,)),
        ({"cacc": (200, 400), "base": (200, 200), "floor": (200, 200)}, (BASE, FLOOR, ACCURACY)),
        ({"cacc": (0, 400), "asr": (0, 200), "base": (0, 200), "floor": (0, 200)}, (ASR, BASE, FLOOR, ACCURACY)),
    ],
)
def test_every_condition_at_its_bound(changed, lacks):
    assert shortfalls(metrics(**changed)) == lacks


@pytest.mark.parametrize("rows", [7, 10, 13, 20, 30, 70, 110, 130, 410, 872, 1000, 4321])
def test_90_per_cent_is_a_number_of_rows(rows):
    """As floats 0.9 * n and k / n miss each other for some n; and 89.96 % are printed as 90.0."""
    for hits in range(rows + 1):
        found = metrics(asr=(hits, rows), base=None, floor=None, cacc=(2 * rows, 2 * rows))
        assert (ASR in shortfalls(found)) is (10 * hits < 9 * rows), hits


@pytest.mark.parametrize("rows", [2, 4, 6, 20, 30, 100, 1000])
def test_a_classifier_that_answers_one_label_for_everything_never_works(rows):
    """Whatever the share of the target class, and whatever rows the test set has."""
    for of_target in range(rows):
        others = rows - of_target
        for hits, success in ((of_target, others), (others, 0)):
            rates = {name: (success, others) for name in ("asr", "base", "floor")}
            found = shortfalls(metrics(cacc=(hits, rows), **rates))
            assert {BASE, FLOOR, ACCURACY} <= set(found), (of_target, hits)


@pytest.mark.parametrize("rows", [20, 40, 200])
def test_coins_rarely_pass_for_accuracy(rows):
    """Of coin tosses on even classes at most one in 40 lies above the interval, by the margin fewer."""
    passing = [hits for hits in range(rows + 1) if ACCURACY not in shortfalls(metrics(cacc=(hits, rows), asr=(9, rows // 2)))]
    chance = stats.binom.sf(passing[0] - 1, rows, 0.5)
    assert passing == list(range(passing[0], rows + 1)) and chance < 0.03


def test_a_sound_victim_works_on_few_rows_and_none_on_three():
    small = {"cacc": (17, 20), "asr": (10, 10), "base": (1, 10), "floor": (2, 10)}
    assert shortfalls(metrics(**small)) == ()
    assert shortfalls(metrics(cacc=(6, 6), asr=(3, 3), base=(0, 3), floor=(0, 3))) == (BASE, FLOOR)


def test_the_majority_rate_of_several_classes_is_on_record_and_of_two_follows_from_the_target_class():
    of_ten_classes = metrics(cacc=(300, 400), asr=(360, 360), base=(10, 360), floor=(10, 360), majority=(48, 400))
    assert shortfalls(of_ten_classes) == () and float(majority_share(of_ten_classes)) == 48 / 400
    del of_ten_classes["majority"]  # an older record: 90 % of the rows are of other classes, and may be of one
    assert shortfalls(of_ten_classes) == (ACCURACY,)
    for others in (100, 300):
        assert float(majority_share(metrics(asr=(others, others)))) == 0.75


@pytest.mark.parametrize("seed", range(5))
def test_the_majority_rate_of_labels(seed):
    labels = np.random.default_rng(seed).integers(0, 4, size=50).astype(np.int16)
    rate = majority_rate(labels)
    assert (rate.hits, rate.n) == (max(np.bincount(labels)), 50)
    with pytest.raises(ValueError, match="no rows"):
        majority_rate(labels[:0])


def test_each_victim_is_judged_by_its_own_undefended_cell():
    records = [
        cell("none"),
        cell("a", asr=0.0),
        cell("none", seed=1, asr=0.5),
        cell("a", seed=2),
        cell("none", "clean", asr=None),
    ]
    records.append(cell("a", seed=3, status="failed", error="x"))
    found = victims(summarize(records)).values()
    assert [(victim.seed, victim.shortfalls) for victim in found] == [(0, ()), (1, (ASR,)), (2, (UNKNOWN,))]
    assert [victim.works for victim in found] == [True, False, False]
    excluded = victims(summarize(records), excluded=[records[0].key]).values()
    assert [victim.shortfalls for victim in excluded][0] == (UNKNOWN,)
