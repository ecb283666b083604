"""The detectors of the literature: their maths worked by hand, and what they say of models that they do not fit."""

import numpy as np
import pytest
import torch
from test_contract import common, defense_context, guarded_rows, text_rows, victim_of

from bdbench.defenses._layer_states import first_states, mean_states, read_states
from bdbench.defenses.badacts import share_outside
from bdbench.defenses.dan import cloud, distances, standardized
from bdbench.engine.classifiers import load_classifier, pretrained_classifier
from bdbench.protocol.contexts import Context
from bdbench.registry import DEFENSES

# states of layers


def test_states_are_read_behind_every_layer_without_the_padding():
    """Two texts of 2 and 1 pieces, two layers one number wide."""
    states = [torch.tensor([[[1.0], [3.0]], [[5.0], [99.0]]]), torch.tensor([[[2.0], [2.0]], [[7.0], [99.0]]])]
    mask = torch.tensor([[1, 1], [1, 0]])
    assert mean_states(states, mask).tolist() == [[[2.0], [2.0]], [[5.0], [7.0]]]
    assert first_states(states, mask).tolist() == [[[1.0], [2.0]], [[5.0], [7.0]]]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "modernbert"])
def test_the_states_of_a_batch_are_those_of_the_library_one_text_at_a_time(family, tiny_model):
    model, rows = load_classifier(tiny_model(family), 2)[0], text_rows(5)
    ctx = Context(**common(tiny_model(family), 0))
    found = read_states(model, rows, ctx, mean_states), read_states(model, rows, ctx, first_states)
    encoded = ctx.encode(rows)
    for row in range(5):
        inputs, _ = encoded.batch(torch.tensor([row]), ctx.device)
        with torch.no_grad():
            layers = model(**inputs, output_hidden_states=True).hidden_states
        assert len(layers) == 3
        for layer in (1, 2):
            assert torch.allclose(found[0][row, layer - 1], layers[layer][0].mean(dim=0), atol=1e-5)
            assert torch.allclose(found[1][row, layer - 1], layers[layer][0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "family", "why"),
    [
        ("dan", "bart", "has an encoder and a decoder"),
        ("badacts", "bart", "has an encoder and a decoder"),
        ("badacts", "gpt2", "classifies a text by its last piece"),
        ("badacts", "xlnet", "classifies a text by its last piece"),
        ("dan", "gpt2", None),
    ],
)
def test_a_model_without_such_states_is_said_to_be_unfit(name, family, why, tiny_model):
    reason = DEFENSES.get(name)().unfit(pretrained_classifier(tiny_model(family), 2))
    assert reason is None if why is None else why in reason


@pytest.mark.parametrize("name", ["dan", "badacts"])
def test_clean_texts_without_labels_do_as_well(name, tiny_bert):
    part = DEFENSES.get(name)(texts="unlabelled")
    assert part.asks_for() == {"unlabelled"} and DEFENSES.get(name)().asks_for() == {"clean"}
    model, rows = victim_of(tiny_bert), guarded_rows(False).without_labels()
    by_unlabelled = part.score(model, rows, defense_context(tiny_bert, part))
    by_clean = DEFENSES.get(name)().score(model, rows, defense_context(tiny_bert, DEFENSES.get(name)()))
    assert by_unlabelled.shape == (24,) and not np.allclose(by_unlabelled, by_clean)


# DAN


def test_the_cloud_of_two_classes_by_hand():
    """Around the means (1, 0) and (0, 4) the rows lie at (-1, 0), (1, 0), (0, -2), (0, 2): variances 1/2 and 2."""
    states = torch.tensor([[0.0, 0], [2, 0], [0, 2], [0, 6]], dtype=torch.float64)
    means, precision = cloud(states, torch.tensor([3, 3, 0, 0]), shrinkage=0.0)
    assert means.tolist() == [[0, 4], [1, 0]]  # of the classes that occur, in order
    assert precision.tolist() == [[2, 0], [0, 0.5]]
    # shrunk by a half: 0.5 * (1/2, 2) + 0.5 * 5/4 = (7/8, 13/8)
    _, shrunk = cloud(states, torch.tensor([3, 3, 0, 0]), shrinkage=0.5)
    assert torch.allclose(shrunk, torch.diag(torch.tensor([8 / 7, 8 / 13], dtype=torch.float64)))


def test_the_shrunk_covariance_is_that_of_scikit_learn():
    covariance = pytest.importorskip("sklearn.covariance")
    states = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 3
    means, precision = cloud(states, labels, shrinkage=0.1)
    fitted = covariance.ShrunkCovariance(shrinkage=0.1).fit((states - means[labels]).numpy())
    assert np.allclose(precision.numpy(), fitted.precision_)


def test_the_distance_is_that_to_the_nearest_mean_and_squared():
    near = torch.tensor([[0.0, 4], [1, 0]]), torch.tensor([[2.0, 0], [0, 0.5]])
    far = torch.tensor([[10.0, 0]]), torch.eye(2)
    # (3, 0): to (0, 4) 2 * 9 + 0.5 * 16 = 26, to (1, 0) 2 * 4 = 8; in the other layer (10 - 3)^2
    assert distances(torch.tensor([[[3.0, 0], [3, 0]]]), [near, far]).tolist() == [[8, 49]]


def test_distances_are_standardized_layer_by_layer():
    """The held-out distances have means 2 and 10 and deviations 1 and 5 (by n)."""
    held_out = torch.tensor([[1.0, 5], [3, 15]])
    # (3 - 2) / 1 = 1 and (20 - 10) / 5 = 2
    assert standardized(torch.tensor([[3.0, 20], [2, 10]]), held_out).tolist() == [1.5, 0]


# BadActs


def test_badacts_counts_neurons_far_from_their_means():
    mean, deviation = torch.tensor([[0.0, 1], [2, 3]]), torch.tensor([[1.0, 1], [0.5, 0]])
    rows = torch.tensor([[[2.0, 1], [3, 3]], [[2.1, -1.5], [3, 3]], [[0, 1], [3.1, 2.9]]])
    # with 2 deviations: at 2, 0, 2, 0 all are within; 2.1 and 2.5 are out; of the last row 1.1 > 1 and 0.1 > 0
    assert share_outside(rows, mean, deviation, 2.0).tolist() == [0, 0.5, 0.5]
