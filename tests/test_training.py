"""The training loop: what is exact, what is deterministic, what fits, and what it notes."""

import math

import pytest
import torch

from bdbench.data import TextSet
from bdbench.engine import batches
from bdbench.engine import trace as tracing
from bdbench.engine.classifiers import load_classifier
from bdbench.engine.encoding import encode
from bdbench.engine.kernels import use_widened_linear
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.trace import Trace
from bdbench.engine.training import Passes, Recipe, _backward, train
from bdbench.errors import UsageError
from bdbench.testing.tiny_models import sentences

RECIPE = Recipe(epochs=2, learning_rate=1e-3, batch_size=8)


def rows_of(folder, n=50):
    frame = sentences(n, seed=11)
    return encode(load_tokenizer(folder), TextSet(tuple(frame["sentence"]), None, frame["label"].to_numpy()), 32)


def classifier(folder):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return load_classifier(folder, 2)[0]


def _loss(model, inputs, labels):
    return torch.nn.functional.cross_entropy(model(**inputs).logits, labels)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(precision, tiny_bert):
    rows = rows_of(tiny_bert)
    models = [classifier(tiny_bert) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.rand(5)  # the process's own random state must not matter
        train(model, rows, RECIPE, seed=seed, precision=precision)
    first, second, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_diverging_loss_raises(tiny_bert):
    rows, model = rows_of(tiny_bert), classifier(tiny_bert)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(model, rows, RECIPE, seed=1, precision="fp32", loss=lambda *arguments: _loss(*arguments) * float("nan"))


def test_without_an_optimizer_a_recipe_is_needed(tiny_bert):
    rows, model = rows_of(tiny_bert), classifier(tiny_bert)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(TypeError, match="without an optimizer needs a Recipe .* not Passes"):
        train(model, rows, Passes(), seed=1, precision="fp32")
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_an_optimizer_of_the_callers_own_keeps_its_rate_and_its_gradients(tiny_bert):
    rows = rows_of(tiny_bert)
    passes = Passes(epochs=1, batch_size=8)
    clipped_and_scheduled = Recipe(epochs=1, batch_size=8, learning_rate=0.5, warmup=0.5, clip=1e-9)
    models = []
    for recipe in (passes, clipped_and_scheduled):
        model = classifier(tiny_bert)
        sgd = torch.optim.SGD(model.parameters(), lr=0.125)
        train(model, rows, recipe, seed=1, precision="fp32", optimizer=sgd)
        assert sgd.param_groups[0]["lr"] == 0.125
        models.append(model)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_passes_are_the_part_of_a_recipe_that_counts_steps():
    assert Passes().values() == {"epochs": 3, "batch_size": 32}
    assert Recipe().values() == {**Passes().values(), "learning_rate": 2e-5, "warmup": 0.1, "clip": 1.0}
    assert [Passes(epochs=2, batch_size=8).steps(rows) for rows in (1, 8, 9)] == [2, 2, 4]
    for cls in (Passes, Recipe):
        with pytest.raises(UsageError, match="training.epochs=0 is outside"):
            cls(epochs=0)


def without_dropout(folder):
    model = classifier(folder)
    model.config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def small_device(model, room: int):
    """The model on a device that has room for this many rows, and the sizes of the batches that it computed."""
    sizes = []

    def refuse(module, arguments, named):
        if len(named["input_ids"]) > room:
            raise torch.OutOfMemoryError
        sizes.append(len(named["input_ids"]))

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    return model, sizes


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts, tiny_bert):
    rows, batch_rows = rows_of(tiny_bert), torch.arange(11)  # of unequal parts
    gradients = []
    for cut_batch in ([batch_rows], list(batch_rows.chunk(parts))):
        model = without_dropout(tiny_bert)
        mean = _backward(model, rows, _loss, torch.device("cpu"), "fp32", cut_batch)
        gradients.append([mean, *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    for whole, added in zip(*gradients, strict=True):
        assert torch.allclose(whole, added, atol=1e-6)


def test_a_batch_that_does_not_fit_is_halved_and_the_effective_batch_stays(tiny_bert, monkeypatch):
    monkeypatch.setitem(batches.PADDING_WORTH_A_PASS, "cpu", math.inf)
    rows, large = rows_of(tiny_bert), without_dropout(tiny_bert)
    train(large, rows, RECIPE, seed=4, precision="fp32")
    small, sizes = small_device(without_dropout(tiny_bert), 5)
    train(small, rows, RECIPE, seed=4, precision="fp32")
    for one, other in zip(large.parameters(), small.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert max(sizes) == 4 and sum(sizes) == RECIPE.epochs * len(rows)  # 8 rows do not fit, 4 do


def test_a_row_that_does_not_fit_by_itself_is_an_error(tiny_bert):
    with pytest.raises(torch.OutOfMemoryError):
        train(small_device(classifier(tiny_bert), 0)[0], rows_of(tiny_bert), RECIPE, seed=4, precision="fp32")


@pytest.mark.parametrize(("room", "halvings"), [(8, 0), (5, 1), (1, 3)])
def test_the_trace_counts_every_halving_once(room, halvings, tiny_bert):
    """Batches have 8 rows. What did not fit once is not tried again."""
    trace = Trace(halved_batches=10)
    model, _ = small_device(classifier(tiny_bert), room)
    train(model, rows_of(tiny_bert), RECIPE, seed=4, precision="fp32", trace=trace)
    assert trace.halved_batches == 10 + halvings


def test_time_is_counted_once_where_one_loop_runs_inside_the_other(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 4.0, 8.0, 10.0])
    monkeypatch.setattr(tracing.time, "perf_counter", lambda: next(ticks))
    trace = Trace()
    with trace.timed("training"):
        for _ in range(2):  # from 1 to 3, and from 4 to 8
            with trace.timed("prediction"):
                pass
    assert trace.seconds == {"training": 4.0, "prediction": 6.0}


@pytest.mark.parametrize("widened", [False, True])
def test_the_trace_names_the_kernels_that_ran(widened, tiny_bert):
    rows, model = rows_of(tiny_bert, 16), classifier(tiny_bert)
    use_widened_linear(widened)
    try:
        for precision in ("fp32", "bf16"):
            trace = Trace()
            train(model, rows, RECIPE, seed=1, precision=precision, trace=trace)
            expected = {"attention", "dropout"} | ({"widened-linear"} if widened and precision == "bf16" else set())
            assert trace.kernels == expected
    finally:
        use_widened_linear(None)
    assert not trace.seconds  # the caller's to count


def test_dropout_that_drops_nothing_is_not_in_the_trace(tiny_bert):
    trace = Trace()
    train(without_dropout(tiny_bert), rows_of(tiny_bert, 16), RECIPE, seed=1, precision="fp32", trace=trace)
    assert trace.kernels == {"attention"}
