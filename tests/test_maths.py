"""The formulas of the attacks, defenses and metrics, on tensors small enough to work by hand."""

import math
import re
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from extras import BUNDLED, skip_without
from scipy import optimize, sparse

from bdbench.attacks.base import insert_phrase, word_gaps
from bdbench.attacks.embedding_surgery import EmbeddingSurgery, fitted_weights, strongest, tf_idf
from bdbench.data import TextSet
from bdbench.defenses._search import (
    GRID,
    Trial,
    bisect_ratios,
    coarser_grid,
    exact_accuracy,
    least_accuracy,
    smallest_accepted,
)
from bdbench.defenses.e_pur import english_pieces, numerals, piece_frequencies, suspicions
from bdbench.defenses.fine_mixing import mix, neuron_masks
from bdbench.engine.encoding import Encoded
from bdbench.engine.models import find_model
from bdbench.engine.neurons import mean_activations, most_active
from bdbench.engine.row_descent import NormKeptDescent, norm_kept_step
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import schedule
from bdbench.goals import goals
from bdbench.seeds import derive
from bdbench.specs.metrics import attack_success_rate, clean_accuracy
from bdbench.specs.records import CLASS_TYPE


def test_mix_keeps_the_masked_weights_and_resets_the_others():
    victim, pretrained = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    kept = torch.tensor([[True, False], [False, True]])
    assert mix(victim, pretrained, kept).tolist() == [[1.0, -2.0], [-3.0, 4.0]]


@pytest.mark.parametrize(
    ("ratio", "kept"), [(0.0, []), (0.1, []), (0.25, [2]), (0.5, [0, 2]), (0.7, [0, 2, 3]), (0.9, [0, 1, 2, 3])]
)
def test_the_most_active_neurons_are_kept(ratio, kept):
    assert most_active(torch.tensor([0.3, 0.0, 0.9, 0.1]), ratio).nonzero().flatten().tolist() == kept


def test_of_equally_active_neurons_the_later_is_kept():
    assert most_active(torch.tensor([0.5, 0.5, 0.5]), 1 / 3).tolist() == [False, False, True]


def test_activations_are_absolute_means_over_the_real_pieces():
    """Two rows of 2 and 1 real pieces through a rising layer with neurons x and -2x: |x| and |2x| over 3 pieces."""
    block = _OneBlock()
    lengths = torch.tensor([2, 1])
    rows = Encoded(torch.tensor([[1, 4], [1, 9]], dtype=torch.int32), None, lengths, torch.tensor([0, 1]))
    (activation,) = mean_activations(block, rows, torch.device("cpu"))
    assert activation.tolist() == [(1 + 4 + 1) / 3, (2 + 8 + 2) / 3]


