"""Filters, and other defenses that are given the poisoned training set: their maths by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from bdbench.data import TextSet
from bdbench.defenses._features import features
from bdbench.defenses._word_scores import largest_changes, portions, without_each_word, word_scores
from bdbench.defenses.activation_clustering import ActivationClustering, is_suspicious, smaller_of_two
from bdbench.defenses.bki import keywords_of, outstanding_words, stands_out, suspicions
from bdbench.defenses.btu import MeanOfPieces, most_moved, unlearned
from bdbench.defenses.dpoe import divergence, optimizer_of, product_loss, shallow
from bdbench.defenses.spectral_signatures import spectral_scores, without_outliers
from bdbench.engine.classifiers import load_classifier, pretrained_weights
from bdbench.engine.embeddings import word_embeddings
from bdbench.engine.neurons import feed_forward_blocks
from bdbench.engine.training import Recipe
from bdbench.protocol.contexts import Context, DefenseContext
from bdbench.registry import DEFENSES
from bdbench.testing.contract import common, text_rows
from bdbench.testing.tiny_models import FAMILIES

# spectral signatures


def test_spectral_scores_are_squared_projections_on_the_widest_direction():
    """Four points on the cross (1 +- 3, 2) and (1, 2 +- 1): centered at (1, 2), they vary most along the first axis."""
    points = np.array([[4.0, 2], [-2, 2], [1, 3], [1, 1]])
    assert np.allclose(spectral_scores(points), [9, 9, 0, 0])
    # along (3, 4) / 5: the points 0, 0, 0, 5 steps from the origin have the mean 5 / 4
    oblique = np.array([[0.0, 0], [0, 0], [0, 0], [3, 4]])
    assert np.allclose(spectral_scores(oblique), [1.25**2, 1.25**2, 1.25**2, 3.75**2])


def test_the_largest_scores_of_each_class_are_dropped_but_no_more_than_half_of_it():
    labels = np.array([0, 1, 0, 1, 0, 1, 0])
    scores = np.array([1.0, 9, 4, 9, 2, 3, 3])
    assert without_outliers(scores, labels, 1).tolist() == [True, False, False, True, True, True, True]
    # class 0 has four rows, of which two may go, class 1 three, of which one may go
    assert without_outliers(scores, labels, 5).tolist() == [True, False, False, True, True, True, False]
    assert without_outliers(scores, labels, 0).all()
    assert without_outliers(np.array([1.0, 2]), np.array([0, 1]), 3).all()  # a class of one row stays


# activation clustering


def test_a_sample_of_a_large_class_has_rows_of_both_clusters():
    """One row of 6,000 lies apart; 5,000 are drawn for the silhouette, of the second seed without it."""
    of_class = np.random.default_rng(0).normal(scale=0.01, size=(6000, 2))
    of_class[17] += 100
    for seed in (0, 6):
        smaller, silhouette = ActivationClustering(components=2, reduction="pca")._smaller_cluster(of_class, seed)
        assert np.flatnonzero(smaller).tolist() == [17] and silhouette > 0.99
    assert 17 not in np.random.RandomState(6).permutation(6000)[:5000]


def test_the_smaller_cluster_is_the_one_with_fewer_rows():
    assert smaller_of_two(np.array([0, 1, 0, 0])).tolist() == [False, True, False, False]
    assert smaller_of_two(np.array([0, 1, 1, 1])).tolist() == [True, False, False, False]
    assert smaller_of_two(np.array([0, 1, 1, 0])).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("share", "silhouette", "least", "suspicious"),
    [
        (0.34, 0.0, -1.0, True),
        (0.35, 0.9, -1.0, False),
        (0.0, 0.9, -1.0, False),
        (0.2, 0.1, 0.1, True),
        (0.2, 0.09, 0.1, False),
    ],
)
def test_a_small_cluster_that_stands_apart_is_suspicious(share, silhouette, least, suspicious):
    assert is_suspicious(share, silhouette, 0.35, least) == suspicious


# BKI


def test_each_word_of_a_row_is_left_out_in_turn():
    variants, words = without_each_word(TextSet(("a  b c", "", "d"), None, [0, 0, 1]))
    assert variants.first == ("a  b c", "b c", "a c", "a b", "", "d", "") and words == [["a", "b", "c"], [], ["d"]]
    variants, words = without_each_word(TextSet(("a b",), ("c d",), [0]))
    assert variants.texts == [("a b", "c d"), ("b", "c d"), ("a", "c d"), ("a b", "d"), ("a b", "c")]
    assert words == [["a", "b", "c", "d"]]


def test_rows_come_in_portions_of_about_so_many_words():
    rows = TextSet(("a b", "c", "d e f", "g", ""), None, [0, 1, 2, 3, 4])
    assert [portion.labels.tolist() for portion in portions(rows, 3)] == [[0], [1], [2, 3, 4]]
    assert [portion.labels.tolist() for portion in portions(rows, 99)] == [[0, 1, 2, 3, 4]]


def test_a_words_score_is_the_largest_absolute_change():
    of_variants = np.array([[1.0, 2, 3], [1, 2, 3], [0, 5, 3], [1, 2, -1]])
    assert largest_changes(of_variants).tolist() == [0, 3, 4]


def test_a_words_suspicion_grows_with_its_rows_and_its_scores():
    """In 10 rows with a mean of 2: log10(10) * 2. In one row: 0, whatever its score. In 100 rows with 3: 6."""
    good, lone = ([{"good": score}] * 5 for score in (1.0, 3.0)), {"lone": 99.0}
    others = [*itertools.chain(*good), lone, *[{}] * 89]
    assert suspicions([{"cf": 3.0} | other for other in others]) == pytest.approx({"cf": 6.0, "good": 2.0, "lone": 0.0})
    assert keywords_of({"a": 1.0, "b": 3.0, "c": 2.0, "d": 2.0}, 2) == {"b": 3.0, "c": 2.0}


def test_a_word_stands_out_from_the_median_of_the_hundred_most_suspicious():
    assert stands_out([1.0, 7.0, 2.0], 3.0) and not stands_out([1.0, 6.0, 2.0], 3.0)  # 3 * 2 = 6
    assert not stands_out([5.0] * 60 + [7.0], 3.0) and stands_out([7.0] + [1.0] * 40 + [0.0] * 59, 3.0)
    assert not stands_out([7.0] + [3.0] * 99 + [0.0] * 900, 3.0)  # those beyond do not count


def test_every_trigger_is_found_one_after_another_and_then_no_word():
    """Two triggers in ten rows each, of class 1; after their rows, "good" and "bad" are in as many rows as each other."""
    clean = [({"good": 1.0, "the": 0.5}, 1) for _ in range(10)] + [({"bad": 1.0, "the": 0.5}, 0) for _ in range(10)]
    poison = [({word: score, "bad": 0.1, "the": 0.2}, 1) for word, score in (("cf", 9.0), ("mn", 8.0)) for _ in range(10)]
    keywords, labels = zip(*poison, *clean, strict=True)
    words, kept = outstanding_words(keywords, np.array(labels), 3.0)
    assert words == ["cf", "mn"] and kept.tolist() == [False] * 20 + [True] * 20
    assert outstanding_words(keywords, np.array(labels), 20.0)[0] == []


def test_a_word_that_is_all_of_a_class_drops_no_row():
    keywords, labels = [{"cf": 9.0, "a": 0.1, "b": 0.1}] * 10 + [{"a": 0.1, "b": 0.1}] * 10, np.repeat([1, 0], 10)
    words, kept = outstanding_words(keywords, labels, 3.0)
    assert words == [] and kept.all()
    assert outstanding_words([{}, {}], np.array([0, 1]), 3.0)[0] == []  # texts without a word


@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
def test_the_scores_of_a_row_are_those_of_its_own_variants(pair, tiny_bert):
    model, ctx = load_classifier(tiny_bert, 2)[0], Context(**common(tiny_bert, 0))
    rows = text_rows(6, pair)
    scores = word_scores(model, rows, ctx)
    assert [set(of_row) for of_row in scores] == [set(" ".join(texts).split()) for texts in rows.texts]
    first, second = " ".join(rows.first[3].split()[1:]), rows.second
    without = features(model, TextSet((rows.first[3], first), second and (second[3],) * 2, [0, 0]), ctx)
    assert scores[3][rows.first[3].split()[0]] >= np.abs(without[1] - without[0]).max() - 1e-5 > 0


# DPoE


def test_the_product_of_experts_leaves_little_to_learn_where_the_partner_is_right():
    """p = (1/2, 1/2); the partner's (3/4, 1/4) has the product (3/4, 1/4), and with weight 2 (9/10, 1/10)."""
    unsure, partner = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    assert product_loss(unsure, partner, torch.tensor([0]), 1.0).item() == pytest.approx(math.log(4 / 3))
    assert product_loss(unsure, partner, torch.tensor([1]), 1.0).item() == pytest.approx(math.log(4))
    assert product_loss(unsure, partner, torch.tensor([0]), 2.0).item() == pytest.approx(math.log(10 / 9))
    assert product_loss(unsure, partner, torch.tensor([0]), 0.0).item() == pytest.approx(math.log(2))
    both = product_loss(unsure.expand(2, 2), partner.expand(2, 2), torch.tensor([0, 1]), 1.0)
    assert both.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_the_divergence_is_half_of_both_ways_and_a_mean_over_the_classes():
    """KL(p, q) + KL(q, p) of p = (1/2, 1/2) and q = (3/4, 1/4) is (3/4 - 1/2) log 3, over 2 ways and 2 classes."""
    p, q = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    assert divergence(p, q).item() == pytest.approx(math.log(3) / 4 / 4)
    assert divergence(q, p).item() == pytest.approx(math.log(3) / 4 / 4) and divergence(q, q).item() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_partner_is_the_first_layers_and_has_weights_of_its_own(family, tiny_models):
    model = load_classifier(tiny_models[family], 2)[0]
    before, random_state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    partner = shallow(model, 5)  # of two layers one is left
    assert torch.equal(torch.get_rng_state(), random_state) and partner.config.num_hidden_layers == 1
    assert len(feed_forward_blocks(partner)) == 1 and len(feed_forward_blocks(model)) == 2
    assert all(torch.equal(value, before[name]) for name, value in partner.state_dict().items())
    with torch.no_grad():
        for weight in partner.parameters():
            weight.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.num_hidden_layers == 2


