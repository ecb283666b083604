"""The training and the prediction loop: what is exact, what is deterministic, what is visited."""

import copy

import numpy as np
import pytest
import torch
from conftest import FAMILIES, sentences

from bdbench.data import TextSet
from bdbench.engine import loops
from bdbench.engine.loops import (
    Recipe,
    _backward,
    _batches,
    _descend,
    encode,
    even_cuts,
    level_cuts,
    occurring_pieces,
    predict,
    train,
)
from bdbench.engine.models import load_classifier, load_tokenizer

RECIPE = Recipe(epochs=2, learning_rate=1e-3, batch_size=8)


def rows_of(folder, n=50):
    frame = sentences(n, seed=11)
    return encode(load_tokenizer(folder), TextSet(tuple(frame["sentence"]), None, frame["label"].to_numpy()), 32)


def classifier(folder):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return load_classifier(folder, 2)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_on_the_occurring_pieces_is_training_on_the_full_matrix(family, tiny_models):
    """Dropout off, since it draws the same numbers either way only if nothing else changes."""
    folder = tiny_models[family]
    rows, model = rows_of(folder), classifier(folder)
    full = copy.deepcopy(model)
    adamw = torch.optim.AdamW(full.parameters(), lr=RECIPE.learning_rate, weight_decay=0.0)
    _descend(full, rows, RECIPE, 5, "fp32", adamw, _loss, scheduled=True)
    train(model, rows, RECIPE, seed=5, precision="fp32", loss=_loss)
    before = classifier(folder)
    for (name, small), whole, start in zip(model.named_parameters(), full.parameters(), before.parameters(), strict=True):
        assert torch.allclose(small, whole, atol=1e-6), name
        assert name.endswith("key.bias") or not torch.equal(small, start), name
    embedding = model.get_input_embeddings().weight
    absent = sorted(set(range(len(embedding))) - set(rows.ids.flatten().tolist()))
    assert absent and torch.equal(embedding[absent], before.get_input_embeddings().weight[absent])


def _loss(model, inputs, labels):
    return torch.nn.functional.cross_entropy(model(**inputs).logits, labels)


