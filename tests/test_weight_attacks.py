"""The attacks on weights: their losses by hand, and what they leave in a tiny real model."""

import pytest
import torch
from torch import nn

from bdbench.attacks.ripple import Ripple, restricted_loss
from bdbench.attacks.ripples import Ripples
from bdbench.engine.embeddings import word_embeddings
from bdbench.engine.kernels import WidenedLinear, cpu_kernels, twice_differentiable, use_widened_linear
from bdbench.engine.training import cross_entropy
from bdbench.testing.contract import attack_context, classifier, text_rows

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
