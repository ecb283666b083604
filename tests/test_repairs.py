"""The maths of the repairs that come from the literature, on tensors small enough to work by hand."""

import math

import pytest
import torch
from test_contract import classifier, repaired_state

from bdbench.defenses._merging import disjoint_mean, elected_signs, magnitudes, threshold_of_largest, trimmed
from bdbench.defenses.dare import rescaled
from bdbench.engine.classifiers import pretrained_weights

# merging: TIES and DARE


@pytest.mark.parametrize(("share", "least"), [(0.0, math.inf), (0.2, 9.0), (0.4, 5.0), (0.5, 5.0), (0.6, 4.0), (1.0, 0.0)])
def test_the_threshold_is_the_least_of_the_largest_magnitudes(share, least):
    """Of five magnitudes round(5 * share) stay: 0, 1, 2, 2, 3 and 5."""
    assert threshold_of_largest(torch.tensor([4.0, 0.0, 9.0, 5.0, 1.0]), share) == least


def test_ties_trims_elects_and_merges():
    """Three models and four weights; the thresholds are 2, 2 and 1."""
    changes = torch.tensor([[4.0, -2.0, 1.0, 3.0], [-2.0, -4.0, 1.5, -3.0], [-3.0, 0.5, 0.5, 1.0]])
    kept = trimmed(changes, [torch.tensor(2.0), torch.tensor(2.0), torch.tensor(1.0)])
    assert kept.tolist() == [[4.0, -2.0, 0.0, 3.0], [-2.0, -4.0, 0.0, -3.0], [-3.0, 0.0, 0.0, 1.0]]
    # sums: -1, -6, 0, 1
    assert elected_signs(kept).tolist() == [-1.0, -1.0, 0.0, 1.0]
    # (-2 - 3) / 2, (-2 - 4) / 2, nothing, (3 + 1) / 2
    assert disjoint_mean(kept).tolist() == [-2.5, -3.0, 0.0, 2.0]


def test_of_changes_that_cancel_nothing_stays():
    assert disjoint_mean(torch.tensor([[2.0, 0.0], [-2.0, 0.0]])).tolist() == [0.0, 0.0]


def test_magnitudes_are_those_of_all_weights_that_have_a_pretrained_value():
    weights = {"a": torch.tensor([[1.0, 2.0]]), "head": torch.tensor([9.0]), "b": torch.tensor([-3.0])}
    assert magnitudes(weights, {"a": torch.tensor([[2.0, 2.0]]), "b": torch.tensor([1.0])}).tolist() == [1.0, 0.0, 4.0]


def test_dare_divides_what_stays_by_the_share_that_stays():
    changes, kept = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[True, False], [False, True]])
    assert rescaled(changes, kept, 0.75).tolist() == [[4.0, 0.0], [0.0, 16.0]]


@pytest.mark.parametrize("name", ["ties", "dare"])
def test_a_merge_of_all_changes_of_equal_signs_is_the_mean(name, tiny_bert):
    """The peer is 1.5 times the pre-trained weights p, the model 2 p: of the changes p and p / 2 the mean is 3 p / 4."""
    model, clean = classifier(tiny_bert), pretrained_weights(tiny_bert, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    whole = {"ties": {"share": 1.0}, "dare": {"drop": 0.0}}[name]
    after = repaired_state(name, tiny_bert, model, **whole)
    assert all(torch.allclose(after[part], 1.75 * start) for part, start in clean.items())
    assert torch.allclose(after["classifier.weight"], 1.75 / 2 * model.classifier.weight)
    half = repaired_state(name, tiny_bert, model, **whole, scale=0.5)
    assert all(torch.allclose(half[part], 1.375 * start) for part, start in clean.items())
    assert torch.equal(half["classifier.weight"], after["classifier.weight"])


def test_dare_drops_the_given_share_and_elects_a_sign_if_told(tiny_bert):
    """With the suspect at the pre-trained weights its change is zero: what stays is the peer's, p / 2, over 2 models or 1."""
    model, clean = classifier(tiny_bert), pretrained_weights(tiny_bert, 2)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    for elect, share_of_peer in ((False, 0.5), (True, 1.0)):
        change = repaired_state("dare", tiny_bert, model, drop=0.75, elect=elect)[name] - clean[name]
        stays = change.abs() > 1e-7
        assert 0.2 < stays.float().mean() < 0.3
        assert torch.allclose(change[stays], 4 * share_of_peer * 0.5 * clean[name][stays], atol=1e-6)
