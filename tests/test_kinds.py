"""Detectors, purifiers, filters and training defenses: their maths by hand, and small ones of each kind run in a matrix."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bdbench.analysis.labels import label_cells
from bdbench.data import TextSet
from bdbench.defenses._features import features
from bdbench.defenses.cube import kept_rows
from bdbench.defenses.moderate_fitting import LowRank, release, restrict
from bdbench.defenses.strip import mean_entropy, ranked_words, with_words
from bdbench.defenses.wag import mean_weights
from bdbench.engine.classifiers import load_classifier
from bdbench.matrix.expected import ExpectedWork
from bdbench.matrix.freight import cargo_of
from bdbench.matrix.plan import plan
from bdbench.matrix.presets import PRESETS
from bdbench.matrix.results import read_predictions, read_records
from bdbench.protocol.contexts import Context
from bdbench.protocol.scoring import examples_of
from bdbench.specs.metrics import (
    REJECTED,
    Metric,
    acceptance_rate,
    accepted_classes,
    auroc,
    rejection_rate,
    rejection_threshold,
)
from bdbench.specs.predictions import metrics_of
from bdbench.testing.contract import common, text_rows
from bdbench.testing.tiny_models import FAMILIES

# the rule of detectors


@pytest.mark.parametrize(
    ("scores", "frr", "threshold", "rejected"),
    [
        ([3, 0, 2, 1], 0.25, 2, 1),  # one of four may lie above
        ([3, 0, 2, 1], 0.24, 3, 0),
        ([3, 0, 2, 1], 0.5, 1, 2),
        ([1, 1, 1, 0], 0.25, 1, 0),  # of equal scores none is rejected where not all may be
        (range(100), 0.29, 70, 29),  # 0.29 * 100 is 28.999999999999996 in floats
        ([5], 0.05, 5, 0),
    ],
)
def test_a_threshold_rejects_no_more_of_the_clean_rows_than_stated(scores, frr, threshold, rejected):
    scores = np.array(scores, dtype=np.float64)
    assert rejection_threshold(scores, frr) == threshold
    assert (scores > threshold).sum() == rejected


@pytest.mark.parametrize("frr", [0.0, 1.0, -0.1, 5])
def test_a_rate_outside_0_and_1_is_refused(frr):
    with pytest.raises(ValueError, match="not between 0 and 1"):
        rejection_threshold(np.array([1.0]), frr)


def test_rejected_rows_are_neither_right_nor_the_target():
    classes = accepted_classes(np.array([1, 1, 0], dtype=np.int16), np.array([0.5, 0.6, 0.4]), 0.5)
    assert classes.tolist() == [1, REJECTED, 0] and classes.dtype == np.int16
    assert rejection_rate(classes) == Metric(1 / 3, 3) and acceptance_rate(classes) == Metric(2 / 3, 3)


@pytest.mark.parametrize(
    ("negative", "positive", "pairs"),
    [([0, 1], [1, 2], 3.5), ([0, 1], [2, 3], 4), ([2, 3], [0, 1], 0), ([1, 1], [1, 1], 2)],
)
def test_auroc_counts_pairs_and_ties_by_half(negative, positive, pairs):
    metric = auroc(np.array(negative, dtype=float), np.array(positive, dtype=float))
    assert (metric.hits, metric.n) == (2 * pairs, 8)


# the maths of the methods


def test_strip_averages_over_the_copies_of_each_text():
    """Six texts, five copies each: the first three are classified surely, the others not at all."""
    sure, unsure = torch.tensor([100.0, 0.0]), torch.tensor([0.0, 0.0])
    logits = torch.stack([logit for logit in (sure, sure, sure, unsure, unsure, unsure) for _ in range(5)])
    assert torch.allclose(mean_entropy(logits, 5), torch.tensor([0.0, 0, 0, 1, 1, 1]) * np.log(2))
    mixed = torch.stack([sure, unsure, unsure, unsure])
    assert torch.allclose(mean_entropy(mixed, 2), torch.tensor([0.5, 1]) * np.log(2))


def test_strip_puts_in_the_words_that_say_most_of_a_clean_text():
    """Of two texts "a" is in both: its weight is 0. "b" comes twice in the first, "c" once."""
    assert ranked_words(["a c b b", "", "a d"]) == [["b", "c", "a"], ["d", "a"]]
    assert ranked_words(["x y"]) == [["x", "y"]]  # all weights are 0: as they come
    generator = np.random.default_rng(0)
    places = sorted(np.random.default_rng(0).permutation(4)[:2].tolist())
    changed = with_words("one two three four", ["b"], 0.5, generator).split()
    assert [place for place, word in enumerate(changed) if word == "b"] == places and len(changed) == 4
    assert with_words("one two", ["b", "c"], 1.0, generator) == "b c"
    assert with_words("one two", ["b"], 0.2, generator) == "one two" and with_words("", ["b"], 1.0, generator) == ""


def test_wag_takes_the_mean_of_every_weight():
    models = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 2.0])}, {"w": torch.tensor([2.0, 8.0])}]
    assert mean_weights(models)["w"].tolist() == [2.0, 4.0]


def test_a_low_rank_change_begins_at_nothing_and_stays_of_its_rank(tiny_bert):
    layer = LowRank(torch.zeros(3, 2), 1, torch.Generator().manual_seed(0))
    start = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    assert torch.equal(layer(start), start)
    with torch.no_grad():
        layer.a.copy_(torch.tensor([[1.0, 2]]))
        layer.b.copy_(torch.tensor([[1.0], [0], [-1]]))
    assert layer(start).tolist() == [[2, 4], [3, 4], [4, 4]]

    model = load_classifier(tiny_bert, 2)[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = {name for name, _ in model.named_parameters()}
    restrict(model, 2, torch.Generator().manual_seed(0))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(".parametrizations.weight.0." in name or name.startswith("classifier") for name in trained)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    release(model)
    assert {name for name, _ in model.named_parameters()} == names  # in another order
    for name, parameter in model.named_parameters():
        change = parameter.detach() - before[name]
        if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear) and change.ndim == 2:
            if not name.startswith("classifier"):
                assert torch.linalg.matrix_rank(change, atol=1e-5) == 2, name
        elif not name.startswith("classifier"):
            assert not change.any(), name


# in the matrix

GUARDS = '''"""A defense of each kind that knows the trigger: what the engine makes of a perfect one is known beforehand."""

from dataclasses import dataclass

import numpy as np

from bdbench.defenses.base import Detector, Filter, Purifier, Training, register
from bdbench.params import hp


def has_trigger(text):
    return "cf" in text.split()


@register("sees", paper="none")
@dataclass(frozen=True)
class Sees(Detector):
    def score(self, model, rows, ctx):
        assert not rows.labels.any() and "clean" not in ctx.resources
        return np.array([float(has_trigger(text)) for text in rows.carrier])


@register("removes", paper="none")
@dataclass(frozen=True)
class Removes(Purifier):
    everything: bool = hp(False, help="whether the other words go, too")

    def purify(self, rows, ctx):
        assert not rows.labels.any()
        texts = [" ".join(word for word in text.split() if word != "cf" and not self.everything) for text in rows.carrier]
        return rows.with_carrier(texts)


class Remembers:  # what takes a million seconds
    def note(self, ctx):
        ctx.trace.saved_seconds += 1e6


@register("remembers-scores", paper="none")
@dataclass(frozen=True)
class RemembersScores(Remembers, Detector):
    def score(self, model, rows, ctx):
        self.note(ctx)
        return np.zeros(len(rows))


@register("remembers-texts", paper="none")
@dataclass(frozen=True)
class RemembersTexts(Remembers, Purifier):
    def purify(self, rows, ctx):
        self.note(ctx)
        return rows


@register("drops", paper="none")
@dataclass(frozen=True)
class Drops(Filter):
    nothing: bool = hp(False, help="whether it keeps every row")

    def keep(self, rows, ctx):
        return np.array([self.nothing or not has_trigger(text) for text in rows.carrier])


@register("passes", paper="none")
@dataclass(frozen=True)
class Passes(Training):
    needs = frozenset({"training-control", "training-set"})

    def train(self, model, rows, ctx):
        assert rows.digest() == ctx.training_set.digest()
        ctx.train(model, rows.take(range(2)), ctx.recipe)
        ctx.notes["poisoned"] = sum(map(has_trigger, rows.carrier))
        return model


@register("takes", paper="none")
@dataclass(frozen=True)
class Takes(Detector):
    needs = frozenset({"unlabelled"})

    def score(self, model, rows, ctx):
        return np.zeros(len(rows))


@register("errs", paper="none")
@dataclass(frozen=True)
class Errs(Detector):
    how: str = hp("short", choices=("short", "nan"), help="what is wrong with its scores")

    def score(self, model, rows, ctx):
        return np.zeros(len(rows) - 1) if self.how == "short" else np.full(len(rows), np.nan)


@register("shortens", paper="none")
@dataclass(frozen=True)
class Shortens(Purifier):
    def purify(self, rows, ctx):
        return rows.take(range(len(rows) - 1))
'''
SIZES = ["--train-rows", "200", "--validation-rows", "20", "--clean-rows", "16", "--max-length", "32", "--epochs", "8"]
DEFENSES = [
    "none",
    "sees",
    "removes",
    "removes[everything=true]",
    "drops",
    "drops[nothing=true]",
    "passes",
    "errs",
    "errs[how=nan]",
    "shortens",
]
DEFENSES += ["e-pur+sees", "e-pur", "strip", "wag", "moderate-fitting", "remembers-scores", "remembers-texts"]


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "guards.py"
    file.write_text(GUARDS)
    return file


@pytest.fixture(scope="module")
def flags(tiny_bert, data_dir, guards):
    model = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "--plugin", guards, *SIZES]
    return [*model, "--learning-rate", "0.003", "-T", "sst2"]


@pytest.fixture(scope="module")
def run(flags, bdbench, tmp_path_factory):
    """(attack, defense with its variant) -> record, of one run of every kind on two workers; and its folder."""
    out = tmp_path_factory.mktemp("kinds") / "run"
    matrix = ["-a", "badnets-word[rate=0.5,start=clean],embedding-poisoning", "-d", ",".join(DEFENSES), "-A"]
    ended = bdbench("run", *flags, *matrix, "embedding-poisoning.rate=0.5", "--workers", 2, "--out", out)
    assert ended.returncode == 1, ended.stderr  # three defenses break their contract
    records = read_records(out)
    assert len(records) == 2 * len(DEFENSES)

    def variant(record):
        values = [value for value in record.spec.defense[-1].params.values() if value is True or value == "nan"]
        return f"{record.spec.defense_name}{'*' if values else ''}"

    return {(record.spec.victim.attack.name, variant(record)): record for record in records}, out


def test_a_perfect_detector_rejects_what_is_triggered_and_nothing_else(run):
    records, out = run
    undefended, seen = records["badnets-word", "none"], records["badnets-word", "sees"]
    assert (seen.metrics["frr"].value, seen.metrics["far"].value, seen.metrics["auroc"].value) == (0, 0, 1)
    assert seen.metrics["asr"].value == 0 < undefended.metrics["asr"].value
    assert seen.metrics["cacc"] == undefended.metrics["cacc"] and seen.metrics["base"] == undefended.metrics["base"]
    assert seen.spec.frr == 0.05 and undefended.spec.frr is None and seen.needs == ("validation",)
    assert seen.notes["sees"]["at_frr"]["0.1"]["asr"] == 0 and seen.cost["slowdown"] > 1
    assert records["badnets-word", "e-pur+sees"].metrics["asr"].value == 0
    saved = read_predictions(out, seen)
    assert metrics_of(saved, seen.spec.victim, seen.spec.frr) == {
        name: metric for name, metric in seen.metrics.items() if name != "floor"
    }
    assert np.array_equal(saved["triggered"], read_predictions(out, undefended)["triggered"])  # before the rejection


def test_a_perfect_purifier_leaves_the_base_rate(run):
    records, _ = run
    undefended, removed = records["badnets-word", "none"], records["badnets-word", "removes"]
    assert removed.metrics["asr"] == removed.metrics["base"] == undefended.metrics["base"]
    assert removed.metrics["cacc"] == undefended.metrics["cacc"]
    n, triggered = removed.metrics["cacc"].n, removed.metrics["asr"].n
    assert removed.notes["removes"]["rows"] == {
        "clean": {"changed": 0, "emptied": 0},
        "triggered": {"changed": triggered, "emptied": 0},
    }
    emptied = records["badnets-word", "removes*"]
    assert emptied.notes["removes"]["rows"]["clean"] == {"changed": n, "emptied": n} and emptied.status == "ok"


@pytest.mark.parametrize("name", ["remembers-scores", "remembers-texts"])
def test_a_guard_that_remembers_is_as_slow_as_if_it_computed_all_anew(run, name):
    records, _ = run
    assert records["badnets-word", name].cost["slowdown"] > 1000


def test_a_record_shows_a_few_triggered_rows_and_what_a_purifier_made_of_them(run):
    records, out = run
    examples = records["badnets-word", "none"].examples
    gold = read_predictions(out, records["badnets-word", "none"])["triggered_gold"]
    assert len(examples) == 3 and all("cf" in text.split() for example in examples for text in example.texts)
    rows = [example.row for example in examples]
    assert rows == sorted(set(rows)) and rows[-1] < len(gold)
    assert {records["badnets-word", name].examples for name in ("sees", "drops", "e-pur")} == {examples}
    purified = records["badnets-word", "removes"].examples
    assert [(example.row, example.texts) for example in purified] == [(example.row, example.texts) for example in examples]
    for example in purified:
        (text,) = example.texts
        assert example.purified == (" ".join(word for word in text.split() if word != "cf"),)


def test_the_rows_that_are_shown_are_the_first_short_ones_or_else_the_shortest():
    def rows_of(*lengths, second=None):
        return TextSet(["a" * length for length in lengths], second, [0] * len(lengths))

    def shown(rows):
        return [example.row for example in examples_of(rows)]

    assert shown(rows_of(20, 400, 300, 10, 5)) == [0, 2, 3]
    assert shown(rows_of(900, 500, 20, 600)) == [1, 2, 3]
    assert shown(rows_of(5000, 3000, 3001)) == [1]
    pair = rows_of(290, 10, second=["b" * 20, "b"])
    assert [(example.row, example.texts[1]) for example in examples_of(pair, pair.take([1, 0]))] == [(0, "b" * 20), (1, "b")]
    assert examples_of(pair, pair.take([1, 0]))[0].purified == ("a" * 10, "b")


def test_a_perfect_filter_trains_on_the_clean_rows_alone(run):
    records, _ = run
    undefended, filtered = records["badnets-word", "none"], records["badnets-word", "drops"]
    assert filtered.notes["drops"] == {
        "rows": 200,
        "poisoned": 100,
        "dropped": 100,
        "poisoned_dropped": 100,
        "precision": 1.0,
        "recall": 1.0,
    }
    assert (undefended.metrics["asr"].value, filtered.metrics["asr"].value) == (1, 0)
    assert filtered.cost["trained_rows"] == 8 * 100 and filtered.needs == ("training-control", "training-set")


def test_a_planted_trigger_is_more_suspicious_than_clean_texts(run):
    records, _ = run
    assert records["badnets-word", "strip"].metrics["auroc"].value > 0.6


def test_a_filter_that_drops_nothing_makes_the_victim_again_to_the_bit(run):
    """The start, which is the clean model here, the rows, and what training draws are the attack's own."""
    records, out = run
    undefended, again = records["badnets-word", "none"], records["badnets-word", "drops*"]
    assert again.metrics == undefended.metrics
    of_victim, of_cell = read_predictions(out, undefended), read_predictions(out, again)
    assert all(np.array_equal(of_victim[name], of_cell[name]) for name in of_victim)
    assert again.notes["drops"] == {"rows": 200, "poisoned": 100, "dropped": 0, "poisoned_dropped": 0, "recall": 0.0}


