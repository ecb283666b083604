"""Training on the word pieces that occur: exact for every family and invisible to the model, or not done."""

import copy

import numpy as np
import pytest
import torch
from test_training import RECIPE, classifier, rows_of
from torch import nn

from bdbench.data import TextSet
from bdbench.engine.embeddings import occurring_pieces
from bdbench.engine.encoding import encode
from bdbench.engine.prediction import predict
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.trace import Trace
from bdbench.engine.training import Recipe, _descend, cross_entropy, train
from bdbench.testing.tiny_models import CONFIGURATIONS

SHORT = Recipe(epochs=1, learning_rate=1e-3, batch_size=8)


def train_on_the_full_matrix(model, rows, recipe):
    """What `train` does with cross entropy, with every piece of the vocabulary in the optimizer."""
    adamw = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    _descend(model, rows, recipe, 5, "fp32", adamw, cross_entropy, Trace(), scheduled_by=recipe)


def texts_of_one_length(folder):
    """No padding piece occurs."""
    texts = ("the film was good", "the plot was bad", "the song was fine", "the cast was dull")
    rows = encode(load_tokenizer(folder), TextSet(texts, None, np.array([1, 0, 1, 0])), 32)
    assert len(set(rows.lengths.tolist())) == 1
    return rows


def absent_piece(model, rows):
    return min(set(range(len(model.get_input_embeddings().weight))) - set(rows.ids.flatten().tolist()))


def assert_close(model, reference):
    for (name, weight), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(weight, other, atol=1e-6), name


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_training_gives_the_weights_of_training_with_the_full_matrix(family, tiny_model):
    """Dropout is on: the same numbers are drawn."""
    folder = tiny_model(family)
    model, start = classifier(folder), classifier(folder)
    full = copy.deepcopy(model)
    for rows in (rows_of(folder, 16), texts_of_one_length(folder)):
        train(model, rows, SHORT, seed=5, precision="fp32")
        train_on_the_full_matrix(full, rows, SHORT)
    assert_close(model, full)
    assert torch.allclose(predict(model, rows, precision="fp32"), predict(full, rows, precision="fp32"), atol=1e-6)
    matrix, before = model.get_input_embeddings().weight, start.get_input_embeddings().weight
    absent = absent_piece(model, rows_of(folder, 16))
    assert not torch.equal(matrix, before) and torch.equal(matrix[absent], before[absent])


@pytest.mark.parametrize("family", ["bert", "gptj", "xlnet"])
def test_pairs_are_exact_where_token_types_are_looked_up_in_the_same_matrix(family, tiny_model):
    """As GPT-J does. The number of the second type is that of a piece that does not occur."""
    model = classifier(tiny_model(family))
    pairs = TextSet(("what is the film ?", "the plot"), ("the film was good", "the song"), np.array([1, 0]))
    rows, full = encode(load_tokenizer(tiny_model(family)), pairs, 32), copy.deepcopy(model)
    assert rows.types.max() == 1 and (rows.ids != 1).all()
    train(model, rows, RECIPE, seed=5, precision="fp32")
    train_on_the_full_matrix(full, rows, RECIPE)
    assert_close(model, full)


@pytest.mark.parametrize(
    ("family", "is_restricted"),
    [*((family, True) for family in ("bert", "roberta", "gpt2", "xlnet", "longformer", "llama", "electra"))]
    + [*((family, False) for family in ("bart", "t5", "gemma"))],  # tied, tied, scaled
)
def test_a_restricted_matrix_is_asked_by_true_ids_and_gives_the_same_logits(family, is_restricted, tiny_model):
    model = classifier(tiny_model(family))
    embedding = model.get_input_embeddings()
    kind, full, ids_seen = type(embedding), embedding.weight, []
    for rows in (rows_of(tiny_model(family)), texts_of_one_length(tiny_model(family))):
        whole = predict(model, rows, precision="fp32")
        with occurring_pieces(model, rows):
            assert (len(model.get_input_embeddings().weight) < len(full)) == is_restricted
            handle = embedding.register_forward_hook(lambda module, arguments, result: ids_seen.append(arguments[0]))
            assert torch.equal(predict(model, rows, precision="fp32"), whole)
            handle.remove()
        assert type(embedding) is kind and embedding.weight is full
        assert torch.equal(predict(model, rows, precision="fp32"), whole)
        if is_restricted:  # the others' encoders have modules of their own around the matrix
            assert max(int(ids.max()) for ids in ids_seen) == int(rows.ids.max())
        ids_seen.clear()


class Sign(nn.Embedding):
    def forward(self, input):
        return super().forward(input).sign()


class Around(nn.Module):
    """A caller's own module around a classifier: one piece becomes another before the model sees it."""

    def __init__(self, model, piece, absent):
        super().__init__()
        self.model, self.piece, self.absent = model, piece, absent

    def forward(self, input_ids, **others):
        return self.model(input_ids=input_ids.masked_fill(input_ids == self.piece, self.absent), **others)


class AroundWithEmbeddings(Around):
    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    @property
    def config(self):
        return self.model.config


def exchange(model, piece, absent):
    def hook(module, arguments, named):
        named["input_ids"] = named["input_ids"].masked_fill(named["input_ids"] == piece, absent)
        return arguments, named

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return model


def exchange_deep_inside(model, piece, absent):
    model.bert.embeddings.word_embeddings.register_forward_pre_hook(
        lambda module, arguments: (arguments[0].masked_fill(arguments[0] == piece, absent),)
    )
    return model


