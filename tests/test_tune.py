"""Tuning: the rules by hand, and `bdbench tune` on a tiny victim with a defense whose hyperparameter is known to matter."""

import json
import random
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
from extras import needs

from bdbench.cli.app import main
from bdbench.defenses._search import GRID
from bdbench.errors import UsageError
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.search_space import Dimension, dimensions, with_setting
from bdbench.matrix.searchers import Bisection, OptunaSearcher, Outcome, searcher_of
from bdbench.matrix.selection import Selection
from bdbench.matrix.studies import Goal, Request, Studies, Study, aggressiveness
from bdbench.matrix.tune import trial_of
from bdbench.matrix.tune_worker import Ended
from bdbench.matrix.tuning_plan import Transfer, plan_tuning
from bdbench.params import Hyperparameters, hp
from bdbench.protocol.planting import Attempt, plant
from bdbench.protocol.rows import DefenderSets, splits_of
from bdbench.protocol.trials import Measured, defender_rows, run_trial, suspect_of, undefended
from bdbench.protocol.victims import clean_spec, make_victim
from bdbench.registry import DEFENSES
from bdbench.specs.tuned import Trial, Tuned
from bdbench.specs.work import PluginSpec

# Gives every piece that the clean set has not a part of its pre-trained embedding back, so a planted word loses its power
# with `strength`. It notes every call in the file that CALLS names, and dies there as often as DIES says.
PLUGIN = '''"""Undo what the victim learned of pieces that no clean row has."""

import copy
import os
from dataclasses import dataclass

import torch

from bdbench.defenses.base import ModelRepair, register
from bdbench.engine.embeddings import word_embeddings
from bdbench.params import hp


@register("unlearn", paper="none")
@dataclass(frozen=True)
class Unlearn(ModelRepair):
    needs = frozenset({"clean", "pretrained"})

    strength: float = hp(0.0, low=0.0, high=1.0, aggressive="high", help="share of the way back")

    def repair(self, model, ctx):
        with open(os.environ["CALLS"], "a") as stream:
            stream.write(f"{self.strength}\\n")
        repaired = copy.deepcopy(model)
        name, _ = word_embeddings(repaired)
        embeddings = dict(repaired.named_parameters())[name]
        seen = ctx.encode(ctx.clean).batch(torch.arange(len(ctx.clean)), ctx.device)[0]["input_ids"].unique()
        unseen = torch.ones(len(embeddings), dtype=torch.bool).index_fill(0, seen, False)
        with torch.no_grad():
            embeddings[unseen] = torch.lerp(embeddings[unseen], ctx.pretrained[name][unseen], self.strength)
        return repaired
'''

SIZES = {"train_rows": 300, "validation_rows": 40, "clean_rows": 32, "max_length": 32}
RECIPE = {"epochs": 8, "learning_rate": 0.003}


@pytest.fixture(scope="module")
def selection(tiny_bert, data_dir):
    """One victim whose trigger works, and fine-tuning."""
    return Selection(
        model=str(tiny_bert),
        data=str(data_dir),
        tasks=("sst2",),
        attacks=("badnets-word",),
        defenses=("fine-tuning",),
        seeds=(0,),
        test_rows=None,
        training=RECIPE,
        attack_params={"badnets-word.rate": 0.3},
        precision="fp32",
        **SIZES,
    )


@pytest.fixture(scope="module")
def planned(selection):
    return plan(selection, device="cpu")


@pytest.fixture(scope="module")
def victim(planned):
    spec, site = planned.cells[0].victim, site_for(planned, device="cpu")
    return make_victim(spec, site, make_victim(clean_spec(spec), site))