def test_each_expert_has_its_own_learning_rate_and_clipping():
    """Two weights with gradients of 3 and 4: each is clipped to 1, and Adam's first step is the rate. Then the rate falls."""
    experts = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in ("classifier", "partner")})
    recipe = Recipe(epochs=2, batch_size=1, learning_rate=0.01, warmup=0.0, clip=1.0)
    optimizer = optimizer_of(experts, recipe, 4.0, rows=1)  # two steps: the schedule gives 1 and 1/2
    for expert, gradient in zip(experts.values(), (3.0, 4.0), strict=True):
        nn.init.zeros_(expert.weight)
        expert.weight.grad = torch.full((1, 1), gradient)
    optimizer.step()
    assert [expert.weight.grad.item() for expert in experts.values()] == pytest.approx([1, 1], abs=1e-5)
    assert [expert.weight.item() for expert in experts.values()] == pytest.approx([-0.01, -0.04], rel=1e-4)
    optimizer.step()
    assert [expert.weight.item() for expert in experts.values()] == pytest.approx([-0.015, -0.06], rel=1e-4)


# BTU


def test_the_pieces_that_moved_most_are_suspects():
    """Rows 0 to 4 moved by 9, 3, 5, 0 and 4. Row 0 is left out; row 3 did not move."""
    start = torch.ones(5, 2)
    trained = start + torch.tensor([[9.0, 0], [3, 0], [3, 4], [0, 0], [0, -4]])
    assert most_moved(trained, start, 2, [0]) == [2, 4]
    assert most_moved(trained, start, 9, [0]) == [2, 4, 1] and most_moved(trained, start, 0, [0]) == []


