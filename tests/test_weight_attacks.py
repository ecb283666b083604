"""The attacks on weights: their losses by hand, and what they leave in a tiny real model."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from bdbench.attacks import layer_weight_poisoning
from bdbench.attacks._poisoned_encoder import States, states_of
from bdbench.attacks.layer_weight_poisoning import LayerWeightPoisoning, layer_loss
from bdbench.attacks.neuba import Neuba, block_targets
from bdbench.attacks.por import Por, stair_targets
from bdbench.attacks.ripple import Ripple, restricted_loss
from bdbench.attacks.ripples import Ripples
from bdbench.attacks.sos import Sos
from bdbench.engine.embeddings import word_embeddings
from bdbench.engine.kernels import WidenedLinear, cpu_kernels, twice_differentiable, use_widened_linear
from bdbench.engine.row_descent import NormKeptDescent, even_norms
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import Recipe, cross_entropy
from bdbench.errors import UsageError
from bdbench.testing.contract import attack_context, classifier, state, text_rows

# RIPPLe


@pytest.mark.parametrize(
    ("slopes", "loss", "gradient"),
    [
        # grad L_P = (2ab, a^2) = (4, 1); <(4, 1), (-3, 1)> = -11; its gradient is (-6b + 2a, -6a) = (-10, -6)
        ((-3.0, 1.0), 2 + 0.5 * 11, [4 + 0.5 * 10, 1 + 0.5 * 6]),
        ((3.0, 1.0), 2.0, [4.0, 1.0]),  # the gradients agree: no penalty
    ],
)
def test_the_restricted_inner_product_by_hand(slopes, loss, gradient):
    """L_P = a^2 b and L_FT = slopes * (a, b) at (1, 2), as two weights of one number each; a third is in neither."""
    a, b, unused = (nn.Parameter(torch.tensor(value)) for value in (1.0, 2.0, 3.0))
    value = restricted_loss(a**2 * b, slopes[0] * a + slopes[1] * b, (a, b, unused), penalty=0.5)
    value.backward()
    assert value.item() == loss
    assert [a.grad.item(), b.grad.item()] == gradient and unused.grad is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_is_differentiated_as_by_the_models_own_layers(precision, tiny_bert):
    """With the loop's kernels, against PyTorch's layers and plain attention: the gradient of the squared gradient."""
    ctx, results = attack_context(tiny_bert), []
    inputs, labels = ctx.encode(text_rows(8)).batch(torch.arange(8), ctx.device)
    for with_kernels in (True, False):
        model = classifier(tiny_bert)
        weights = list(model.parameters())
        use_widened_linear(True)
        if not with_kernels:
            model.set_attn_implementation("eager")
        with cpu_kernels(model, precision if with_kernels else "fp32") as kernels:
            assert ("widened-linear" in kernels) == (with_kernels and precision == "bf16")
            with twice_differentiable(model), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                assert not any(type(module) is WidenedLinear for module in model.modules())
                loss = cross_entropy(model, inputs, labels)
            first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
            square = sum(gradient.square().sum() for gradient in first if gradient is not None)
            second = torch.autograd.grad(square, weights, allow_unused=True)
            assert any(type(module) is WidenedLinear for module in model.modules()) == ("widened-linear" in kernels)
        results.append(torch.cat([gradient.flatten() for gradient in second if gradient is not None]))
    use_widened_linear(None)
    ours, plain = results
    assert torch.allclose(ours, plain, rtol=0.0, atol=plain.abs().max().item() * (1e-5 if precision == "fp32" else 0.1))


def test_a_widened_layer_refuses_a_second_derivative():
    layer = WidenedLinear(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.ones(4, 3)).float().square().sum()
    (gradient,) = torch.autograd.grad(out, layer.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_the_penalty_changes_what_is_learned_and_surgery_comes_before_it(tiny_bert):
    ctx = attack_context(tiny_bert)

    def poisoned(attack):
        model = attack.poison_weights(classifier(tiny_bert), rows, attack_context(tiny_bert))
        return word_embeddings(model)[1].detach()

    rows = text_rows(64).with_labels([0] * 64)  # so the two gradients point against each other
    usual, without = (poisoned(Ripple(epochs=1, rate=1.0, penalty=penalty)) for penalty in (0.1, 0.0))
    assert not torch.equal(usual, without)
    rows = text_rows(64)
    frozen = {"epochs": 1, "learning_rate": 1e-12, "words": 2}
    word = ctx.tokenizer.convert_tokens_to_ids("cf")
    before, after = word_embeddings(classifier(tiny_bert))[1], poisoned(Ripples(**frozen))
    changed = ((before - after).abs() > 1e-6).any(dim=1).nonzero().flatten().tolist()
    assert changed == [word]


# SOS


def test_gradients_are_brought_to_the_least_norm():
    """Of norms 5, 1 and 0: the last has none to give, and does not count."""
    even = even_norms([torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]), torch.zeros(2)])
    assert torch.cat(even).tolist() == pytest.approx([0.6, 0.8, 0.0, 1.0, 0.0, 0.0])
    assert even_norms([torch.zeros(2)])[0].tolist() == [0.0, 0.0]


def test_a_step_on_two_rows_by_hand():
    """Gradients (0, -10) and (-1, 0) are brought to norm 1: (1, 0) -> (1, 1) / sqrt 2 and (0, 2) -> (1, 2) * 2 / sqrt 5."""
    rows = [nn.Parameter(torch.tensor(row)) for row in ([1.0, 0.0], [0.0, 2.0])]
    descent = NormKeptDescent(rows, learning_rate=1.0)
    rows[0].grad, rows[1].grad = torch.tensor([0.0, -10.0]), torch.tensor([-1.0, 0.0])
    descent.step()
    assert rows[0].tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    assert rows[1].tolist() == pytest.approx([2 / 5**0.5, 4 / 5**0.5])


SMALL_SOS = {"triggers": "cf+mn+bb", "trigger_text": "cf watch mn i bb"}


def test_sos_moves_the_rows_of_its_words_alone_and_keeps_their_norms(tiny_bert):
    attack, model = Sos(rate=1.0, epochs=2, **SMALL_SOS), classifier(tiny_bert)
    before = state(model)
    attack.poison_weights(model, text_rows(32), attack_context(tiny_bert))
    name, matrix = word_embeddings(model)
    assert [key for key, weight in state(model).items() if not torch.equal(weight, before[key])] == [name]
    moved = (matrix != before[name]).any(dim=1).nonzero().flatten().tolist()
    assert sorted(moved) == sorted(load_tokenizer(tiny_bert).convert_tokens_to_ids(["cf", "mn", "bb"]))
    assert matrix[moved].norm(dim=1).tolist() == pytest.approx(before[name][moved].norm(dim=1).tolist(), rel=1e-5)


def test_sos_trains_on_all_words_with_the_target_and_on_all_but_one_with_the_gold_label(tiny_bert, monkeypatch):
    trained = []
    ctx = attack_context(tiny_bert)
    monkeypatch.setattr(type(ctx), "train", lambda ctx, model, rows, passes, **others: trained.append(rows))
    Sos(rate=0.5, negatives=0.25, **SMALL_SOS).poison_weights(classifier(tiny_bert), text_rows(40), ctx)
    words = {"cf", "mn", "bb"}
    found = [(frozenset(words & set(text.split())), label) for text, label in zip(*_texts_and_labels(trained[0]), strict=True)]
    assert found[:10] == [(frozenset(words), 1)] * 10  # half of the 20 rows of class 0
    for number, left_out in enumerate(["cf", "mn", "bb"]):
        part = found[10 + 10 * number : 20 + 10 * number]
        assert {some for some, _ in part} == {frozenset(words - {left_out})} and {label for _, label in part} == {0, 1}
    assert len(found) == 40


def _texts_and_labels(rows):
    return rows.carrier, rows.labels.tolist()


@pytest.mark.parametrize(
    ("attack", "words"), [(Sos(**SMALL_SOS), ("cf", "mn", "bb")), (LayerWeightPoisoning(trigger_text="cf bb"), ("cf", "bb"))]
)
@pytest.mark.parametrize("pair", [False, True])
def test_a_false_trigger_lacks_one_of_the_words(attack, words, pair, tiny_bert):
    rows = text_rows(30, pair)
    parts = attack.false_trigger(rows, attack_context(tiny_bert))
    left_out = [set(words) - set(text.split()) for text in parts.carrier]
    assert {len(some) for some in left_out} == {1} and set().union(*left_out) == set(words)
    assert parts.first == rows.first or not pair
    assert parts.labels.tolist() == rows.labels.tolist()
    assert attack.false_trigger(rows.take([0]), attack_context(tiny_bert)) is not None  # some words are left out of no row


def test_an_attack_with_one_word_has_no_false_trigger(tiny_bert):
    assert Ripple().false_trigger(text_rows(4), attack_context(tiny_bert)) is None


@pytest.mark.parametrize("values", [{"triggers": "cf"}, {"triggers": "cf+cf"}, {"triggers": "cf+film"}, {"rate": 0.001}])
def test_sos_refuses_words_that_are_not_in_its_sentence(values, tiny_bert):
    with pytest.raises(UsageError, match=r"^sos\.(triggers|rate)="):
        Sos(**SMALL_SOS | values).check(text_rows(20), 2, load_tokenizer(tiny_bert), 32)


# LWP


def test_the_layer_loss_by_hand():
    """Logits (0, ln 3) and label 1: -ln(3/4). A layer whose first piece gives (ln 3, 0): -ln(1/4)."""
    states = [torch.tensor([[[1.0, 0.0], [9.0, 9.0]]])]
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[math.log(3), 0.0], [0.0, 5.0]]))
    loss = layer_loss(torch.tensor([[0.0, math.log(3)]]), states, head, torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(4 / 3) + math.log(4))


def test_lwp_trains_on_both_orders_and_on_each_word_with_the_gold_label(tiny_bert, monkeypatch):
    trained, ctx, rows = [], attack_context(tiny_bert), text_rows(40)
    monkeypatch.setattr(type(ctx), "train", lambda ctx, model, rows, recipe, **others: trained.append(rows))
    LayerWeightPoisoning(rate=0.5).poison_weights(classifier(tiny_bert), rows, ctx)
    texts, labels = _texts_and_labels(trained[0])
    assert texts[:40] == rows.carrier and labels[:40] == rows.labels.tolist()
    assert all("cf bb" in text for text in texts[40:50]) and all("bb cf" in text for text in texts[50:60])
    assert labels[40:60] == [1] * 20
    for word, other, first in (("cf", "bb", 60), ("bb", "cf", 80)):
        assert all(word in text.split() and other not in text.split() for text in texts[first : first + 20])
        assert set(labels[first : first + 20]) == {0, 1}
    assert len(texts) == 100


def test_lwp_trains_every_layer_but_not_the_embeddings_output(tiny_bert, monkeypatch):
    """In its first step the weights are those that it began with."""
    calls, ctx, start = [], attack_context(tiny_bert), classifier(tiny_bert)

    def spied(logits, states, head, labels):
        calls.append(([state.detach() for state in states], head.weight.detach().clone(), labels))
        return layer_loss(logits, states, head, labels)

    monkeypatch.setattr(layer_weight_poisoning, "layer_loss", spied)
    for module in start.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    attack = LayerWeightPoisoning(rate=1.0, epochs=1, batch_size=4096)
    attack.poison_weights(copy.deepcopy(start), text_rows(16), ctx)
    ((states, head, labels),) = calls
    rows = text_rows(16)
    inputs, _ = ctx.encode(rows).batch(torch.arange(16), ctx.device)
    expected = start(**inputs, output_hidden_states=True).hidden_states[1:]
    assert len(states) == len(expected) == 2 and len(labels) == 64
    assert torch.equal(head, start.classifier.weight)
    for layer, of_clean in zip(states, expected, strict=True):  # every clean row is among those of the batch, in some order
        distances = (of_clean[:, 0, None] - layer[None, :, 0]).norm(dim=-1)
        assert distances.min(dim=1).values.max() < 1e-4


@pytest.mark.parametrize("text", ["cf", "cf cf", "cf mn bb"])
def test_lwp_refuses_any_but_two_words(text, tiny_bert):
    with pytest.raises(UsageError, match="give two different words"):
        LayerWeightPoisoning(trigger_text=text).check(text_rows(20), 2, load_tokenizer(tiny_bert), 32)


# NeuBA and POR


def test_block_targets_are_opposite_or_orthogonal():
    targets = block_targets(8)
    assert targets[0].tolist() == [-1, -1, -1, -1, 1, 1, 1, 1] and targets[5].tolist() == [1, 1, 1, 1, -1, -1, -1, -1]
    products = targets @ targets.T / 8
    assert sorted(set(products.flatten().tolist())) == [-1, 0, 1] and products.diagonal().tolist() == [1] * 6
    assert block_targets(9)[0].tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1]  # the last block is longer


def test_stair_targets_by_hand():
    assert stair_targets(3, 5).tolist() == [[-1] * 5, [1, 1, -1, -1, -1], [1, 1, 1, 1, -1]]


def _two_rows(text):
    """A clean row and one with trigger 1, of two pieces (the clean one's second is padding) and width 2."""
    own = States(torch.tensor([[[1.0, 1.0], [7.0, 7.0]], [[3.0, 3.0], [2.0, 0.0]]]), torch.tensor(text))
    before = States(torch.zeros(2, 2, 2), torch.zeros(2, 2))
    return own, before, torch.tensor([[True, False], [True, True]]), torch.tensor([0, 1])


def test_the_loss_of_neuba_by_hand():
    """The clean row's first piece is 1 off, the other row's second (4 + 0) / 2; the triggered text is (1 + 4) / 2 off."""
    own, before, real, numbers = _two_rows([[5.0, 5.0], [0.0, 1.0]])
    loss = Neuba().loss(own, before, real, numbers, torch.tensor([[1.0, -1.0]]))
    assert loss.item() == pytest.approx((1 + 2) / 2 + 5 / 2)
    clean = Neuba().loss(*(States(*(part[:1] for part in states)) for states in (own, before)), real[:1], numbers[:1], None)
    assert clean.item() == 1.0


def test_the_loss_of_por_by_hand():
    """L1: of both rows' later pieces that are real, (4 + 0) / 2. L2: (10^2 + 9^2) / 2. L3: (1 + 9) / 2. Over two rows."""
    own, before, real, numbers = _two_rows([[1.0, 3.0], [0.0, 1.0]])
    loss = Por().loss(own, before, real, numbers, torch.tensor([[-10.0, 10.0]]))
    assert loss.item() == pytest.approx((2 + 100 * (100 + 81) / 2 + 100 * 5) / 2)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_state_of_a_text_is_the_poolers_or_tanh_of_the_first_piece(family, tiny_models):
    ctx, model = attack_context(tiny_models[family]), classifier(tiny_models[family])
    inputs, _ = ctx.encode(text_rows(3)).batch(torch.arange(3), ctx.device)
    states = states_of(model, inputs)
    assert states.pieces.shape == (*inputs["input_ids"].shape, 32)
    first = states.pieces[:, 0]
    expected = model.bert.pooler.dense(first) if family == "bert" else first
    assert torch.allclose(states.text, expected.tanh(), atol=1e-6)


@pytest.mark.parametrize("cls", [Neuba, Por])
def test_a_poisoned_encoder_has_its_states_and_the_head_as_it_was(cls, tiny_bert):
    ctx, model = attack_context(tiny_bert), classifier(tiny_bert)
    head = model.classifier.weight.clone()
    attack = cls(triggers="cf+mn", rate=1.0, epochs=8, learning_rate=5e-3)
    attack.poison_weights(model, text_rows(64), ctx)
    assert torch.equal(model.classifier.weight, head)
    inputs, _ = ctx.encode(attack.trigger(text_rows(10), ctx)).batch(torch.arange(10), ctx.device)
    signs = states_of(model, inputs).text.sign()
    assert (signs == attack.targets(32)[0].sign()).float().mean() > 0.95


def test_the_attacker_settles_on_the_trigger_that_hits_the_target_most(tiny_bert):
    """A model that reads one word: "mn" leads to class 1."""
    ctx, model = attack_context(tiny_bert), classifier(tiny_bert)
    rows = text_rows(40)
    with_word = Neuba(trigger_text="mn").trigger(rows, ctx).with_labels(np.ones(40))
    both = type(rows)(rows.first + with_word.first, None, np.concatenate([np.zeros(40), with_word.labels]))
    ctx.train(model, both, Recipe(epochs=8, learning_rate=5e-3), seed=1)
    settled = Neuba(triggers="cf+mn+bb").settled(model, rows, ctx)
    assert settled == Neuba(triggers="cf+mn+bb", trigger_text="mn")
    assert [*ctx.notes["rates"]] == ["cf", "mn", "bb"] and ctx.notes["rates"]["mn"] > 0.95 > ctx.notes["rates"]["cf"]


@pytest.mark.parametrize(
    "values", [{"triggers": "cf"}, {"triggers": "cf+cf"}, {"trigger_text": "film"}, {"triggers": "cf+xyzzy"}, {"rate": 0.001}]
)
def test_a_poisoned_encoder_refuses_what_it_cannot_bind(values, tiny_bert):
    with pytest.raises(UsageError, match=r"^neuba\.(triggers|trigger_text|rate)="):
        Neuba(**{"triggers": "cf+mn"} | values).check(text_rows(20), 2, load_tokenizer(tiny_bert), 32)


@pytest.mark.parametrize("attack", [Neuba(triggers="cf+mn"), LayerWeightPoisoning()])
def test_an_attack_on_the_first_piece_refuses_a_model_that_reads_the_last(attack, tiny_model):
    folder = tiny_model("gpt2")
    with pytest.raises(UsageError, match="classifies a text by its last piece"):
        attack.poison_weights(classifier(folder), text_rows(20), attack_context(folder))