SETS = DefenderSets(clean_rows=32, validation_rows=40, even_classes=True)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The file of the plugin. Afterwards no registry knows it."""
    (tmp_path / "unlearn.py").write_text(PLUGIN)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    yield tmp_path / "unlearn.py"
    DEFENSES._classes.pop("unlearn", None)


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    return tmp_path_factory.mktemp("tune") / "victims"


@pytest.fixture
def flags(tiny_bert, data_dir, victims, plugin):
    sizes = [word for name, value in (SIZES | RECIPE).items() for word in (f"--{name.replace('_', '-')}", value)]
    where = ["--model", tiny_bert, "--data", data_dir, "--victims", victims, "--plugin", plugin, "--precision", "fp32"]
    what = ["-T", "sst2", "-a", "badnets-word", "-A", "badnets-word.rate=0.3"]
    return ["tune", "--preset", "laptop", *where, *what, *sizes]


@pytest.fixture
def tune(monkeypatch, capsys, tmp_path, flags):
    """`bdbench tune` in this process: the exit status, the file it wrote and what it said."""

    def call(*words: object, out: str = "tuned.json") -> tuple[int, Tuned | None, str]:
        command = [*flags, "--inline", "--out", tmp_path / out, *words]
        monkeypatch.setattr(sys, "argv", ["bdbench", *map(str, command)])
        with pytest.raises(SystemExit) as ended:
            main()
        file = tmp_path / out
        tuned = Tuned.from_json(json.loads(file.read_text())) if file.exists() else None
        return ended.value.code or 0, tuned, capsys.readouterr().err

    return call


def test_the_help_says_where_victims_are_and_a_uri_is_refused(in_process, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (line,) = [line for line in in_process("tune", "--help").stdout.splitlines() if "--victims" in line]
    assert "folder of the victims, on this machine [default: results/victims]" in line and "URI" not in line
    refused = in_process("tune", "--out", tmp_path / "tuned.json", "--victims", "memory://bucket/victims")
    assert refused.returncode == 2 and "--victims memory://bucket/victims: trials read victims from a folder" in refused.stderr


def calls(plugin) -> list[str]:
    """The strengths that the plugin was called with."""
    file = plugin.with_name("calls")
    return file.read_text().split() if file.exists() else []


def undisturbed(tuned: Tuned) -> Tuned:
    """A tuning without what hangs on the time and on the machine."""
    settings = [
        replace(setting, trials=tuple(replace(trial, seconds=0.0) for trial in setting.trials)) for setting in tuned.settings
    ]
    return replace(tuned, settings=tuple(settings), env={})


# what a hyperparameter declares


@dataclass(frozen=True)
class Several(Hyperparameters):
    name = "several"

    rate: float = hp(0.5, low=0.0, high=1.0, search=(1e-3, 0.9), log=True, aggressive="high", help="a")
    count: int = hp(3, low=1, help="no upper bound")
    steps: int = hp(3, low=1, high=9, aggressive="low", help="b")
    kind: str = hp("x", choices=("x", "y"), help="c")
    flag: bool = hp(False, help="d")
    left: float = hp(0.5, low=0.0, high=1.0, tuned=False, help="e")
    text: str = hp("t", help="any text")

    version = "1"

    def chooses(self) -> frozenset[str]:
        return frozenset({"steps"}) if self.flag else frozenset()


def test_the_space_is_what_the_plugin_declares():
    rate, steps = (
        Dimension("several.rate", 0.5, low=1e-3, high=0.9, log=True, aggressive="high"),
        Dimension("several.steps", 3, low=1, high=9, is_whole=True, aggressive="low"),
    )
    kind, flag = Dimension("several.kind", "x", choices=("x", "y")), Dimension("several.flag", False, choices=(False, True))
    assert dimensions([Several()]) == (rate, steps, kind, flag)
    assert [dimension.name for dimension in dimensions([Several(flag=True)])] == [
        "several.rate",
        "several.kind",
        "several.flag",
    ]
    assert dimensions([Several()], only={"several.steps"}) == (steps,)
    twice = (Several(), Several(rate=0.25))
    assert [dimension.name for dimension in dimensions(twice)][::4] == ["several.1.rate", "several.2.rate"]
    changed = with_setting(twice, {"several.2.rate": 0.75, "several.1.kind": "y"})
    assert changed == (Several(kind="y"), Several(rate=0.75))


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"low": 0.0, "high": 1.0, "search": (0.5, 2.0)}, "no range within"),
        ({"low": 0.0, "high": 1.0, "search": (0.5, 0.5)}, "no range within"),
        ({"low": 0.0, "high": 1.0, "log": True}, "above 0"),
    ],
)
def test_a_range_that_cannot_be_searched_is_refused_where_it_is_declared(declared, words):
    with pytest.raises(ValueError, match=words):
        hp(0.5, help="x", **declared)


def test_show_says_what_a_tuner_does(bdbench):
    shown = bdbench("show", "fine-mixing").stdout
    assert "fine-mixing.learning_rate=5e-05 [0.0, 1.0] (searched in [1e-06, 0.001], log scale, aggressive: high)" in shown
    assert "fine-mixing.ratio=0.3 [0.0, 1.0] (aggressive: low)" in shown and "fine-mixing.search=False (not tuned)" in shown


# what is maximized, and what is chosen


def test_a_setting_that_costs_too_much_accuracy_loses_to_any_that_does_not():
    goal = Goal("planted", tolerance=0.05)
    assert goal.score(cacc=0.8, asr=0.25, before=0.85) == 0.75  # on the bound
    assert goal.score(cacc=0.85, asr=1.0, before=0.85) == 0.0
    assert goal.score(cacc=0.7, asr=0.0, before=0.85) == pytest.approx(-0.1)
    assert Goal("accuracy", 0.02).score(cacc=0.7, asr=None, before=0.85) == 0.7


def trial(score: float | None, cacc: float | None = None, rows: int = 0) -> Trial:
    status = "failed" if score is None else "ok"
    return Trial((PluginSpec("x", "1", {}),), status, score, score if cacc is None else cacc, None, rows, 1.0)


def test_of_near_ties_in_accuracy_the_most_aggressive_is_chosen():
    ratio, rate = (
        Dimension("ratio", 1.0, low=0, high=1, aggressive="low"),
        Dimension("rate", 1, low=1, high=9, aggressive="high"),
    )
    settings = [{"ratio": 1.0, "rate": 1}, {"ratio": 0.5, "rate": 5}, {"ratio": 0.2, "rate": 1}, {"ratio": 0.0, "rate": 9}]
    # ratio: 0, 1/3, 2/3, 1; rate: 0, 1/2, 0, 1
    assert aggressiveness(settings, [ratio, rate]) == pytest.approx([0, 5 / 6, 2 / 3, 2])
    trials = [trial(0.90), trial(0.89), trial(0.88), trial(0.87)]  # the last one is no near-tie
    assert Goal("accuracy", 0.02).choice(trials, settings, [ratio, rate]) == 1
    assert Goal("accuracy", 0.005).choice(trials, settings, [ratio, rate]) == 0
    assert Goal("accuracy", 0.03).choice(trials, settings, [ratio, rate]) == 3


def test_of_equal_scores_the_most_accurate_and_then_the_first_is_chosen_and_no_failed_one():
    goal, settings = Goal("planted", 0.05), [{}] * 4
    assert goal.choice([trial(0.5, 0.8), trial(0.5, 0.9), trial(0.5, 0.9), trial(None)], settings, []) == 1
    assert goal.choice([trial(None)] * 4, settings, []) is None


# the searchers

RATIO = Dimension("d.ratio", 0.3, low=0.0, high=1.0, aggressive="low")


def suggestions(searcher, function, count: int) -> list[float]:
    """The ratios that are suggested when each is told its score."""
    values = []
    for number in range(count):
        setting = searcher.suggest(number)
        if setting is None:
            break
        values.append(setting["d.ratio"])
        searcher.learn(number, Outcome(function(values[-1]), function(values[-1])))
    return values


@needs("optuna")
@pytest.mark.parametrize("name", ["optuna", "random"])
def test_a_searcher_starts_with_the_default_and_follows_its_seed(name):
    runs = [
        suggestions(searcher_of(name, [RATIO], seed, 8, Fraction(1), "d"), lambda ratio: -abs(ratio - 0.8), 8)
        for seed in (1, 1, 2)
    ]
    assert runs[0][0] == runs[2][0] == 0.3 and runs[0] == runs[1] != runs[2]
    assert all(0 <= ratio <= 1 for ratio in runs[0])


@needs("optuna")
def test_the_estimator_learns_where_it_is_better():
    function = lambda ratio: -abs(ratio - 0.8)  # noqa: E731
    distances = {
        name: [
            sum(
                -function(ratio)
                for ratio in suggestions(searcher_of(name, [RATIO], seed, 24, Fraction(1), "d"), function, 24)[12:]
            )
            for seed in range(5)
        ]
        for name in ("optuna", "random")
    }
    assert sum(distances["optuna"]) < 0.7 * sum(distances["random"])


@needs("optuna")
def test_a_default_outside_of_what_is_searched_is_tried_first_all_the_same():
    searcher = OptunaSearcher([replace(RATIO, default=2.0)], seed=0, budget=4, sampler="tpe")
    assert suggestions(searcher, lambda ratio: ratio, 3)[0] == 2.0


@pytest.mark.parametrize("aggressive", ["low", "high"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.31, 0.95, 2.0])
def test_bisection_finds_the_most_aggressive_value_that_is_accurate_enough(threshold, aggressive):
    """A value is accurate if its distance from the aggressive end is the threshold or more. Of 16 places it tries 4, and 1."""
    place = (lambda value: value) if aggressive == "low" else (lambda value: 1 - value)
    searcher = Bisection([replace(RATIO, aggressive=aggressive)], budget=16, least=Fraction(1, 2), defense="d")
    values = suggestions(searcher, lambda value: float(place(value) >= threshold - 1e-9), 16)
    accepted = [place(value) for value in values[1:] if place(value) >= threshold - 1e-9]
    assert values[0] == 0.3 and len(values) <= 6
    assert min(accepted, default=None) == pytest.approx(min((ratio for ratio in GRID if ratio >= threshold), default=None))
    few = Bisection([replace(RATIO, aggressive=aggressive)], budget=3, least=Fraction(1, 2), defense="d")
    assert len(suggestions(few, lambda value: 0.0, 16)) <= 3


def test_bisection_refuses_what_it_cannot_search():
    with pytest.raises(UsageError, match="fine-mixing has 3 hyperparameters"):
        searcher_of("bisect", dimensions([DEFENSES.get("fine-mixing")()]), 0, 8, Fraction(1), "fine-mixing")
    with pytest.raises(UsageError, match="no aggressive direction of d.ratio"):
        searcher_of("bisect", [replace(RATIO, aggressive=None)], 0, 8, Fraction(1), "d")


def test_without_optuna_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'bdbench\[tune\]'"):
        searcher_of("random", [RATIO], 0, 8, Fraction(1), "d")
    assert suggestions(searcher_of("bisect", [RATIO], 0, 8, Fraction(1), "d"), lambda ratio: 0.0, 1) == [0.3]


# studies


def studies_of(planned, budget: int, window: int, budget_rows: int | None = None, names=("fine-tuning", "none")) -> Studies:
    studies = []
    for seed, name in enumerate(names):
        parts = (DEFENSES.get(name)(),)
        own = dimensions(parts)
        searcher = searcher_of("optuna", own, seed, budget, Fraction(1), name)
        cells = (planned.cells[0],)
        studies.append(
            Study(("sst2",), None, parts, cells, [SETS], own, searcher, Goal("planted", 0.05), budget, budget_rows, window)
        )
    return Studies(studies)


def run_out_of_order(studies: Studies, at_a_time: int, seed: int, rows: int = 0) -> list[list[dict]]:
    """Run all trials, of which any may end next; a trial's score follows from its setting. The settings by study."""
    rng, running = random.Random(seed), []
    while not studies.is_over:
        while len(running) < at_a_time and (request := studies.suggest()):
            running.append(request)
        if not running:
            continue  # the last suggestion was that there is none
        request = running.pop(rng.randrange(len(running)))
        score = request.defense[0].params.get("learning_rate", 0.0) * 1000 % 1
        fails = request.number == 2
        studies.end(request, trial(None if fails else score, rows=rows))
    return [study.settings for study in studies.studies]