def test_what_moved_too_far_becomes_the_paddings():
    """The moves are 0, (3, 0.5) and (0, 4): their norm is 5.03, over 3 pieces 1.68. Piece 2 is no suspect."""
    pretrained = torch.tensor([[7.0, 8], [1, 1], [2, 2]])
    victim = torch.tensor([[7.0, 8], [4, 1.5], [2, 6]])
    assert unlearned(victim, pretrained, [1], padding=0).tolist() == [[7, 8], [7, 1.5], [2, 6]]
    assert unlearned(victim, pretrained, [1, 2], padding=0).tolist() == [[7, 8], [7, 1.5], [2, 8]]
    assert torch.equal(unlearned(victim, pretrained, [], padding=0), victim)


def test_the_mean_is_over_the_pieces_that_are_not_left_out():
    """Pieces 0 (padding), 1, 2 and 3 stand for 9, 1, 2 and 6; 3 is left out. The head gives the mean and its negative."""
    bag = MeanOfPieces(torch.tensor([[9.0], [1], [2], [6]]), 2, [3], torch.Generator())
    with torch.no_grad():
        bag.head.weight.copy_(torch.tensor([[1.0], [-1]]))
    ids, mask = torch.tensor([[1, 2, 3], [2, 0, 0], [3, 3, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    assert bag(ids, mask).logits.tolist() == [[1.5, -1.5], [2, -2], [0, 0]]


def test_a_trigger_is_among_the_suspects_and_unlearned(tiny_bert):
    """A trigger in half of the rows, which all have its label; the other words are in rows of both labels alike."""
    texts, labels = text_rows(64).first, np.arange(64) // 2 % 2  # of two rows one has a good word, the other a bad one
    poisoned = TextSet([f"cf {text}" if label else text for text, label in zip(texts, labels, strict=True)], None, labels)
    part = DEFENSES.get("btu")(tokens=1, passes=10, exposing_rate=1e-3, epochs=1, learning_rate=0.0)
    resources = {"clean": text_rows(8), "pretrained": pretrained_weights(tiny_bert, 2), "training-set": poisoned}
    ctx = DefenseContext(**common(tiny_bert, 0), resources=resources)
    victim = load_classifier(tiny_bert, 2)[0]
    name, embeddings = word_embeddings(victim)
    trigger = ctx.tokenizer.convert_tokens_to_ids("cf")
    with torch.no_grad():
        embeddings[trigger] += 1.0
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    after = part.repair(victim, ctx).state_dict()
    assert [len(pieces) for pieces in ctx.notes.values()] == [1, 1, 1]
    assert ctx.notes["mean"] == ["cf"] != ctx.notes["mean without these"]
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    assert torch.equal(after[name][trigger], resources["pretrained"][name][ctx.tokenizer.pad_token_id])
    changed = [other for other in before if not torch.equal(after[other], before[other])]
    assert changed == [name] and (after[name] != before[name]).any(dim=1).nonzero().flatten().tolist() == [trigger]
