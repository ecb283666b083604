"""Attention, dropout and linear layers made for a CPU: the same as PyTorch's, or of the same distribution."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_training import classifier, rows_of
from torch import nn

from bdbench.engine import kernels
from bdbench.engine.kernels import (
    FastDropout,
    WidenedLinear,
    attention,
    cpu_kernels,
    dropout_factors,
    use_widened_linear,
    widens_linear,
)
from bdbench.engine.prediction import predict
from bdbench.engine.training import Recipe, train
from bdbench.testing.tiny_models import FAMILIES


@pytest.fixture(autouse=True)
def own_timing():
    """Every test begins and ends without a decision on widening."""
    use_widened_linear(None)
    yield
    use_widened_linear(None)


@pytest.mark.parametrize("pieces", [3, 15, 16, 21])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_and_its_gradients_are_those_of_pytorch(pieces, padded):
    generator = torch.Generator().manual_seed(pieces)
    tensors = [torch.randn(2, 3, pieces, 8, generator=generator, requires_grad=True) for _ in range(3)]
    mask = None
    if padded:  # the second text has two pieces
        mask = torch.zeros(2, 1, pieces, pieces)
        mask[1, :, :, 2:] = torch.finfo(torch.float32).min
    weight = torch.randn(2, pieces, 3, 8, generator=generator)
    own, _ = attention(nn.Module(), *tensors, mask, scaling=0.3)
    expected = F.scaled_dot_product_attention(*tensors, attn_mask=mask, scale=0.3).transpose(1, 2)
    assert torch.allclose(own, expected, atol=1e-6)
    gradients = [torch.autograd.grad((result * weight).sum(), tensors) for result in (own, expected)]
    for own_gradient, reference in zip(*gradients, strict=True):
        assert torch.allclose(own_gradient, reference, atol=1e-5)


def test_attention_drops_weights_and_keeps_their_mean():
    torch.manual_seed(1)
    query, key = torch.zeros(64, 4, 20, 8), torch.zeros(64, 4, 20, 8)  # every weight is 1/20
    value = torch.eye(20).expand(64, 4, 20, 20)
    weights = 20 * attention(nn.Module(), query, key, value, None, scaling=1.0, dropout=0.25)[0]
    assert torch.isin(weights.round(decimals=4), torch.tensor([0.0, 1.3333])).all()
    assert (weights == 0).float().mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_factors_are_zero_with_probability_p_and_have_mean_one(p, dtype):
    torch.manual_seed(2)
    factors = dropout_factors(torch.Size([1000, 501]), p, dtype)
    assert factors.shape == (1000, 501) and factors.dtype == dtype
    kept = factors[factors != 0]
    assert torch.allclose(kept.float(), torch.tensor(1 / (1 - p)), rtol=1e-2)
    assert len(kept) / factors.numel() == pytest.approx(1 - p, abs=0.003)
    # neighbors, which come from one word of random bits, are independent: all four kept in (1 - p)^4 of the groups
    groups = (factors.flatten()[:500_000] != 0).view(-1, 4).all(dim=1)
    assert groups.float().mean() == pytest.approx((1 - p) ** 4, abs=0.005)


def test_dropout_factors_follow_torchs_seed_and_differ_from_call_to_call():
    shape = torch.Size([7, 5])
    torch.manual_seed(3)
    first, second = (dropout_factors(shape, 0.5, torch.float32) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(dropout_factors(shape, 0.5, torch.float32), first)
    assert not torch.equal(first, second)


def test_dropout_of_everything_and_of_nothing():
    x = torch.ones(1000)
    assert torch.equal(FastDropout(1.0)(x), torch.zeros(1000))
    assert torch.equal(FastDropout(0.0)(x), x)
    assert torch.equal(FastDropout(0.5).eval()(x), x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_widened_layer_and_its_gradients_are_those_of_autocast(bias, dtype):
    torch.manual_seed(4)
    plain = nn.Linear(96, 40, bias=bias)
    widened = copy.deepcopy(plain)
    widened.__class__ = WidenedLinear
    x = torch.randn(3, 7, 96).to(dtype).requires_grad_()
    weight = torch.randn(3, 7, 40)
    results = []
    for layer in (plain, widened):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = layer(x)
        results.append([result, *torch.autograd.grad((result.float() * weight).sum(), [x, *layer.parameters()])])
    for expected, own in zip(*results, strict=True):
        assert own.dtype == expected.dtype and own.shape == expected.shape
        assert torch.allclose(own.float(), expected.float(), rtol=2**-7, atol=0.05)  # bf16 has eight bits
    assert not torch.equal(results[1][0].float(), plain(x.float()))  # it does round to bf16
    assert torch.equal(widened(x.float()), plain(x.float()))  # and without autocast it is the plain layer


def test_a_frozen_widened_layer_passes_the_gradient_on():
    layer = WidenedLinear(4, 2).requires_grad_(False)
    x = torch.ones(1, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.bfloat16().float().sum(0), rtol=2**-7)
    assert layer.weight.grad is None and layer.bias.grad is None


@pytest.mark.parametrize("slow", [torch.bfloat16, torch.float32])
def test_layers_are_widened_where_bf16_is_the_slower_one(monkeypatch, slow):
    def clock():
        clock.now += 1.0
        return clock.now

    clock.now = 0.0
    real = torch.ones

    def ones(*shape, dtype):  # the matrix is made before the clock is read, so time passes with the product alone
        return Slow(real(*shape, dtype=dtype)) if dtype is slow else real(*shape, dtype=dtype)

    class Slow:
        def __init__(self, matrix):
            self.matrix = matrix

        def __matmul__(self, other):
            clock.now += 1.0
            return self.matrix @ other.matrix

    monkeypatch.setattr(kernels.time, "perf_counter", clock)
    monkeypatch.setattr(kernels.torch, "ones", ones)
    kernels.widening_pays.cache_clear()
    try:
        assert kernels.widening_pays() == (slow is torch.bfloat16)
    finally:
        kernels.widening_pays.cache_clear()


def test_a_process_that_was_told_whether_to_widen_does_not_time(monkeypatch, tiny_bert):
    def timed():
        raise AssertionError("timed")

    monkeypatch.setattr(kernels, "widening_pays", timed)
    model = classifier(tiny_bert)
    for widened in (True, False):
        use_widened_linear(widened)
        assert widens_linear() is widened
        with cpu_kernels(model, "bf16") as names:
            assert ("widened-linear" in names) == widened
    use_widened_linear(None)
    with pytest.raises(AssertionError, match="timed"):
        widens_linear()


@pytest.mark.parametrize("pays", [True, False])
def test_a_process_that_was_told_nothing_goes_by_timing(monkeypatch, pays, tiny_bert):
    monkeypatch.setattr(kernels, "widening_pays", lambda: pays)
    with cpu_kernels(classifier(tiny_bert), "bf16") as names:
        assert ("widened-linear" in names) == pays


def test_the_names_are_of_the_kernels_that_take_the_place_of_pytorchs(monkeypatch, tiny_bert):
    model = classifier(tiny_bert)
    with cpu_kernels(model.train(), "fp32") as names:
        assert names == {"attention", "dropout"}
    with cpu_kernels(model.eval(), "fp32") as names:
        assert names == {"attention"}
    model.set_attn_implementation("eager")
    with cpu_kernels(model, "fp32") as names:
        assert names == set()
    model.set_attn_implementation("sdpa")
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", lambda *_: False)
    with cpu_kernels(model, "fp32") as names:
        assert names == set() and model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_learns_the_same_with_widened_layers(family, tiny_models):
    rows = rows_of(tiny_models[family])
    trained = {}
    for widened in (False, True):
        use_widened_linear(widened)
        model = classifier(tiny_models[family])
        with cpu_kernels(model, "fp32"):
            assert not any(type(module) is WidenedLinear for module in model.modules())
        with cpu_kernels(model, "bf16"):
            assert any(type(module) is WidenedLinear for module in model.modules()) == widened
        assert not any(type(module) is WidenedLinear for module in model.modules())
        train(model, rows, Recipe(epochs=2, learning_rate=1e-3, batch_size=8), seed=1, precision="bf16")
        trained[widened] = predict(model, rows, precision="bf16")
    assert torch.allclose(trained[True], trained[False], atol=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_gives_the_same_logits_with_the_kernels_and_is_afterwards_as_before(family, tiny_models):
    rows, model = rows_of(tiny_models[family]), classifier(tiny_models[family])
    inputs, _ = rows.batch(torch.arange(len(rows)), torch.device("cpu"))
    with torch.inference_mode():
        before = model(**inputs).logits
        with cpu_kernels(model, "fp32"):
            assert any(type(module) is FastDropout for module in model.modules())
            assert model.config._attn_implementation == "bdbench-cpu"
            within = model(**inputs).logits
    assert torch.allclose(within, before, atol=1e-5)
    assert torch.allclose(predict(model, rows, precision="fp32"), before, atol=1e-5)
    assert not any(type(module) is FastDropout for module in model.modules())
    assert model.config._attn_implementation == "sdpa"


def test_a_module_around_the_model_keeps_its_attention_and_gets_the_dropout():
    wrapped = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    with cpu_kernels(wrapped, "fp32") as names:
        assert type(wrapped[1]) is FastDropout and names == {"dropout"}
    assert type(wrapped[1]) is nn.Dropout


def test_a_module_that_shows_the_configuration_of_the_model_inside_keeps_its_attention(tiny_bert):
    wrapped = nn.Sequential(classifier(tiny_bert))
    wrapped.config = wrapped[0].config
    with cpu_kernels(wrapped.train(), "fp32") as names:
        assert names == {"dropout"}
    assert wrapped.config._attn_implementation == "sdpa"


def test_blocks_may_be_nested_and_copies_may_be_made_inside(tiny_bert):
    """The inner block names what the outer one has exchanged, and leaves it. Two models may share modules."""
    use_widened_linear(True)
    model, other = classifier(tiny_bert).train(), classifier(tiny_bert)
    other.bert.encoder = model.bert.encoder
    kinds = [[type(module) for module in each.modules()] for each in (model, other)]
    everything = {"attention", "dropout", "widened-linear"}
    with cpu_kernels(model, "bf16") as names:
        assert names == everything
        exchanged = [type(module) for module in model.modules()]
        for inner in (model, other, copy.deepcopy(model)):
            with cpu_kernels(inner, "bf16") as names:
                assert names == everything
        assert [type(module) for module in model.modules()] == exchanged
        kept = copy.deepcopy(model)
    assert [[type(module) for module in each.modules()] for each in (model, other)] == kinds
    assert model.config._attn_implementation == other.config._attn_implementation == "sdpa"
    with cpu_kernels(kept, "bf16") as names:
        assert names == everything