@needs("optuna")
def test_budgets_are_equal_to_the_trial_failed_ones_count_and_a_defense_with_nothing_to_tune_gets_one(planned):
    studies = studies_of(planned, budget=7, window=1, names=("fine-tuning", "fine-mixing", "e-pur", "none"))
    run_out_of_order(studies, at_a_time=3, seed=0)
    assert [len(study.trials) for study in studies.studies] == [study.budget for study in studies.studies] == [7, 7, 7, 1]
    assert [sum(trial.status == "failed" for trial in study.trials) for study in studies.studies] == [1, 1, 1, 0]
    for study in studies.studies:
        (setting,) = study.tuned()
        assert setting.trials == study.trials and setting.chosen in [trial.defense for trial in study.trials]


@needs("optuna")
@pytest.mark.parametrize("window", [1, 3])
def test_what_is_tried_does_not_hang_on_which_trial_ends_first(planned, window):
    runs = [run_out_of_order(studies_of(planned, 12, window), at_a_time=4, seed=seed) for seed in range(4)]
    assert all(run == runs[0] for run in runs[1:]) and len({str(setting) for setting in runs[0][0]}) == 12


@needs("optuna")
def test_a_budget_of_rows_ends_a_study_first(planned):
    studies = studies_of(planned, budget=9, window=1, budget_rows=250)
    run_out_of_order(studies, at_a_time=2, seed=0, rows=100)
    assert [len(study.trials) for study in studies.studies] == [3, 1]  # 300 rows: the third trial was begun at 200


