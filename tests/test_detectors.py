"""The detectors of the literature: their maths worked by hand, and what they say of models that they do not fit."""

import dataclasses

import numpy as np
import pytest
import torch

from bdbench.data import TextSet
from bdbench.defenses._layer_states import first_states, mean_states, read_states
from bdbench.defenses.badacts import share_outside
from bdbench.defenses.dan import cloud, distances, standardized
from bdbench.defenses.rap import drop_loss, first_place, put
from bdbench.defenses.x_graad import anomaly, counted_pieces, received
from bdbench.engine.batches import PIECES_AT_ONCE
from bdbench.engine.classifiers import load_classifier, pretrained_classifier
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.errors import UsageError
from bdbench.protocol.contexts import Context
from bdbench.registry import DEFENSES
from bdbench.testing.contract import common, defense_context, guarded_rows, text_rows, victim_of

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
        ("dan", "gpt2", "classifies a text by its last piece"),
        ("rap", "bart", "a text comes to both"),
        ("rap", "gpt2", None),
        ("x-graad", "t5", "no attention of each piece to each other"),
        ("x-graad", "fnet", "no attention of each piece to each other"),
        ("x-graad", "longformer", "no attention of each piece to each other"),
        ("x-graad", "gpt2", None),
    ],
)
def test_a_model_without_what_a_detector_looks_at_is_said_to_be_unfit(name, family, why, tiny_model):
    reason = DEFENSES.get(name)().unfit(pretrained_classifier(tiny_model(family), 2))
    assert reason is None if why is None else why in reason


def test_dan_reads_the_first_piece_or_the_mean_of_all(tiny_bert, tiny_model):
    model, rows = victim_of(tiny_bert), guarded_rows(False).without_labels()
    first, mean = (DEFENSES.get("dan")(pooling=pooling) for pooling in ("first", "mean"))
    assert not np.allclose(*(part.score(model, rows, defense_context(tiny_bert, part)) for part in (first, mean)))
    assert mean.unfit(pretrained_classifier(tiny_model("gpt2"), 2)) is None


@pytest.mark.parametrize("name", ["dan", "badacts"])
def test_clean_texts_with_and_without_labels_both_do(name, tiny_bert):
    model, rows = victim_of(tiny_bert), guarded_rows(False).without_labels()
    scores = []
    for texts in ("clean", "unlabelled"):
        part = DEFENSES.get(name)(texts=texts)
        assert part.asks_for() == {texts}
        scores.append(part.score(model, rows, defense_context(tiny_bert, part)))
    assert scores[0].shape == scores[1].shape == (24,) and not np.allclose(*scores)


# DAN


@pytest.mark.parametrize("texts", [4, 6])
def test_dan_holds_out_two_texts_at_least(texts, tiny_bert):
    part = DEFENSES.get("dan")(texts="clean", held_out=0.0)
    ctx = defense_context(tiny_bert, part)
    few = dataclasses.replace(ctx, resources={**ctx.resources, "clean": ctx.clean.take(range(texts))})
    model, rows = victim_of(tiny_bert), guarded_rows(False).without_labels()
    assert np.isfinite(part.score(model, rows, few)).all()
    fewer = dataclasses.replace(ctx, resources={**ctx.resources, "clean": ctx.clean.take(range(3))})
    with pytest.raises(UsageError, match="dan has 3 clean texts to measure against; it needs 4 or more"):
        part.score(model, rows, fewer)


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


# RAP


def test_the_loss_of_a_perturbation_by_hand():
    """Falls of 0.2, 0, 0.5 and a rise of 0.1: to fall by 0.1 at least, 0.1 and 0.2 are missing; to fall by 0.3 at most, 0.2."""
    changes = torch.tensor([-0.2, 0.0, -0.5, 0.1])
    assert drop_loss(changes, least=0.1, most=0.3, scale=2.0).item() == pytest.approx(2 * 0.3 / 4 + 0.2 / 4)
    assert drop_loss(torch.tensor([-0.1, -0.3, -0.2]), least=0.1, most=0.3, scale=2.0).item() == 0


@pytest.mark.parametrize(("family", "place"), [("bert", 1), ("roberta", 1)])
@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
def test_the_perturbation_is_at_the_place_of_the_word_before_a_text_alone(family, place, pair, tiny_model):
    ctx = Context(**common(tiny_model(family), 0))
    rows = text_rows(3, pair)
    assert first_place(rows, ctx) == place
    embedding = pretrained_classifier(tiny_model(family), 2).get_input_embeddings()
    ids = ctx.encode(rows).ids
    plain, row = embedding(ids), torch.arange(embedding.embedding_dim).float()
    embedding.register_forward_hook(put(row, place))
    changed = embedding(ids)
    assert (changed[:, place] == row).all()
    others = [other for other in range(ids.shape[1]) if other != place]
    assert torch.equal(changed[:, others], plain[:, others])


