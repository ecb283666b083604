"""A loss of the caller's own: true ids, whole batches, predictions inside, the mode that it left."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_embeddings import absent_piece
from test_training import RECIPE, classifier, rows_of, small_device, without_dropout
from torch import nn

from bdbench.data import TextSet
from bdbench.engine.batches import PADDING_WORTH_A_PASS, shuffled_batches, split_by_padding
from bdbench.engine.kernels import use_widened_linear
from bdbench.engine.prediction import predict
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import Passes, Recipe, train
from bdbench.protocol.contexts import Context
from bdbench.testing.tiny_models import sentences

TEMPERATURE = 2.0


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def narrow_layers():
    """As on a machine with fast bf16 instructions: PyTorch's own linear layers under autocast."""
    use_widened_linear(False)
    yield
    use_widened_linear(None)


def some_texts(n=50):
    frame = sentences(n, seed=11)
    return TextSet(tuple(frame["sentence"]), None, frame["label"].to_numpy())


def context(folder, precision="fp32"):
    return Context(load_tokenizer(folder), 32, 2, torch.device("cpu"), precision, torch.Generator().manual_seed(0))


def ordinary(model, inputs, labels):
    return F.cross_entropy(model(**inputs).logits.float(), labels)


def same_weights(model, other):
    return all(torch.equal(weight, others) for weight, others in zip(model.parameters(), other.parameters(), strict=True))


def distillation(student, teacher, inputs):
    """The divergence of the student's classes from the teacher's, as a mean over the rows."""
    with torch.no_grad():
        target = F.softmax(teacher(**inputs).logits / TEMPERATURE, dim=1)
    return F.kl_div(F.log_softmax(student(**inputs).logits / TEMPERATURE, dim=1), target, reduction="batchmean")


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_distillation_is_that_of_a_loop_written_out_by_hand(family, tiny_model):
    texts, ctx = some_texts(), context(tiny_model(family))
    teacher = classifier(tiny_model(family))
    ctx.train(teacher, texts, Recipe(epochs=3, learning_rate=3e-3, batch_size=8), seed=2)
    student = without_dropout(tiny_model(family))
    student.set_attn_implementation("eager")  # which no kernel of ours takes the place of
    by_hand = copy.deepcopy(student)
    ctx.train(student, texts, RECIPE, seed=5, loss=lambda model, inputs, labels: distillation(model, teacher, inputs))

    rows = ctx.encode(texts)
    adamw = torch.optim.AdamW(by_hand.parameters(), lr=RECIPE.learning_rate, weight_decay=0.0)
    steps = RECIPE.epochs * 7  # 50 rows in batches of 8
    order = shuffled_batches(rows.lengths, RECIPE.epochs, 8, torch.Generator().manual_seed(5))
    by_hand.train()
    for step, batch_rows in enumerate(order):
        adamw.param_groups[0]["lr"] = RECIPE.learning_rate * (1 if step == 0 else (steps - step) / (steps - 1))
        inputs, _ = rows.batch(batch_rows, torch.device("cpu"))
        adamw.zero_grad()
        distillation(by_hand, teacher, inputs).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), RECIPE.clip)
        adamw.step()
    by_hand.eval()
    assert step == steps - 1
    for (name, weight), other in zip(student.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(weight, other, atol=1e-6), name
    assert torch.allclose(ctx.predict(student, texts), ctx.predict(by_hand, texts), atol=1e-6)
    assert (ctx.predict(student, texts) - ctx.predict(without_dropout(tiny_model(family)), texts)).abs().max() > 0.01


def test_a_loss_may_insert_a_word_that_occurs_in_no_row(tiny_bert):
    rows, start, model = rows_of(tiny_bert), without_dropout(tiny_bert), without_dropout(tiny_bert)
    absent = absent_piece(model, rows)

    def loss(model, inputs, labels):
        assert set(inputs["input_ids"].flatten().tolist()) <= set(rows.ids.flatten().tolist())
        inputs["input_ids"][:, 1] = absent
        logits = model(**inputs).logits
        if not seen:
            assert torch.allclose(logits, start.train()(**inputs).logits, atol=1e-6)
        seen.append(len(labels))
        return F.cross_entropy(logits, labels)

    seen = []
    train(model, rows, RECIPE, seed=5, precision="fp32", loss=loss)
    learned = model.get_input_embeddings().weight[absent] - start.get_input_embeddings().weight[absent]
    assert learned.norm() > 1e-3 and (rows.ids != absent).all()


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD])
def test_a_loss_gets_every_batch_whole_where_cross_entropy_is_cut(optimizer, tiny_bert):
    rows = rows_of(tiny_bert, 200)
    recipe = Recipe(epochs=1, batch_size=100)
    order = list(shuffled_batches(rows.lengths, 1, 100, torch.Generator().manual_seed(5)))
    assert all(len(split_by_padding(batch_rows, rows.lengths, PADDING_WORTH_A_PASS["cpu"])) > 1 for batch_rows in order)

    def center(model, inputs, labels):
        """No mean over rows: how far the batch's mean is from the middle between the classes."""
        shapes.append(tuple(inputs["input_ids"].shape))
        return ordinary(model, inputs, labels) + model(**inputs).logits.softmax(1).mean(0).sub(0.5).square().sum()

    shapes, model = [], classifier(tiny_bert)
    own = optimizer and optimizer(model.parameters(), lr=0.1)
    train(model, rows, recipe, seed=5, precision="fp32", loss=center, optimizer=own)
    assert shapes == [(100, int(rows.lengths[batch_rows].max())) for batch_rows in order]