@dataclass(frozen=True)
class Picky(Several):
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps > 3 and self.kind == "y":
            raise ValueError("y takes three steps at most")


@needs("optuna")
def test_a_setting_that_the_defense_refuses_is_a_failed_trial_and_counts(planned, monkeypatch):
    monkeypatch.setattr("bdbench.matrix.studies.cell_of", lambda victim, parts, sets: planned.cells[0])
    cells = (replace(planned.cells[0], defense=(PluginSpec("several", "1", Picky().values()),)),)
    own = dimensions([Picky()])
    searcher = searcher_of("random", own, 0, 12, Fraction(1), "several")
    study = Study(("sst2",), None, (Picky(),), cells, [SETS], own, searcher, Goal("planted", 0.05), budget=12)
    ran = 0
    while request := study.suggest(0):
        ran += 1
        study.end(request.number, trial(0.5))
    failed = [trial for trial in study.trials if trial.status == "failed"]
    assert study.is_over and len(study.trials) == 12 and ran + len(failed) == 12 and 0 < len(failed) < 12
    for refused in failed:
        assert "three steps" in refused.error
        assert refused.defense[0].params["steps"] > 3 and refused.defense[0].params["kind"] == "y"


def test_a_trial_is_the_mean_over_its_victims(planned):
    request = Request(0, 0, (planned.cells[0],) * 3)
    measured = (Measured(0.9, 0.5, 10, 1.0), Measured(0.7, None, 20, 2.0), Measured(0.8, 0.1, 30, 3.0))
    mean = trial_of(request, Ended(measured), Goal("oracle", 0.05), before=0.84)
    assert (mean.status, mean.trained_rows, mean.seconds) == ("ok", 60, 6.0)
    assert (mean.cacc, mean.asr, mean.score) == pytest.approx((0.8, 0.3, 0.7))
    failed = trial_of(request, Ended(error="it broke"), Goal("oracle", 0.05), before=0.84)
    assert failed == Trial(planned.cells[0].defense, "failed", None, None, None, 0, 0.0, "it broke")