def test_rap_learns_to_lower_the_probability_of_every_class(tiny_bert):
    model, rows = victim_of(tiny_bert), text_rows(16)
    drops = []
    for learning_rate in (0.0, 1.0):
        part = DEFENSES.get("rap")(epochs=20, learning_rate=learning_rate)
        ctx = defense_context(tiny_bert, part)
        part.score(model, rows.without_labels(), ctx)
        drops.append(ctx.notes["drops"])
    (first, second), (first_learned, second_learned) = drops
    assert first_learned > first + 1e-3 and second_learned > second + 1e-3, drops


def test_a_class_without_a_clean_text_keeps_the_words_own_embedding(tiny_bert):
    """Three classes, and clean texts of two."""
    model, part = load_classifier(tiny_bert, 3)[0], DEFENSES.get("rap")(epochs=1)
    ctx = dataclasses.replace(defense_context(tiny_bert, part), classes=3)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.0, 0, 9]))
    rows = text_rows(6).without_labels()
    scores = part.score(model, rows, ctx)
    with_word = TextSet(tuple(f"mb {text}" for text in rows.first), None, rows.labels)
    expected = [ctx.predict(model, texts).softmax(dim=1)[:, 2] for texts in (with_word, rows)]
    assert np.allclose(scores, expected[0] - expected[1], atol=1e-6) and len(ctx.notes["drops"]) == 2


def test_rap_refuses_a_word_without_a_piece(tiny_bert):
    part = DEFENSES.get("rap")(word="")
    with pytest.raises(UsageError, match=r"rap.word='' gives no word piece; give a word"):
        part.score(victim_of(tiny_bert), text_rows(2).without_labels(), defense_context(tiny_bert, part))


# X-GRAAD


def test_attention_received_is_the_mean_over_layers_and_heads_without_what_padding_pays():
    """Two layers of one head, two pieces and one of padding, which pays as well."""
    first = [[0.5, 0.5, 0.0], [0.1, 0.9, 0.0], [0.7, 0.3, 0.0]]
    second = [[0.3, 0.7, 0.0], [0.5, 0.5, 0.0], [0.9, 0.1, 0.0]]
    attentions = torch.tensor([[[first]], [[second]]])
    assert torch.allclose(received(attentions, torch.tensor([[1, 1, 0]])), torch.tensor([[0.7, 1.3, 0.0]]))


def test_the_score_of_a_text_is_that_of_its_highest_piece():
    """Mean attention 2, mean gradient 3. Piece 7 comes twice: its highest attention is 4 and its highest gradient 5."""
    pieces, attention, gradients = torch.tensor([7, 8, 7, 9]), torch.tensor([4.0, 1, 1, 2]), torch.tensor([1.0, 4, 5, 2])
    # 7: (4 - 2) * 5 / 3, 8: (1 - 2) * 4 / 3, 9: 0
    assert anomaly(pieces, attention, gradients).item() == pytest.approx(10 / 3)
    assert anomaly(pieces[:0], attention[:0], gradients[:0]).item() == 0
    assert anomaly(pieces[:1], attention[:1], torch.zeros(1)).item() == 0  # no gradient at all


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_special_pieces_stop_words_and_punctuation_do_not_count(family, tiny_models):
    tokenizer = load_tokenizer(tiny_models[family])
    counted = counted_pieces(tokenizer)
    assert not counted[tokenizer.all_special_ids].any()
    for text, counts in [
        ("film", True),
        ("cf", True),
        ("The" if family == "bert" else "the", False),
        ("was", False),
        ("?", False),
    ]:
        ids = tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        assert counted[ids].any() == counts, text  # "?" is a blank and a mark to the byte-level one


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", ["bert", "mpnet", "deberta-v2"])
def test_a_score_is_that_of_autograd_on_one_text(family, threads, tiny_model, monkeypatch):
    """Some 20 batches, which two threads share."""
    monkeypatch.setitem(PIECES_AT_ONCE, "cpu", 64)
    model, rows = victim_of(tiny_model(family)), text_rows(80).without_labels()
    ctx = defense_context(tiny_model(family), DEFENSES.get("x-graad")())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        scores = DEFENSES.get("x-graad")().score(model, rows, ctx)
    finally:
        torch.set_num_threads(before)
    model.set_attn_implementation("eager")
    encoded, counted = ctx.encode(rows), counted_pieces(ctx.tokenizer)
    for row in range(0, 80, 13):
        inputs, _ = encoded.batch(torch.tensor([row]), ctx.device)
        matrix = model.get_input_embeddings().weight.detach()
        ids = inputs.pop("input_ids")
        embeddings = matrix[ids].requires_grad_()
        output = model(**inputs, inputs_embeds=embeddings, output_attentions=True)
        output.logits[0, output.logits[0].argmax()].backward()
        paid = sum(attention[0].mean(dim=0).sum(dim=0) for attention in output.attentions) / len(output.attentions)
        of = counted[ids[0]]
        expected = anomaly(ids[0, of], paid[of], embeddings.grad[0, of].norm(dim=1))
        assert scores[row] == pytest.approx(expected.item(), abs=1e-5)