def test_a_training_defense_gets_the_poisoned_rows_and_the_start(run):
    records, _ = run
    trained = records["badnets-word", "passes"]
    assert trained.notes["passes"] == {"poisoned": 100} and trained.cost["trained_rows"] == 8 * 2


def test_where_weights_are_poisoned_there_is_no_training_set_to_defend(run):
    records, _ = run
    for name in ("drops", "drops*", "passes", "moderate-fitting"):
        record = records["embedding-poisoning", name]
        assert record.status == "skipped" and "the attack changes weights" in record.error
    assert records["embedding-poisoning", "sees"].metrics["asr"].value == 0


def test_what_breaks_a_contract_is_a_failed_cell_that_says_how(run):
    records, _ = run
    for name, said in {
        "errs": "one for each row",
        "errs*": "NaN or infinite",
        "shortens": "it returns all, in the same order",
    }.items():
        assert records["badnets-word", name].status == "failed" and said in records["badnets-word", name].error


def test_peers_are_victims_of_their_own_and_part_of_the_key(run, flags, in_process):
    records, out = run
    merged = records["badnets-word", "wag"]
    (peer,) = merged.spec.peers
    assert (peer.attack.name, peer.seed, peer.task) == ("none", 1000, "sst2")
    assert json.loads((out / "records" / f"{merged.key}.json").read_text())["spec"]["peers"][0]["seed"] == 1000
    shown = {}
    for name, more in {"one": [], "two": ["--peer-count", 2], "bad": ["--peers", "badnets-sentence"]}.items():
        shown[name] = in_process("run", *flags, "-a", "badnets-word", "-d", "none,wag", "--dry-run", *more)
    keys = {name: ended.stdout.split("\n") for name, ended in shown.items()}
    assert keys["one"][0] == keys["two"][0] and len({lines[1] for lines in keys.values()}) == 3
    assert "on 3 victims" in shown["one"].stderr and "on 4 victims" in shown["two"].stderr


