"""`bdbench compare`: cells paired and tested, by hand-worked numbers."""

from dataclasses import replace

import numpy as np
import pytest
from test_protocol import VICTIM, cell

from bdbench.analysis.comparison import OTHER_GOLD, changes, compare, spec_fields
from bdbench.analysis.intervals import mcnemar
from bdbench.matrix.results import Results
from bdbench.specs.predictions import metrics_of
from bdbench.specs.records import CLASS_TYPE, Record, VictimDigests
from bdbench.specs.saved import SavedRun
from bdbench.specs.work import PluginSpec

ROWS = 20  # the first ten are of class 0, the others of class 1, the target
GOLD = np.repeat([0, 1], 10).astype(CLASS_TYPE)


def classes(wrong=(), gold=GOLD):
    """The gold classes, with 0 and 1 exchanged in these rows."""
    predicted = gold.copy()
    predicted[list(wrong)] = 1 - predicted[list(wrong)]
    return predicted


def ended_well(spec=None, wrong=(), to_target=(), gold=GOLD, **more):
    """A record and its predictions: `wrong` of the test rows, and of those with the trigger which go to the target."""
    spec = spec or cell()
    triggered_gold = gold[gold != 1]
    predictions = {
        "clean": classes(wrong, gold),
        "clean_gold": gold,
        "triggered": classes(to_target, triggered_gold),
        "triggered_gold": triggered_gold,
    }
    metrics = metrics_of(predictions, spec.victim)
    metrics["floor"] = metrics["base"]
    return Record(spec, "ok", metrics=metrics, predictions=f"predictions/{spec.key()}.npz", **more), predictions


def run_of(*cells):
    """A saved run of records, each with its predictions or None."""
    files = {f"records/{record.key}.json": (record, predictions) for record, predictions in cells}
    records = {file: record for file, (record, _) in files.items()}
    return SavedRun(records, {file: arrays for file, (_, arrays) in files.items() if arrays is not None}, {}, {})


def undefended(seed=0):
    return replace(cell(replace(VICTIM, seed=seed)), defense=(PluginSpec("none", "1", {}),), clean_rows=0)


def with_ratio(ratio, seed=0, **params):
    return cell(replace(VICTIM, seed=seed), ratio=ratio, **params)


def test_mcnemars_test_by_hand():
    """Of five rows all on one side: 2 / 2^5. Of eight, two on one side: 2 (1 + 8 + 28) / 2^8. As many on both: 1."""
    assert mcnemar(5, 0) == mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(2, 6) == pytest.approx(2 * 37 / 256)
    assert mcnemar(3, 3) == 1 and mcnemar(0, 0) == 1
    assert mcnemar(10, 0) == pytest.approx(2 / 1024)


def test_rows_that_only_one_gets_right_decide_and_all_tests_are_corrected_together():
    """CACC: rows 0 to 9 only A gets wrong, row 19 only B; p = 2 (1 + 11) / 2^11. ASR: 0 to 2 only in A: p = 2 / 2^3.

    Of the two tests the smaller p is doubled.
    """
    comparison = compare(
        run_of(ended_well(wrong=[*range(10), 18], to_target=[0, 1, 2, 3])), run_of(ended_well(wrong=[18, 19], to_target=[3]))
    )
    (pair,) = comparison.pairs
    cacc, asr = pair.metrics["cacc"], pair.metrics["asr"]
    assert (cacc.discordant, asr.discordant) == ((1, 10), (3, 0))
    assert (cacc.p, asr.p) == (pytest.approx(24 / 2048), pytest.approx(0.25))
    assert (cacc.adjusted_p, asr.adjusted_p) == (pytest.approx(48 / 2048), pytest.approx(0.25))
    assert cacc.is_beyond_noise and not asr.is_beyond_noise and not pair.is_equal and comparison.tests == 2


def test_of_a_detector_the_rows_count_that_it_lets_through():
    """Validation rows score 0 and 1; at an FRR of 0.5 what lies above 0 is rejected: row 0 is no longer right."""
    spec = replace(cell(), frr=0.5, validation_rows=2)
    record, predictions = ended_well(spec)
    scores = {"clean_scores": np.zeros(ROWS), "triggered_scores": np.zeros(10), "validation_scores": np.array([0.0, 1.0])}
    scored = {**predictions, **scores, "clean_scores": np.eye(ROWS)[0]}
    (pair,) = compare(run_of((record, predictions | scores)), run_of((record, scored))).pairs
    assert pair.metrics["cacc"].discordant == (1, 0)