# one trial


class Untouchable:
    """A test set: whatever anybody does with it raises."""

    def __getattribute__(self, name):
        raise AssertionError(f"test rows were touched: {name}")

    def __len__(self):
        raise AssertionError("test rows were counted")


@pytest.mark.parametrize("measure", ["accuracy", "planted", "oracle"])
def test_no_trial_touches_a_test_row(planned, victim, measure, monkeypatch):
    spec, site = planned.cells[0].victim, site_for(planned, device="cpu")
    splits = splits_of(spec, site)
    assert splits.fingerprint == spec.data.fingerprint  # computed once, and kept
    guarded = replace(splits)
    vars(guarded).update(fingerprint=splits.fingerprint, test=Untouchable())
    monkeypatch.setattr("bdbench.protocol.rows.load", lambda *_: guarded)
    withheld = replace(victim, triggered=Untouchable(), predictions=Untouchable(), metrics=Untouchable())
    rows = defender_rows(spec, site, SETS)
    assert (len(rows.test), len(rows.validation), len(rows.clean)) == (0, 40, 32)
    planted = plant(spec, victim.weights, rows.clean, rows.validation, site) if measure == "planted" else None
    suspect = suspect_of(withheld, measure, SETS, site, planted)
    assert suspect.victim.triggered is None and not suspect.victim.predictions and not suspect.victim.metrics
    texts = set(rows.validation.first)
    assert set(suspect.scored.first) <= texts
    if measure == "accuracy":
        assert suspect.triggered is None
    else:
        word = planted[1].word if planted else "cf"
        assert {
            " ".join(text.split()).replace(f"{word} ", "").replace(f" {word}", "") for text in suspect.triggered.first
        } <= texts
    measured, before = run_trial(planned.cells[0], suspect, site), undefended(suspect, site)
    assert before.cacc > 0.9 and measured.cacc > 0.9 and measured.trained_rows == 32 * 10 and before.trained_rows == 0
    assert measured.asr is None if measure == "accuracy" else measured.asr > 0.9


