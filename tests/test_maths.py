"""The formulas of the attacks, defenses and metrics, on tensors small enough to work by hand."""

import math

import numpy as np
import pytest
import torch

from bdbench.attacks.base import insert_phrase, word_gaps
from bdbench.attacks.embedding_poisoning import NormKeptDescent, norm_kept_step
from bdbench.defenses.e_pur import piece_frequencies, suspicions
from bdbench.defenses.fine_mixing import mix
from bdbench.defenses.fine_pruning import least_active
from bdbench.loops import schedule
from bdbench.metrics import attack_success_rate, clean_accuracy
from bdbench.seeds import derive


def test_mix_keeps_the_masked_weights_and_resets_the_others():
    victim, pretrained = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    kept = torch.tensor([[True, False], [False, True]])
    assert mix(victim, pretrained, kept).tolist() == [[1.0, -2.0], [-3.0, 4.0]]


@pytest.mark.parametrize(("fraction", "pruned"), [(0.0, []), (0.25, [1]), (0.5, [1, 3]), (0.74, [1, 3]), (1.0, [1, 3, 0, 2])])
def test_least_active_takes_the_floor_of_the_share_weakest_first(fraction, pruned):
    assert least_active(torch.tensor([0.3, 0.0, 0.9, 0.1]), fraction).tolist() == pruned


def test_suspicion_is_the_move_over_the_log_of_the_floored_count():
    delta = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 1.0]])
    counts = torch.tensor([5.0, math.e**10, math.e**4])
    # 5 / log 20, 5 / 10, 1 / 4
    assert suspicions(delta, counts, 20.0).tolist() == pytest.approx([5 / math.log(20), 0.5, 0.25])


def test_piece_frequencies_put_a_words_frequency_on_each_of_its_pieces():
    from conftest import word_piece_tokenizer

    tokenizer = word_piece_tokenizer()
    words = {"film": 0.25, "films": 0.125, "xyzzy": 0.5}  # films = film + ##s; xyzzy is unknown
    frequencies = piece_frequencies(tokenizer, words, len(tokenizer))
    assert frequencies[tokenizer.convert_tokens_to_ids("film")] == 0.375
    assert frequencies[tokenizer.convert_tokens_to_ids("##s")] == 0.125
    assert frequencies[tokenizer.unk_token_id] == 0.5
    assert frequencies[tokenizer.convert_tokens_to_ids("cf")] == 0.0


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
    rate = attack_success_rate(predicted, gold, target=1)
    assert (rate.value, rate.n) == (2 / 3, 3)
    rate = attack_success_rate(predicted, gold, target=0)
    assert (rate.value, rate.n) == (1 / 2, 2)


def test_asr_without_a_row_to_attack_raises():
    with pytest.raises(ValueError, match="no rows"):
        attack_success_rate(np.array([1, 0]), np.array([1, 1]), target=1)


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