def test_a_batch_that_does_not_fit_is_an_error_and_no_other_loss(tiny_bert):
    model, sizes = small_device(classifier(tiny_bert), 5)
    with pytest.raises(torch.OutOfMemoryError, match="a batch of 8 rows .* lower batch_size"):
        train(model, rows_of(tiny_bert), RECIPE, seed=4, precision="fp32", loss=ordinary)
    assert not sizes and not any(module.training for module in model.modules())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions_inside_a_loss_change_nothing_of_the_training(precision, threads, narrow_layers, tiny_bert):
    """Of the model in training, of a teacher, and of a copy made inside. Dropout stays on, and draws the same numbers."""
    rows, teacher = rows_of(tiny_bert, 16), classifier(tiny_bert)

    def with_predictions(model, inputs, labels):
        loss = ordinary(model, inputs, labels)
        modes = [module.training for module in model.modules()]
        asked = model, teacher, copy.deepcopy(model)
        predicted = [predict(each, rows, precision=precision) for each in asked]
        assert [module.training for module in model.modules()] == modes and any(modes)
        assert torch.get_num_threads() == threads and torch.is_grad_enabled()
        assert not any(logits.is_inference() or logits.requires_grad for logits in predicted)
        assert torch.equal(predicted[0], predicted[2])
        later = ordinary(model, inputs, labels)  # also after them the model has gradients and dropout
        constant = (loss.detach() * torch.stack(predicted)).sum()
        return (loss + later) / 2 + 0 * constant * loss

    def without(model, inputs, labels):
        return (ordinary(model, inputs, labels) + ordinary(model, inputs, labels)) / 2

    models = [classifier(tiny_bert) for _ in range(2)]
    for model, loss in zip(models, (with_predictions, without), strict=True):
        train(model, rows, Recipe(epochs=1, learning_rate=1e-3, batch_size=8), seed=1, precision=precision, loss=loss)
    assert same_weights(*models) and not same_weights(models[0], classifier(tiny_bert))
    assert teacher.config._attn_implementation == models[0].config._attn_implementation == "sdpa"
    assert not any(type(module).__module__.startswith("bdbench.") for module in models[0].modules())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_trained_inside_a_loss_is_one_trained_beforehand(precision, narrow_layers, tiny_bert):
    rows, before = rows_of(tiny_bert), classifier(tiny_bert)
    train(before, rows, RECIPE, seed=3, precision=precision)

    def loss(model, inputs, labels):
        if not teachers:
            teachers.append(classifier(tiny_bert))
            train(teachers[0], rows, RECIPE, seed=3, precision=precision)
        return ordinary(model, inputs, labels)

    teachers, student, plain = [], classifier(tiny_bert), classifier(tiny_bert)
    train(student, rows, RECIPE, seed=1, precision=precision, loss=loss)
    train(plain, rows, RECIPE, seed=1, precision=precision, loss=lambda *arguments: ordinary(*arguments))
    assert same_weights(teachers[0], before) and same_weights(student, plain)


def test_a_loss_may_change_weights_and_compute_once_more(narrow_layers, tiny_bert):
    """As adversarial training does. The second time the model computes with the weights that it then has."""
    model, differences = without_dropout(tiny_bert), []

    def loss(model, inputs, labels):
        first = model(**inputs).logits.float()
        with torch.no_grad():
            model.classifier.weight.add_(1.0)
        second = model(**inputs).logits.float()
        with torch.no_grad():
            model.classifier.weight.sub_(1.0)
        differences.append(float((first - second).detach().abs().max()))
        return F.cross_entropy(first, labels)

    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, rows_of(tiny_bert), Passes(epochs=1), seed=1, precision="bf16", loss=loss, optimizer=sgd)
    assert min(differences) > 0.01


def test_a_mode_that_a_loss_sets_stays_and_the_trained_model_is_in_evaluation_mode(tiny_bert):
    rows, model = rows_of(tiny_bert), classifier(tiny_bert)
    model.train()

    def loss(model, inputs, labels):
        modes.append((model.training, model.bert.encoder.training, model.bert.pooler.training))
        model.bert.encoder.eval()
        predict(model, rows, precision="fp32")
        return ordinary(model, inputs, labels)

    modes = []
    train(model, rows, RECIPE, seed=1, precision="fp32", loss=loss)
    assert modes[0] == (True, True, True) and set(modes[1:]) == {(True, False, True)}
    assert not any(module.training for module in model.modules())