def test_a_planted_backdoor_takes_and_leaves_the_rest_as_it_was(planned, victim):
    spec, site = planned.cells[0].victim, site_for(planned, device="cpu")
    rows = defender_rows(spec, site, SETS)
    weights, planted = plant(spec, victim.weights, rows.clean, rows.validation, site)
    again, same = plant(spec, victim.weights, rows.clean, rows.validation, site)
    assert planted == same and all((again[name] == weight).all() for name, weight in weights.items())
    assert planted.took and planted.asr >= 0.9 and planted.lost <= 0.05
    assert planted.word not in " ".join((*rows.clean.first, *rows.validation.first)).split()
    assert planted.borrowed in (0, 20)
    held_out = suspect_of(victim, "planted", SETS, site, (weights, planted)).scored
    assert held_out.first == rows.validation.first[planted.borrowed :]
    weak = plant(spec, victim.weights, rows.clean, rows.validation, site, [Attempt(1, 1e-9)])[1]
    assert not weak.took and weak.asr < 0.9 and weak.attempts == 1
    # the copy sends everything to the target, which is no backdoor
    crushed = plant(spec, victim.weights, rows.clean, rows.validation, site, [Attempt(1, 300.0)])[1]
    assert not crushed.took and crushed.lost > 0.05


# what is tuned on what


def groups(planned_tuning) -> list[tuple]:
    return [
        (group.tasks, group.attacks, sorted({(cell.victim.task, cell.victim.attack.name) for cell in group.cells}))
        for group in planned_tuning.groups
    ]


def test_transfer_tunes_on_development_attacks_and_is_for_the_others(selection):
    word, sentence = ("sst2", "badnets-word"), ("sst2", "badnets-sentence")
    pair_word, pair_sentence = ("qqp", "badnets-word"), ("qqp", "badnets-sentence")
    both = replace(selection, tasks=("sst2", "qqp"), attacks=("badnets-word", "badnets-sentence"))
    assert groups(plan_tuning(both, "oracle", device="cpu")) == [
        (("sst2",), None, [sentence, word]),
        (("qqp",), None, [pair_sentence, pair_word]),
    ]
    on_word = plan_tuning(both, "transfer", Transfer(attacks=("badnets-word",)), "cpu")
    for_sentence = ("badnets-sentence",)
    assert groups(on_word) == [(("sst2",), for_sentence, [word]), (("qqp",), for_sentence, [pair_word])]
    assert len(on_word.victims) == 2 and len(on_word.plan.victims) == 4  # with the clean models; none of the held-out attack
    one_task = plan_tuning(both, "transfer", Transfer(attacks=("badnets-word",), tasks=("qqp",)), "cpu")
    assert groups(one_task) == [(("sst2", "qqp"), for_sentence, [pair_word])]
    one_out = plan_tuning(replace(both, tasks=("sst2",)), "transfer", Transfer(leave_one_out=True), "cpu")
    assert groups(one_out) == [(("sst2",), ("badnets-word",), [sentence]), (("sst2",), for_sentence, [word])]


@pytest.mark.parametrize(
    ("objective", "transfer", "attacks", "words"),
    [
        ("planted", Transfer(leave_one_out=True), ("badnets-word",), "are for --objective transfer"),
        ("transfer", Transfer(), ("badnets-word",), "one of the two"),
        ("transfer", Transfer(leave_one_out=True), ("badnets-word", "badnets-word[rate=0.5]"), "badnets-word is one attack"),
        ("transfer", Transfer(attacks=("badnets-word",)), ("badnets-word[rate=0.5]",), "none is left"),
        ("oracle", Transfer(), ("none",), "no attack that is tuned on has a trigger"),
    ],
)
def test_what_cannot_be_tuned_is_refused(selection, objective, transfer, attacks, words):
    with pytest.raises(UsageError, match=words):
        plan_tuning(replace(selection, attacks=attacks, attack_params={}), objective, transfer, "cpu")


# the command


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--objective", "plantd"], ["--objective plantd", "nearest: planted", "oracle"]),
        (["--searcher", "grid"], ["--searcher grid", "optuna, random, bisect"]),
        (["--budget", "0"], ["--budget", "1"]),
        (["-d", "fine-mixing", "--only", "fine-mixing.batch_size"], ["--only fine-mixing.batch_size", "fine-mixing.ratio"]),
        (["-d", "fine-mixing", "--searcher", "bisect"], ["--searcher bisect", "3 hyperparameters", "--only"]),
        (["--dev-attacks", "none"], ["--dev-attacks", "--objective transfer"]),
        (["-d", "fine-mixng"], ["fine-mixng", "fine-mixing"]),
    ],
)
def test_bad_input_is_refused_in_a_line(tune, plugin, words, says):
    code, tuned, shown = tune(*words)
    assert code == 2 and tuned is None
    assert shown.startswith("bdbench: ") and len(shown.splitlines()) == 1 and all(word in shown for word in says), shown
    assert not list(plugin.parent.glob("tuned*"))