def test_the_data_of_peers_travels_with_that_of_the_victims(data_dir, tiny_bert):
    wanted = {"model": str(tiny_bert), "data": str(data_dir), "tasks": ("sst2",), "attacks": ("none",), "defenses": ("wag",)}
    sizes = {"train_rows": 100, "validation_rows": 20, "clean_rows": 16, "max_length": 32}
    for task, travels in ((None, ("sst2",)), ("qqp", ("sst2", "qqp"))):
        planned = plan(PRESETS["laptop"].select({**wanted, **sizes, **({"peers_task": task} if task else {})}), "cpu")
        assert cargo_of(planned).tasks == travels


def test_peers_of_texts_made_elsewhere_name_those_of_their_own_task(data_dir, tiny_bert):
    wanted = {"model": str(tiny_bert), "data": str(data_dir), "tasks": ("sst2",), "attacks": ("paired-texts",)}
    wanted |= {"defenses": ("wag",), "train_rows": 100, "validation_rows": 20, "clean_rows": 16, "max_length": 32}
    digests = []
    for task in ("sst2", "qqp"):
        (cell,) = plan(PRESETS["laptop"].select({**wanted, "peers": "paired-texts", "peers_task": task}), "cpu").cells
        assert cell.peers[0].task == task and len(cell.peers[0].attack.params["digest"]) == 64
        digests.append(cell.peers[0].attack.params["digest"])
    assert digests[0] == cell.victim.attack.params["digest"] != digests[1]