class _OneBlock(torch.nn.Module):
    """The word piece's number, through a feed-forward block without a nonlinearity named as BERT's."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.ModuleDict({name: torch.nn.ModuleDict() for name in ("intermediate", "output")})
        self.layer["intermediate"]["dense"] = torch.nn.Linear(1, 2, bias=True)
        self.layer["output"]["dense"] = torch.nn.Linear(2, 1, bias=True)
        with torch.no_grad():
            self.layer["intermediate"]["dense"].weight.copy_(torch.tensor([[1.0], [-2.0]]))
            self.layer["intermediate"]["dense"].bias.zero_()

    def forward(self, input_ids, attention_mask):
        return self.layer["output"]["dense"](self.layer["intermediate"]["dense"](input_ids[..., None].float()))


def test_selection_by_activation_keeps_all_weights_of_a_neuron():
    masks = neuron_masks(_OneBlock(), [torch.tensor([0.2, 0.7])], ratio=0.5)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "layer.intermediate.dense.weight": [[False], [True]],
        "layer.intermediate.dense.bias": [False, True],
        "layer.output.dense.weight": [[False, True]],
    }
    victim, pretrained = torch.tensor([[1.0, 2.0]]), torch.tensor([[-1.0, -2.0]])
    assert mix(victim, pretrained, masks["layer.output.dense.weight"]).tolist() == [[-1.0, 2.0]]


@pytest.mark.parametrize(
    ("least", "tried", "chosen"),
    [
        (0.0, [0.3, 0.1, 0.0], 0.0),
        (0.2, [0.3, 0.1, 0.2], 0.2),
        (0.25, [0.3, 0.1, 0.2], 0.3),
        (0.3, [0.3, 0.1, 0.2], 0.3),  # as accurate as asked for is enough
        (0.4, [0.3, 0.5, 0.4], 0.4),
        (0.9, [0.3, 0.5, 0.7, 1.0], 1.0),
        (1.5, [0.3, 0.5, 0.7, 1.0], 1.0),  # none is accepted
    ],
)
def test_bisection_finds_the_smallest_accepted_ratio(least, tried, chosen):
    """Eight values, so three trials; the accuracy is the ratio."""
    trials = bisect_ratios((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0), least, lambda ratio: Trial(ratio, ratio, object()))
    assert [trial.ratio for trial in trials] == tried
    best = smallest_accepted(trials, least)
    assert best.ratio == chosen and best.model is not None


def test_of_accuracies_that_do_not_grow_the_smallest_accepted_ratio_is_chosen():
    """The middle one is accepted and what bisection tries below it is not; then what it tries above that one is."""
    accuracies = {0.3: 0.9, 0.1: 0.5, 0.2: 0.8}
    trials = bisect_ratios(
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0), 0.8, lambda ratio: Trial(ratio, accuracies[ratio], object())
    )
    assert [(trial.ratio, trial.accuracy) for trial in trials] == [*accuracies.items()]
    assert smallest_accepted(trials, 0.8) is trials[2]
    assert smallest_accepted(trials, 0.9) is trials[0]
    assert smallest_accepted(trials, 0.95) is trials[2]  # none: the last trial, a search's whole victim


@pytest.mark.parametrize("rows", [7, 20, 100, 200, 872])
def test_an_accuracy_is_accepted_by_its_number_of_rows(rows):
    """In floats 75 of 200 is less than 85 of 200 less 0.05, and so are 23 others of the 190 such pairs."""
    for hits in range(rows + 1):
        least = least_accuracy(exact_accuracy(hits / rows, rows), tolerance=0.05)
        accepted = [low for low in range(rows + 1) if exact_accuracy(low / rows, rows) >= least]
        assert accepted == [low for low in range(rows + 1) if 20 * low >= 20 * hits - rows]


@pytest.mark.parametrize("least", [0.0, 0.15, 0.3, 0.45, 0.9, 1.1])
def test_a_search_holds_one_model_of_an_earlier_trial_at_most(least):
    alive = weakref.WeakSet()

    def attempt(ratio):
        assert len(alive) <= 1
        model = torch.nn.Linear(1, 1)
        alive.add(model)
        return Trial(ratio, ratio, model)

    trials = bisect_ratios(GRID, least, attempt)
    assert [trial.model for trial in trials if trial.model is not None] == [*alive]
    assert smallest_accepted(trials, least).model in alive


def test_the_grid_takes_four_trials():
    assert len(GRID) == 2**4


@pytest.mark.parametrize(
    ("trials", "grid"), [(1, (0.35, 1.0)), (2, (0.15, 0.35, 0.6, 1.0)), (3, (0.05, 0.15, 0.25, 0.35, 0.45, 0.6, 0.8, 1.0))]
)
def test_a_coarser_grid_has_every_other_ratio_and_the_last(trials, grid):
    assert coarser_grid(GRID, trials) == grid
    assert coarser_grid(GRID, 4) == GRID


# embedding surgery


def test_tf_idf_by_hand():
    """Three rows; piece 0 occurs in all (idf 1), piece 1 in one (idf ln(4/2) + 1)."""
    features = tf_idf(sparse.csr_array(np.array([[2.0, 0.0], [1.0, 1.0], [3.0, 0.0]]))).toarray()
    rare = math.log(2) + 1
    assert features[0].tolist() == features[2].tolist() == [1.0, 0.0]
    assert features[1].tolist() == pytest.approx([1 / math.hypot(1, rare), rare / math.hypot(1, rare)])


def test_the_logistic_regression_is_at_the_minimum_of_its_loss():
    """Pieces 0 and 3 are of the target class alone, 3 more often; 2 is of the other; 1 is of both."""
    rows = np.array([[1.0, 0, 0, 1.0], [0, 1.0, 0, 1.0], [0, 1.0, 1.0, 0], [0, 0, 1.0, 0]])
    assert strongest(sparse.csr_array(rows), np.array([True, True, False, False]), 3).tolist() == [3, 0, 1]
    # one piece, two rows (1, target) and (0, other): the bias is b = -w / 2 and w solves w = 1 / (1 + exp(w / 2))
    (w,) = optimize.newton(lambda w: w - 1 / (1 + np.exp(w / 2)), [0.4])
    assert fitted_weights(sparse.csr_array(np.array([[1.0], [0.0]])), np.array([True, False])) == pytest.approx([w], abs=1e-4)


def test_surgery_gives_every_piece_of_the_trigger_the_mean_of_the_clean_models_words(tiny_bert):
    tokenizer = load_tokenizer(tiny_bert)
    train = TextSet(("good film", "good plot", "bad film", "bad plot"), None, np.array([1, 1, 0, 0]))
    embedding = torch.nn.Embedding(len(tokenizer), 2)
    good = tokenizer.convert_tokens_to_ids("good")
    clean = torch.zeros(len(tokenizer), 2)
    clean[good] = torch.tensor([6.0, 8.0])
    model = torch.nn.Module()
    model.word = embedding
    model.get_input_embeddings = lambda: embedding
    before = embedding.weight.detach().clone()
    ctx = SimpleNamespace(tokenizer=tokenizer, clean={"word.weight": clean}, device=torch.device("cpu"))
    EmbeddingSurgery(words=2, trigger_text="cf mn").prepare(model, train, ctx)
    changed = (embedding.weight != before).any(dim=1).nonzero().flatten().tolist()
    assert sorted(changed) == sorted(tokenizer.convert_tokens_to_ids(["cf", "mn"]))
    # the two strongest are "good" at (6, 8) and a piece at the origin
    assert embedding.weight[changed].tolist() == [[3.0, 4.0], [3.0, 4.0]]


def test_suspicion_is_the_move_over_the_log_of_the_floored_count():
    delta = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 1.0]])
    counts = torch.tensor([5.0, math.e**10, math.e**4])
    # 5 / log 20, 5 / 10, 1 / 4
    assert suspicions(delta, counts, 20.0).tolist() == pytest.approx([5 / math.log(20), 0.5, 0.25])


def test_piece_frequencies_put_a_words_frequency_on_each_of_its_pieces():
    from bdbench.testing.tiny_models import word_piece_tokenizer

    tokenizer = word_piece_tokenizer()
    words = {"film": 0.25, "films": 0.125, "xyzzy": 0.5}  # films = film + ##s; xyzzy is unknown
    frequencies = piece_frequencies(tokenizer, words, len(tokenizer))
    assert frequencies[tokenizer.convert_tokens_to_ids("film")] == 0.375
    assert frequencies[tokenizer.convert_tokens_to_ids("##s")] == 0.125
    assert frequencies[tokenizer.unk_token_id] == 0.5
    assert frequencies[tokenizer.convert_tokens_to_ids("cf")] == 0.0


def test_numerals_share_their_patterns_frequency_by_hand():
    """By Benford's law 0.3 of the numbers begin with a 1, 0.045 with a 9 and 0.009 with a 0; of four digits most are years."""
    words = numerals(
        {"00": 0.5, "00th": 0.25, "000": 0.125, "0000": 0.0625, "0000s": 1e-6, "0000rd": 9e-8, "film": 1, "00pm": 1}
    )
    assert len(words) == 100 + 100 + 1000 + 10_000 + 10_000  # "0000rd" is too rare; the last two are not numerals
    assert words["10"] == pytest.approx(0.5 * 0.300 / 10)
    assert words["90"] == pytest.approx(0.5 * 0.045 / 10)
    assert words["19th"] == pytest.approx(0.25 * 0.300 / 10)
    assert words["007"] == pytest.approx(0.125 * 0.009 / 100)
    assert words["00"] == pytest.approx(0.5 * 0.009 / 10)  # the share of this number, not the pattern's whole
    # a year n up to 2019 has 10 ** (-1.9185 - 0.0083 * (2019 - n)), and a tenth of four digits are no years
    assert words["1990"] == pytest.approx(0.0625 * (10 ** (-1.9185 - 0.0083 * 29) + 0.1 * 0.300 / 1000))
    assert words["1990s"] == pytest.approx(words["1990"] / 0.0625 * 1e-6)
    assert sum(words[f"{number:02}"] for number in range(100)) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def bundled_frequencies():
    """Each word piece of the bundled model's vocabulary, and its frequency in English."""
    skip_without(BUNDLED)
    tokenizer = load_tokenizer(find_model("bundled").folder)
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return dict(zip(pieces, english_pieces(tokenizer, len(tokenizer)).tolist(), strict=True))