def exchange_by_a_forward_of_its_own(model, piece, absent):
    forward = model.bert.forward
    model.bert.forward = lambda input_ids, **others: forward(
        input_ids=input_ids.masked_fill(input_ids == piece, absent), **others
    )
    return model


@pytest.mark.parametrize(
    "wrapped", [Around, AroundWithEmbeddings, exchange, exchange_deep_inside, exchange_by_a_forward_of_its_own]
)
def test_a_piece_that_comes_in_on_the_way_to_the_matrix_is_trained(wrapped, tiny_bert):
    rows, inner = rows_of(tiny_bert), classifier(tiny_bert)
    absent, cls = absent_piece(inner, rows), int(rows.ids[0, 0])
    reference = classifier(tiny_bert)
    train_on_the_full_matrix(wrapped(reference, cls, absent), rows, RECIPE)
    before = inner.get_input_embeddings().weight.detach().clone()
    train(wrapped(inner, cls, absent), rows, RECIPE, seed=5, precision="fp32")
    after = inner.get_input_embeddings().weight
    assert_close(inner, reference)
    assert not torch.equal(after[absent], before[absent]) and torch.equal(after[cls], before[cls])


def freeze(model, embedding):
    embedding.weight.requires_grad_(False)


def share_the_parameter(model, embedding):
    """The matrix is also that of an output whose first two numbers are added to the logits."""
    model.output = nn.Linear(*reversed(embedding.weight.shape), bias=False)
    model.output.weight = embedding.weight
    model.classifier.register_forward_hook(lambda module, arguments, result: result + model.output(arguments[0])[:, :2])


def share_the_memory(model, embedding):
    share_the_parameter(model, embedding)
    model.output.weight = nn.Parameter(embedding.weight.detach())


def keep_norms_low(model, embedding):
    embedding.max_norm = 0.05


def scale_by_frequency(model, embedding):
    embedding.scale_grad_by_freq = True


def be_of_another_kind(model, embedding):
    embedding.__class__ = Sign


def mask_the_gradient(model, embedding):
    """Only the first twelve pieces learn."""
    learns = (torch.arange(len(embedding.weight)) < 12)[:, None]
    embedding.weight.register_hook(lambda gradient: gradient * learns)


def look_at_the_rows(model, embedding):
    """Every text is moved by the row of the third piece."""
    embedding.register_forward_hook(lambda module, arguments, result: result + module.weight[2])


@pytest.mark.parametrize(
    "changed",
    [freeze, share_the_parameter, share_the_memory, keep_norms_low, scale_by_frequency, be_of_another_kind]
    + [mask_the_gradient, look_at_the_rows],
)
def test_a_matrix_that_is_more_than_rows_to_hand_out_is_left_alone(changed, tiny_bert):
    rows, models = rows_of(tiny_bert), [classifier(tiny_bert) for _ in range(2)]
    for model in models:
        changed(model, model.get_input_embeddings())
    train(models[0], rows, RECIPE, seed=5, precision="fp32")
    train_on_the_full_matrix(models[1], rows, RECIPE)
    assert_close(*models)
    assert models[0].get_input_embeddings().weight.requires_grad == (changed is not freeze)


def test_a_model_that_is_partly_frozen_learns_in_the_rest_alone(tiny_bert):
    rows, model, start = rows_of(tiny_bert), classifier(tiny_bert), classifier(tiny_bert)
    for parameter in model.bert.parameters():
        parameter.requires_grad_(False)
    train(model, rows, RECIPE, seed=5, precision="fp32")
    for (name, weight), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(weight, before) == name.startswith("bert."), name


def test_the_gradient_of_the_word_embeddings_is_clipped_with_the_rest(tiny_bert):
    """A gradient far below AdamW's epsilon moves nothing."""
    rows, model, start = rows_of(tiny_bert), classifier(tiny_bert), classifier(tiny_bert)
    train(model, rows, Recipe(epochs=1, learning_rate=1e-3, batch_size=8, clip=1e-14), seed=5, precision="fp32")
    for weight, before in zip(model.parameters(), start.parameters(), strict=True):
        assert torch.allclose(weight, before, atol=1e-7)


def test_an_error_in_the_loop_leaves_a_whole_model_with_what_it_learned(tiny_bert):
    rows, model = rows_of(tiny_bert), classifier(tiny_bert)
    embedding, kinds = model.get_input_embeddings(), [type(module) for module in model.modules()]
    before, attributes, calls = embedding.weight.detach().clone(), set(vars(embedding)), []

    def fail_at_last(module, arguments, result):
        calls.append(module)
        if len(calls) == 6:
            raise ArithmeticError("at last")

    handle = model.classifier.register_forward_hook(fail_at_last)
    with pytest.raises(ArithmeticError, match="at last"):
        train(model, rows, RECIPE, seed=5, precision="bf16")
    handle.remove()
    assert not any(module.training for module in model.modules())
    assert [type(module) for module in model.modules()] == kinds and model.config._attn_implementation == "sdpa"
    assert model.get_input_embeddings() is embedding and set(vars(embedding)) == attributes
    learned = {int(i) for i in (embedding.weight != before).any(dim=1).nonzero()}
    assert embedding.weight.shape == before.shape and learned and learned <= set(rows.ids.flatten().tolist())