@pytest.mark.parametrize("texts", [None, ("the film was good", "the plot was bad")], ids=["padded", "of one length"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_restricted_matrix_gives_the_same_logits(family, texts, tiny_models):
    rows, model = rows_of(tiny_models[family]), classifier(tiny_models[family])
    if texts:  # then the padding piece does not occur
        rows = encode(load_tokenizer(tiny_models[family]), TextSet(texts, None, np.array([1, 0])), 32)
        assert len(set(rows.lengths.tolist())) == 1
    whole = predict(model, rows, precision="fp32")
    with occurring_pieces(model, rows) as restricted:
        assert len(model.get_input_embeddings().weight) < len(load_tokenizer(tiny_models[family]))
        assert torch.equal(predict(model, restricted, precision="fp32"), whole)
    assert torch.equal(predict(model, rows, precision="fp32"), whole)


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


def test_every_epoch_visits_every_row_once_in_batches_of_similar_length():
    lengths = torch.tensor(np.random.default_rng(0).integers(1, 60, 1000))
    batches = list(_batches(lengths, Recipe(epochs=2, batch_size=16), torch.Generator().manual_seed(0)))
    half = len(batches) // 2
    for epoch in (batches[:half], batches[half:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(1000))
        padded = sum(len(batch) * int(lengths[batch].max()) for batch in epoch)
        assert padded < 1.1 * int(lengths.sum())
    assert [batch.tolist() for batch in batches[:half]] != [batch.tolist() for batch in batches[half:]]
    firsts = torch.tensor([int(lengths[batch].max()) for batch in batches[:half]])
    assert not torch.equal(firsts, firsts.sort().values)  # short texts do not come first


def test_predictions_come_in_the_order_of_the_rows(tiny_bert):
    rows, model = rows_of(tiny_bert), classifier(tiny_bert)
    together = predict(model, rows, precision="fp32")
    for i in range(len(rows)):
        inputs, _ = rows.batch(torch.tensor([i]), torch.device("cpu"))
        with torch.inference_mode():
            assert torch.allclose(model(**inputs).logits[0], together[i], atol=1e-5)


def test_a_diverging_loss_raises(tiny_bert):
    rows, model = rows_of(tiny_bert), classifier(tiny_bert)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(model, rows, RECIPE, seed=1, precision="fp32", loss=lambda *given: _loss(*given) * float("nan"))


def without_dropout(folder):
    model = classifier(folder)
    model.config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def small_device(rows: int):
    """A loss on a device that has room for this many rows, and the sizes of the batches that it was given."""
    sizes = []

    def loss(model, inputs, labels):
        if len(labels) > rows:
            raise torch.OutOfMemoryError
        sizes.append(len(labels))
        return _loss(model, inputs, labels)

    return loss, sizes


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts, tiny_bert):
    rows, chosen = rows_of(tiny_bert), torch.arange(11)  # of unequal parts
    gradients = []
    for batches in ([chosen], list(chosen.chunk(parts))):
        model = without_dropout(tiny_bert)
        mean = _backward(model, rows, batches, _loss, torch.device("cpu"), "fp32")
        gradients.append([mean, *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    for whole, added in zip(*gradients, strict=True):
        assert torch.allclose(whole, added, atol=1e-6)


def test_a_batch_that_does_not_fit_is_halved_and_the_effective_batch_stays(tiny_bert):
    rows, large, small = rows_of(tiny_bert), without_dropout(tiny_bert), without_dropout(tiny_bert)
    train(large, rows, RECIPE, seed=4, precision="fp32", loss=_loss)
    loss, sizes = small_device(5)
    train(small, rows, RECIPE, seed=4, precision="fp32", loss=loss)
    for one, other in zip(large.parameters(), small.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert max(sizes) == 4 and sum(sizes) == RECIPE.epochs * len(rows)  # 8 rows do not fit, 4 do


def test_a_row_that_does_not_fit_by_itself_is_an_error(tiny_bert):
    with pytest.raises(torch.OutOfMemoryError):
        train(classifier(tiny_bert), rows_of(tiny_bert), RECIPE, seed=4, precision="fp32", loss=small_device(0)[0])


def test_predictions_that_do_not_fit_are_halved(tiny_bert):
    rows, model = rows_of(tiny_bert), classifier(tiny_bert)
    expected = predict(model, rows, precision="fp32")

    def refuse(module, arguments, named):
        if len(named["input_ids"]) > 5:
            raise torch.OutOfMemoryError

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    assert torch.allclose(predict(model, rows, precision="fp32"), expected, atol=1e-6)


def test_the_number_of_threads_changes_no_prediction(tiny_bert, monkeypatch):
    monkeypatch.setitem(loops.PIECES_AT_ONCE, "cpu", 64)
    rows, model, before = rows_of(tiny_bert), classifier(tiny_bert), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = predict(model, rows, precision="bf16")
        torch.set_num_threads(3)
        assert torch.equal(predict(model, rows, precision="bf16"), alone)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_rows_are_cut_where_padding_costs_more_than_a_pass():
    lengths = torch.tensor([9, 2, 2, 3, 10])
    chosen = torch.tensor([1, 2, 3, 0, 4])  # in order of length: 2, 2, 3, 9, 10
    # cutting behind the third row saves 3 * (10 - 3) = 21 pieces, more than anywhere else; then 2 * (3 - 2) and 1 * (10 - 9)
    assert [part.tolist() for part in level_cuts(chosen, lengths, 20)] == [[1, 2, 3], [0, 4]]
    assert [part.tolist() for part in level_cuts(chosen, lengths, 1)] == [[1, 2], [3], [0, 4]]
    assert [part.tolist() for part in level_cuts(chosen, lengths, 21)] == [chosen.tolist()]
    assert [part.tolist() for part in level_cuts(chosen[:1], lengths, 0)] == [[1]]


def test_batches_of_predictions_hold_a_number_of_pieces():
    # 3 rows padded to 4 pieces are 12; a fourth, padded to 5, would make 20; a row over the limit goes by itself
    assert even_cuts([3, 4, 4, 5, 5, 30], 12) == [slice(0, 3), slice(3, 5), slice(5, 6)]
