"""The masked language model that is made of the pre-trained encoder and clean texts."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForMaskedLM

from bdbench.data import TextSet
from bdbench.defenses.msdt import Msdt
from bdbench.engine import adapted_model as module
from bdbench.engine.adapted_model import adapted_model, masked_loss, to_guess, why_not_adapted
from bdbench.engine.classifiers import pretrained_weights
from bdbench.engine.encoding import encode
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.trace import Trace
from bdbench.engine.training import Recipe
from bdbench.errors import UsageError
from bdbench.protocol.contexts import NotDeclared
from bdbench.testing.contract import defense_context
from bdbench.testing.tiny_models import FAMILIES, sentences, word_piece_tokenizer

CPU = torch.device("cpu")
TEXTS = tuple(sentences(120, 1)["sentence"])
RECIPE = Recipe(epochs=3, learning_rate=3e-3, batch_size=16)


def adapted(folder, texts=TEXTS, recipe=RECIPE, trace=None):
    return adapted_model(folder, texts, recipe, 32, CPU, "fp32", trace or Trace())


def test_the_pieces_of_lowest_draw_are_to_be_guessed_and_one_of_each_text():
    draws = torch.tensor([[0.10, 0.50, 0.15, 0.90], [0.01, 0.80, 0.70, 0.02], [0.10, 0.10, 0.10, 0.10]])
    maskable = torch.tensor([[True] * 4, [False, True, True, False], [False] * 4])
    chosen = to_guess(maskable, 0.15, draws)
    assert chosen.tolist() == [[True, False, True, False], [False, False, True, False], [False] * 4]


def test_the_loss_is_that_of_the_whole_model_where_pieces_are_masked(tiny_masked):
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(tiny_masked).eval(), load_tokenizer(tiny_masked)
    rows = encode(tokenizer, TextSet(TEXTS[:6], None, np.zeros(6, dtype=np.int64)), 32)
    inputs, labels = rows.batch(torch.arange(6), CPU)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        loss = masked_loss(tokenizer)(model, inputs, labels)
        torch.manual_seed(4)
        draws = torch.rand(inputs["input_ids"].shape)
    ids = inputs["input_ids"].clone()
    specials = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id])
    chosen = to_guess(~torch.isin(ids, specials), 0.15, draws)
    logits = model(**inputs | {"input_ids": ids.masked_fill(chosen, tokenizer.mask_token_id)}).logits
    assert 6 <= chosen.sum() < 20
    assert loss.item() == pytest.approx(F.cross_entropy(logits[chosen], ids[chosen]).item(), rel=1e-5)
    assert torch.equal(inputs["input_ids"], ids) and not model.base_model._forward_hooks


@pytest.mark.parametrize("family", [*FAMILIES, "mpnet"])
def test_every_family_gets_a_head_tied_to_its_embeddings_and_learns(family, tiny_model):
    folder = tiny_model(family)
    assert why_not_adapted(AutoConfig.from_pretrained(folder)) is None
    untrained, trained = adapted(folder, recipe=replace(RECIPE, learning_rate=0.0)), adapted(folder)
    inner = untrained._model
    assert inner.get_output_embeddings().weight is inner.get_input_embeddings().weight
    kept, weights = dict(inner.named_parameters()), pretrained_weights(folder, 2)
    of_encoder = kept.keys() & weights.keys()
    assert len(of_encoder) >= len(weights) - 2  # a masked language model has no pooler
    assert all(torch.equal(kept[name], weights[name]) for name in of_encoder)
    held_out = sentences(20, 2)["sentence"]
    before, after = untrained.fit(held_out), trained.fit(held_out)
    assert before.pieces == after.pieces and after.loss < 0.95 * before.loss and after.accuracy > before.accuracy


def test_it_is_trained_once_for_the_same_texts_and_settings(tiny_bert):
    module._adapted.cache_clear()
    random_state, first, second = torch.get_rng_state(), Trace(), Trace()
    model = adapted(tiny_bert, trace=first)
    assert adapted(tiny_bert, trace=second) is model
    assert first.saved_seconds == 0 < second.saved_seconds and first.kernels == second.kernels != set()
    module._adapted.cache_clear()
    with torch.random.fork_rng():
        torch.manual_seed(99)  # as in another process
        assert adapted(tiny_bert).digest == model.digest
    others = (adapted(tiny_bert, texts=TEXTS[1:]), adapted(tiny_bert, recipe=replace(RECIPE, epochs=2)))
    assert len({model.identity, *(other.identity for other in others)}) == 3
    assert torch.equal(torch.get_rng_state(), random_state)


def test_texts_without_a_piece_teach_nothing(tiny_bert):
    assert adapted(tiny_bert, texts=("", *TEXTS, " ")).digest == adapted(tiny_bert).digest


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_a_model_that_reads_otherwise_is_refused(family, tiny_model):
    assert family in why_not_adapted(AutoConfig.from_pretrained(tiny_model(family)))


def test_a_tokenizer_without_a_mask_is_refused(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "model")
    tokenizer = word_piece_tokenizer()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="no piece to mask"):
        adapted(tmp_path / "model")


def test_msdt_takes_it_from_the_pretrained_model_and_the_unlabelled_texts(tiny_bert, tiny_masked):
    part = Msdt(epochs=2, learning_rate=3e-3)
    ctx = defense_context(tiny_bert, part)
    purified = part.purify(ctx.validation, ctx)
    model = adapted(tiny_bert, ctx.unlabelled.first, Recipe(epochs=2, learning_rate=3e-3))
    assert purified.digest() != ctx.validation.digest()
    assert ctx.notes["language_model"] == model.digest
    fit = model.fit(ctx.validation.first)
    assert ctx.notes["fit"] == {"pieces": fit.pieces, "loss": fit.loss, "accuracy": fit.accuracy}
    other = Msdt(lm=str(tiny_masked))
    assert other.asks_for() == {"validation"}
    with pytest.raises(NotDeclared):
        _ = defense_context(tiny_bert, other).pretrained_folder