def test_equal_shares_of_other_rows_are_a_change_and_other_gold_labels_are_not_tested():
    (pair,) = compare(run_of(ended_well(wrong=[0])), run_of(ended_well(wrong=[1]))).pairs
    assert pair.metrics["cacc"].first == pair.metrics["cacc"].second and not pair.is_equal
    (pair,) = compare(run_of(ended_well()), run_of(ended_well(gold=GOLD[::-1].copy()))).pairs
    assert pair.metrics["cacc"].untested == OTHER_GOLD and pair.metrics["cacc"].p is None and not pair.is_equal


def test_without_predictions_numbers_are_shown_but_not_tested():
    whole, (record, _) = ended_well(), ended_well()
    (pair,) = compare(run_of(whole), run_of((record, None))).pairs
    assert pair.metrics["asr"].untested == "no predictions" and pair.metrics["asr"].first is not None


def test_a_cell_that_failed_in_one_run_has_changed():
    (pair,) = compare(run_of(ended_well()), run_of((Record(cell(), "failed", "once"), None))).pairs
    assert pair.metrics["cacc"].second is None and not pair.is_equal
    (pair,) = compare(run_of((Record(cell(), "skipped", "no"), None)), run_of((Record(cell(), "failed", "no"), None))).pairs
    assert not pair.is_equal
    assert (
        compare(run_of((Record(cell(), "failed", "a"), None)), run_of((Record(cell(), "failed", "b"), None))).pairs[0].is_equal
    )


def paired(first, second):
    """Which specs of two runs are compared, as pairs of their places; and how many are alone in each."""
    runs = [run_of(*map(ended_well, specs)) for specs in (first, second)]
    comparison = compare(*runs)
    pairs = {(first.index(pair.first.spec), second.index(pair.second.spec)) for pair in comparison.pairs}
    return pairs, (len(comparison.first_alone), len(comparison.second_alone))


def test_cells_are_paired_by_their_names_and_what_tells_them_apart():
    # one cell each of the same names: by these
    assert paired([with_ratio(0.3)], [with_ratio(0.5)]) == ({(0, 0)}, (0, 0))
    # of two in a run the ratio tells which it is, also where the other run has but one
    assert paired([with_ratio(0.3), with_ratio(0.5)], [with_ratio(0.5, trials=9)]) == ({(1, 0)}, (1, 0))
    assert paired([with_ratio(0.5, trials=9)], [with_ratio(0.5), with_ratio(0.3)]) == ({(0, 0)}, (0, 1))
    assert paired([with_ratio(0.3), with_ratio(0.5)], [with_ratio(0.4)]) == (set(), (2, 1))
    # equal keys find each other
    both = [with_ratio(0.3), with_ratio(0.5)]
    assert paired(both, both[::-1]) == ({(0, 1), (1, 0)}, (0, 0))
    # another seed is another cell
    assert paired([with_ratio(0.3, seed=0)], [with_ratio(0.3, seed=1)]) == (set(), (1, 1))
    # what differs from seed to seed alone tells no cells apart
    seeds = [with_ratio(0.3, seed=0), with_ratio(0.4, seed=1)]
    assert paired(seeds, [with_ratio(0.5, seed=0), with_ratio(0.5, seed=1)]) == ({(0, 0), (1, 1)}, (0, 0))


def test_the_fields_that_differ_are_named_and_digests_cut():
    victim = replace(VICTIM, training={"epochs": 2}, data=replace(VICTIM.data, fingerprint="e" * 64))
    assert changes(cell(), replace(cell(), victim=victim)) == (
        ("victim.data.fingerprint", "ffffffff…", "eeeeeeee…"),
        ("victim.training.epochs", 1, 2),
    )
    assert changes(with_ratio(0.3), with_ratio(0.3, trials=2)) == (("defense.fine-mixing.trials", None, 2),)
    renamed = replace(VICTIM, model=replace(VICTIM.model, name="other"))
    assert changes(cell(), replace(cell(), victim=renamed)) == ()  # the name is in no key
    peers = spec_fields(replace(cell(), peers=(replace(VICTIM, seed=1000),)))
    assert peers["peers.1.seed"] == 1000 and peers["peers.1.attack.rate"] == 0.1


def page_of(in_process, first, second, *flags):
    ended = in_process("compare", first, second, *flags)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def write_run(folder, *cells):
    results = Results(folder)
    for record, predictions in cells:
        results.write(replace(record, predictions=None), predictions)
    return folder