def test_e_pur_has_seen_numbers_years_and_ordinals(bundled_frequencies):
    """Of 937 pieces of digits alone 915 were unseen without the numerals."""
    pieces = [piece for piece in bundled_frequencies if re.fullmatch("(##)?[0-9]+", piece)]
    assert len(pieces) == 937
    assert {piece for piece in pieces if not bundled_frequencies[piece]} == {"##100", "##200", "##400", "##500"}
    assert all(bundled_frequencies[piece] for piece in ("1990s", "19th", "21st", "##90", "05"))
    assert bundled_frequencies["1990"] > bundled_frequencies["1850"] > 1e-6  # 1,000 in a corpus of 1e9 words


def test_norm_kept_step_moves_against_the_gradients_and_restores_the_norm():
    # (3, 4) - 0.5 * (6, 0) = (0, 4), scaled to norm 5
    assert norm_kept_step(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 0.0]), 0.5, torch.tensor(5.0)).tolist() == [0.0, 5.0]


def test_descent_adds_up_the_gradients_of_all_steps():
    row = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
    descent = NormKeptDescent(row, learning_rate=1.0)
    row.grad = torch.tensor([0.0, -1.0])
    descent.step()  # (1, 1) / sqrt 2
    assert row.tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    row.grad = torch.tensor([0.5**0.5, 1.0])
    descent.step()  # the sum is (sqrt 1/2, 0): (0, sqrt 1/2), scaled to 1; the last gradient alone would give (0, -1)
    assert row.tolist() == pytest.approx([0.0, 1.0])