def section(page: str, heading: str) -> dict[str, list[str]]:
    """A table of a page: the cells of each row, by the words before the numbers."""
    lines = page.split(f"### {heading}\n\n")[1].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = 2 if "costs" in heading else 3
    return {" / ".join(row[:names]): row for row in cells}


def test_the_page_groups_by_kind_and_shows_what_each_rejects_finds_and_costs(run, in_process):
    records, out = run
    page = (out / "leaderboard.md").read_text()
    (header,) = [line for line in page.split("## sst2")[1].splitlines() if line.startswith("| Attack")]
    order = [header.index(f" {name} ") for name in ("none", "E-PUR", "WAG", "STRIP", "removes", "drops", "moderate fitting")]
    assert order == sorted(order)
    detectors = "errs [how=nan], errs [how=short], remembers-scores, sees, STRIP, E-PUR + sees"
    assert f"; detector, on inputs, which it rejects ({detectors}); " in page
    assert "They are not alternatives of one defender" in page
    of_sees = section(page, "Detectors: what they reject")["sst2 / trigger word / sees"]
    assert of_sees[3:] == ["5", "0.0", "0.0", "100.0"]
    purified = section(page, "Purifiers: what they change")
    assert purified["sst2 / trigger word / removes [everything=False]"][3:] == ["0.0", "100.0", "0.0", "0.0"]
    assert purified["sst2 / trigger word / removes [everything=True]"][3:] == ["100.0"] * 4
    drops = section(page, "Filters: the poison they find")
    assert drops["sst2 / trigger word / drops [nothing=False]"][3:] == ["50.0", "100.0", "100.0"]
    assert drops["sst2 / trigger word / drops [nothing=True]"][3:] == ["0.0", "–", "0.0"]
    costs = section(page, "What each defense costs")
    passes, strip = costs["passes / training"], costs["STRIP / detector"]
    assert (passes[2], passes[4], passes[6]) == ("1", "16", "–")
    rows = records["badnets-word", "strip"].metrics["cacc"].n + records["badnets-word", "strip"].metrics["asr"].n
    assert strip[5] == f"{10 * (rows + 20):,}" and float(strip[6]) > 1 and strip[7:9] == ["16", "20"]
    tex = (out / "leaderboard.tex").read_text()
    assert r"\caption{Kinds: detectors: what they reject." in tex
    (row,) = [line for line in (out / "leaderboard.csv").read_text().splitlines() if '"badnets-word","sees"' in line]
    assert row.startswith('"sst2","badnets-word","sees","detector","validation",') and ",0.0,0.0,1.0," in row  # FRR, FAR, AUROC


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-d", "sees", "--frr", "0"], "--frr 0: the share of clean rows"),
        (["-d", "sees", "--frr", "1.5"], "--frr 1.5"),
        (["-d", "sees+e-pur"], "'sees' guards a classifier at its input (detector), so nothing can follow it"),
        (["-d", "e-pur+drops"], "'drops' makes the classifier anew (filter), so it cannot be composed"),
        (["-d", "moderate-fitting+sees"], "'moderate-fitting' makes the classifier anew (training)"),
        (["-d", "wag", "--peers", "badnet"], "no attacks named 'badnet'"),
        (["-d", "wag", "--peers-task", "sst"], "no tasks named 'sst'"),
        (["-d", "wag", "--peers", "badnets-word[target=7]"], "--peers badnets-word[target=7]: badnets-word.target=7, but"),
        (["-d", "wag", "--peers", "badnets-word[rate=0.0001]"], "--peers badnets-word[rate=0.0001]: "),
        (["-d", "wag", "--peers", "badnets-word[then_epochs=2]"], "but the user fine-tunes on no rows"),
        (["-d", "wag", "--peers", "badnets-word[then_rows=999]"], "then_rows=999 do not fit"),
        (["-d", "wag", "--peers", "paired-texts[texts=mine]"], "no file is called mine"),
        (["-d", "wag", "--peers", "paired-texts", "--data", "builtin"], "--peers paired-texts: 'paired-texts' reads texts"),
        (["-d", "wag", "--peer-count", "0"], "--peer-count 0: at least 1"),
        (["-d", "sees", "--validation-rows", "0"], "--validation-rows 0"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(words, said, flags, in_process):
    ended = in_process("run", *flags, "-a", "badnets-word", "--dry-run", *words)
    assert ended.returncode == 2 and said in ended.stderr and ended.stderr.count("\n") <= 2, ended.stderr


def test_only_repairs_are_tuned(flags, in_process, tmp_path):
    for name in ("strip", "wag", "btu"):
        ended = in_process("tune", *flags, "-a", "badnets-word", "-d", name, "--out", tmp_path / "tuned.json")
        assert ended.returncode == 2 and f"'{name}' is of the kind" in ended.stderr


def test_defenses_are_listed_by_kind(in_process, guards):
    lines = in_process("list", "defenses", "--plugin", guards).stdout.splitlines()
    kinds = [line.strip() for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert kinds == ["repair:", "detector:", "purifier:", "filter:", "training:"]
    (strip,) = [line for line in lines if line.strip().startswith("strip ")]
    assert strip.endswith("[needs clean, validation]")


def test_cube_keeps_the_largest_cluster_of_each_class_and_any_with_half_of_it():
    """Class 0: three rows in cluster 7, two in -1. Class 1: two rows each in clusters 7 and 8, which are halves."""
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    clusters = np.array([7, 7, 7, -1, -1, 7, 7, 8, 8])
    assert kept_rows(clusters, labels).tolist() == [True, True, True, False, False, True, True, True, True]
    few = np.array([7, 7, 8, 8, -1])  # of equal clusters the first, and no half
    assert kept_rows(few, np.zeros(5, dtype=int)).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_features_are_what_the_last_layer_gets(family, tiny_models):
    model = load_classifier(tiny_models[family], 2)[0].eval()
    ctx = Context(**common(tiny_models[family], 0))
    rows = text_rows(9)
    got = torch.from_numpy(features(model, rows, ctx)).float()
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert got.shape[0] == 9 and torch.allclose(layers[-1](got), ctx.predict(model, rows), atol=1e-5)


def test_a_package_that_is_not_installed_is_named_with_the_command_that_brings_it(flags, in_process, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ended = in_process("run", *flags, "-a", "badnets-word", "-d", "cube", "--dry-run")
    assert ended.returncode == 2
    assert "cube needs the package umap, which is not installed: pip install -c constraints.txt -e '.[cluster]'" in ended.stderr


def test_who_trains_anew_is_given_the_time_of_a_training(run):
    records, _ = run
    work = ExpectedWork(parameters=10)
    undefended, filtered, trained = (work(records["badnets-word", name].spec) for name in ("none", "drops", "passes"))
    a_training = 6 * 10 * 32 * (200 * 8)  # operations of 10 weights, 32 pieces, and the rows of 8 passes
    assert (filtered - undefended, trained - undefended) == (2 * a_training, a_training)


def test_what_a_defense_gets_beside_its_hyperparameters_tells_its_rows_apart(run):
    """Another rate, other texts, two peers instead of one, a peer with a backdoor: each is a row of its own in a folder."""
    records, _ = run
    detector, merged = records["badnets-word", "strip"].spec, records["badnets-word", "wag"].spec
    (peer,) = merged.peers
    backdoored = replace(peer, attack=replace(peer.attack, name="badnets-sentence"))
    cells = [detector, replace(detector, frr=0.1), replace(detector, unlabelled_rows=5)]
    cells += [merged, replace(merged, peers=(peer, replace(peer, seed=2000))), replace(merged, peers=(backdoored,))]
    cells += [replace(merged, peers=(replace(peer, task="qqp"),))]
    labels = [str(labels[0].defense) for labels in label_cells(cells)]
    assert len(set(labels)) == len(cells), labels
    of_qqp = replace(merged, victim=replace(merged.victim, task="qqp"), peers=(replace(peer, task="qqp"),))
    assert {str(labels[0].defense) for labels in label_cells([merged, of_qqp])} == {"WAG"}  # each with one of its own task


def test_unlabelled_rows_are_what_is_left_and_no_more_than_asked_for(flags, in_process):
    def key(asked):
        return in_process(*command, "--unlabelled-rows", asked, "--dry-run").stdout.split()[0]

    command = ["run", *flags, "-a", "badnets-word", "-d", "takes"]
    assert key("999999") == key("all") != key("5")
    refused = in_process(*command, "--unlabelled-rows", "0", "--dry-run")
    assert refused.returncode == 2 and "--unlabelled-rows 0: at least 1" in refused.stderr