def test_the_page(tmp_path, in_process):
    digests = [VictimDigests(digit * 64, digit * 64) for digit in "ab"]
    first = write_run(
        tmp_path / "first",
        ended_well(with_ratio(0.3), wrong=range(10), to_target=range(9), victim=digests[0]),
        ended_well(with_ratio(0.3, seed=1), to_target=[0]),
        ended_well(undefended(), victim=digests[0]),
    )
    second = write_run(
        tmp_path / "second",
        ended_well(with_ratio(0.5), victim=digests[0]),
        (Record(with_ratio(0.5, seed=1), "failed", "out of luck"), None),
        ended_well(undefended(), victim=digests[1]),
        ended_well(undefended(2)),
        ended_well(undefended(3)),
    )
    page = page_of(in_process, first, second)
    lines = page.splitlines()
    assert lines[4] == (
        "3 cells in both: 1 with the same key, 2 with the same label but another spec; 2 changed. "
        "2 of 4 differences are beyond noise."
    )
    rows = {
        row[0]: row[1:]
        for line in lines
        if line.startswith("| sst2")
        for row in [[*map(str.strip, line.strip("| ").split("|"))]]
    }
    # 10 rows right in B alone: p = 2 / 2^10, of four tests the first; 9 to the target in A alone: 2 / 2^9, the second
    numbers = ["50.0", "100.0", "+50.0", "0.008", "90.0", "0.0", "-90.0", "0.012"]
    assert rows["sst2 / badnets-word / fine-mixing / seed 0"] == ["(1)", *numbers, "CACC, ASR"]
    numbers = ["100.0", "failed", "–", "–", "10.0", "failed", "–", "–"]
    assert rows["sst2 / badnets-word / fine-mixing / seed 1"] == ["(1)", *numbers, "–"]
    same = next(name for name in rows if "fine-mixing" not in name)
    assert rows[same] == ["same", "100.0", "100.0", "+0.0", "1.000", "0.0", "0.0", "+0.0", "1.000", "no"]
    assert "(1) 2 cells: defense.fine-mixing.ratio is 0.3 in A, 0.5 in B." in lines
    assert f"On other bits of the same victim (another machine, or number of threads): {same}." in lines
    assert "Only in A" not in page and "Only in B: 2 cells." in lines
    assert lines[-1] == f"- {same.removesuffix(' / seed 0')} / seeds 2, 3"
    shorter = page_of(in_process, first, second, "--only-changed")
    assert same not in shorter.partition("(1) 2 cells")[0] and "fine-mixing / seed 0" in shorter


def test_what_differs_in_all_pairs_is_said_once(tmp_path, in_process):
    longer = {"victim": replace(VICTIM, training={"epochs": 2})}
    digests = [VictimDigests(digit * 64, None) for digit in "ab"]
    first = write_run(tmp_path / "first", ended_well(with_ratio(0.3)), ended_well(undefended(), victim=digests[0]))
    second = write_run(
        tmp_path / "second",
        ended_well(replace(with_ratio(0.5), **longer)),
        ended_well(replace(undefended(), **longer), victim=digests[1]),
    )
    lines = page_of(in_process, first, second).splitlines()
    assert not any(line.startswith("On other bits") for line in lines)  # another victim may have other bits
    assert "All 2 cells with another spec: victim.training.epochs is 1 in A, 2 in B." in lines
    assert {line[4:] for line in lines if line.startswith("(")} == {
        "1 cell: defense.fine-mixing.ratio is 0.3 in A, 0.5 in B.",
        "1 cell: nothing beyond that.",
    }


def test_damaged_files_are_named_and_the_rest_compared(tmp_path, in_process):
    run = write_run(tmp_path / "run", ended_well(), ended_well(undefended(1)))
    (run / "records" / f"{undefended(1).key()}.json").write_text("{")
    ended = in_process("compare", run, run)
    assert ended.returncode == 0 and "1 cell in both" in ended.stdout
    assert f"warning: {run}: records/{undefended(1).key()}.json is left out: " in ended.stderr
    assert "A: Left out, since they cannot be read: 1 of 2 records: records/" in ended.stdout
    assert in_process("compare", run, run, "--strict").returncode == 1
    ended = in_process("compare", run, tmp_path / "nowhere")
    assert ended.returncode == 2 and "no folder 'records'" in ended.stderr


def test_a_run_in_an_object_store_is_verified_compared_and_shown(in_process):
    uri = "memory://compare/run"
    write_run(uri, ended_well(), ended_well(undefended(1)))
    assert in_process("verify", uri).stdout.splitlines()[-1].startswith("2 cells: 2 verified")
    assert "2 cells in both" in page_of(in_process, uri, uri)
    assert in_process("show", uri, cell().key()).stdout.startswith("sst2 / badnets-word / fine-mixing / seed 0")