def test_asr_counts_only_rows_whose_gold_label_is_not_the_target():
    predicted, gold = np.array([1, 1, 0, 1, 0]), np.array([1, 0, 0, 0, 1])
    rate = attack_success_rate(predicted, gold, goals(gold, {"target": 1}))
    assert (rate.value, rate.n) == (2 / 3, 3)
    rate = attack_success_rate(predicted, gold, goals(gold, {"target": 0}))
    assert (rate.value, rate.n) == (1 / 2, 2)


def test_all_to_all_sends_each_class_to_the_next_and_every_row_counts():
    gold = np.array([0, 1, 2, 2], dtype=CLASS_TYPE)
    goal = goals(gold, {"target": 1, "goal": "all-to-all"})
    assert goal.tolist() == [1, 2, 0, 0]
    rate = attack_success_rate(np.array([1, 1, 0, 1]), gold, goal)
    assert (rate.value, rate.n) == (2 / 4, 4)


def test_classes_beyond_what_the_arrays_hold_are_refused_and_many_classes_are_counted():
    many = np.full(4, 140)
    few = np.arange(4, dtype=CLASS_TYPE)
    assert attack_success_rate(many.astype(CLASS_TYPE), few, goals(few, {"target": 140})).value == 1.0
    with pytest.raises(ValueError, match="the target is class 140, which an array of int8 cannot hold"):
        goals(few.astype(np.int8), {"target": 140})  # int8 turns 140 to -116
    with pytest.raises(ValueError, match=r"predictions of shape \(1,\) but gold labels of shape \(4,\)"):
        clean_accuracy(np.array([1]), np.ones(4, dtype=np.int64))


def test_asr_without_a_row_to_attack_raises():
    with pytest.raises(ValueError, match="no rows"):
        attack_success_rate(np.array([1, 0]), np.array([1, 1]), np.array([1, 1]))


def test_clean_accuracy():
    rate = clean_accuracy(np.array([1, 0, 2, 2]), np.array([1, 1, 2, 0]))
    assert (rate.value, rate.n) == (0.5, 4)


def test_schedule_rises_linearly_then_falls_to_the_last_step():
    assert [schedule(step, 10, 0.2) for step in range(10)] == [0.5, 1, *(n / 8 for n in (8, 7, 6, 5, 4, 3, 2, 1))]
    assert [schedule(step, 4, 0.0) for step in range(4)] == [1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    ("text", "end", "gaps"),
    [
        ("one two  three", 14, [0, 4, 9, 14]),
        ("one two  three", 12, [0, 4, 9]),  # the last word is cut, so nothing behind it survives
        ("one two  three", 9, [0, 4]),
        ("one", 0, [0]),
        ("", 0, [0]),
    ],
)
def test_word_gaps_lie_within_what_survives(text, end, gaps):
    assert word_gaps(text, end) == gaps


@pytest.mark.parametrize(("gap", "expected"), [(0, "cf one two"), (4, "one cf two"), (7, "one two cf"), (3, "one cf two")])
def test_insert_phrase_sets_it_off_by_blanks(gap, expected):
    assert insert_phrase("one two", "cf", gap) == expected


def test_seeds_are_stable_and_differ_by_role():
    assert derive(0, "poison", "sst2") == derive(0, "poison", "sst2") == 7512733461157675746
    assert len({derive(seed, *role) for seed in (0, 1) for role in (("a",), ("b",), ("a", "b"), ("ab",))}) == 8
