"""The training and the prediction loop: what is exact, what is deterministic, what is visited."""

import copy

import numpy as np
import pytest
import torch
from conftest import FAMILIES, sentences

from bdbench.data import TextSet
from bdbench.loops import Recipe, _batches, _descend, encode, occurring_pieces, predict, train
from bdbench.models import load_classifier, load_tokenizer

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