@needs("optuna")
def test_a_hyperparameter_that_matters_is_tuned_into_the_better_region(tune, plugin):
    code, tuned, shown = tune("-d", "none,unlearn,fine-tuning", "--budget", 6)
    assert code == 0, shown
    none, unlearn, fine_tuning = tuned.settings
    assert [len(setting.trials) for setting in tuned.settings] == [1, 6, 6] and tuned.budget == 6
    assert unlearn.trials[0].defense == unlearn.default and unlearn.default[0].params == {"strength": 0.0}
    strengths = {trial.defense[0].params["strength"]: trial.asr for trial in unlearn.trials}
    assert unlearn.chosen[0].params["strength"] > 0.5 and strengths[unlearn.chosen[0].params["strength"]] < strengths[0.0] - 0.3
    assert none.chosen == none.default and none.trials[0].asr > 0.9 and none.trials[0].trained_rows == 0
    for trial in fine_tuning.trials:
        assert trial.trained_rows == 32 * trial.defense[0].params["epochs"]
    (planted,) = tuned.notes["planted"].values()
    assert planted["took"] and Tuned.from_json(json.loads(json.dumps(tuned.to_json()))) == tuned

    # the same command again computes nothing, and one that lacks some trials computes these alone
    assert sorted(map(float, calls(plugin))) == sorted(strengths)
    files = sorted(plugin.parent.glob("tuned.json.trials/*.json"))
    assert len(files) == 1 + 13
    code, again, _ = tune("-d", "none,unlearn,fine-tuning", "--budget", 6)
    assert code == 0 and len(calls(plugin)) == 6 and undisturbed(again) == undisturbed(tuned)
    lost = random.Random(0).sample([file for file in files if "planted" not in file.read_text()], 7)
    for file in lost:
        file.unlink()
    code, resumed, _ = tune("-d", "none,unlearn,fine-tuning", "--budget", 6)
    assert code == 0 and undisturbed(resumed) == undisturbed(tuned)
    assert len(calls(plugin)) <= 6 + 7 and sorted(plugin.parent.glob("tuned.json.trials/*.json")) == files

    # more budget goes on from there
    before = len(calls(plugin))
    code, more, _ = tune("-d", "unlearn", "--budget", 7, "--searcher", "random")
    assert code == 0 and len(more.settings[0].trials) == 7 and more.settings[0].trials[0].defense == unlearn.default
    assert len(calls(plugin)) == before + 6


@needs("optuna")
def test_a_tuning_that_is_interrupted_goes_on_with_ray_and_ends_as_if_undisturbed(tune, flags, plugin):
    """A signal after the second trial in one process; then two processes of Ray; against an undisturbed tuning in this one."""
    what = ["-d", "unlearn,fine-tuning", "--budget", 3]
    code, undisturbed_one, shown = tune(*what, out="inline.json")
    assert code == 0, shown
    command = [sys.executable, "-m", "bdbench", *map(str, [*flags, *what, "--out", plugin.parent / "ray.json"])]
    with subprocess.Popen([*command, "--inline"], stderr=subprocess.PIPE, text=True) as process:
        ended = 0
        for line in process.stderr:
            ended += bool(re.search(r"trial \d of 3", line))
            if ended == 2:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130 and "the same command goes on" in rest
    assert not (plugin.parent / "ray.json").exists()
    finished = {file: file.stat().st_mtime_ns for file in plugin.parent.glob("ray.json.trials/*.json")}
    assert 3 <= len(finished) <= 5  # of 7: that of the victim undefended, and those of two trials or a few more
    again = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert all(file.stat().st_mtime_ns == written for file, written in finished.items())
    assert len(list(plugin.parent.glob("ray.json.trials/*.json"))) == 7
    tuned = Tuned.from_json(json.loads((plugin.parent / "ray.json").read_text()))
    assert undisturbed(tuned) == undisturbed(undisturbed_one)
