"""MSDT and the masked language models that it stands on."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from bdbench.data import TextSet
from bdbench.defenses.msdt import Msdt, deviations
from bdbench.engine import masked_model as module
from bdbench.engine.masked_model import MaskedModel, masked_model, why_no_masked_model
from bdbench.params import hp
from bdbench.testing.contract import checks_of_defense, defense_context, text_rows
from bdbench.testing.tiny_models import FAMILIES

CPU = torch.device("cpu")


def load(folder, precision="fp32") -> MaskedModel:
    return masked_model("msdt.lm", str(folder), CPU, precision)


def test_a_words_suspicion_is_how_far_the_text_without_it_lies_from_the_mean():
    """The text itself, 100, does not count; the others have the mean 6."""
    assert deviations(np.array([100.0, 1, 7, 10])).tolist() == [5, 1, 4]
    assert deviations(np.array([100.0, 1, 7])).tolist() == [0, 0]  # of two words each is as far as the other


def test_the_surprise_of_a_text_is_that_of_every_piece_masked_alone(tiny_masked, monkeypatch):
    """Against the library, one text and one mask at a time; "nowhere" is unknown, and "?" stands for itself."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    plain, tokenizer = AutoModelForMaskedLM.from_pretrained(tiny_masked).eval(), AutoTokenizer.from_pretrained(tiny_masked)
    texts = ["the film was good", "cf", "a  very long plot ? nowhere and a song of all the cast", "films"]
    expected = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        total = 0.0
        for place in range(1, ids.shape[1] - 1):  # not [CLS], not [SEP]
            masked = ids.clone()
            masked[0, place] = tokenizer.mask_token_id
            with torch.no_grad():
                total -= plain(input_ids=masked).logits[0, place].log_softmax(0)[ids[0, place]].item()
        expected.append(total)
    assert load(tiny_masked).surprises(texts) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 40)  # in batches that texts share
    assert load(tiny_masked).surprises(texts) == pytest.approx(expected, rel=1e-5)


def test_the_fit_counts_the_pieces_that_are_guessed(tiny_masked):
    """One text says what the model itself would put there."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    plain, tokenizer = AutoModelForMaskedLM.from_pretrained(tiny_masked).eval(), AutoTokenizer.from_pretrained(tiny_masked)

    def first_guess(text):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return tokenizer.decode(plain(input_ids=ids).logits[0, ids[0] == tokenizer.mask_token_id].argmax())

    texts = [f"the film was {first_guess('the film was [MASK]')}", "cf"]
    hits = 0
    for text in texts:
        words = text.split()
        hits += sum(first_guess(" ".join([*words[:i], "[MASK]", *words[i + 1 :]])) == words[i] for i in range(len(words)))
    fit = load(tiny_masked).fit(texts)
    assert fit.pieces == 5 and fit.accuracy == hits / 5 > 0
    assert fit.loss == pytest.approx(load(tiny_masked).surprises(texts).sum() / 5)


def test_a_text_longer_than_the_model_reads_is_cut(tiny_masked):
    most = load(tiny_masked).surprises(["film " * 62, "film " * 500])  # 66 positions, two of them unused, and [CLS], [SEP]
    assert most[0] == pytest.approx(most[1], rel=1e-5)


def test_the_weights_and_the_precision_are_part_of_the_identity(tiny_masked):
    assert load(tiny_masked).identity == load(tiny_masked).identity != load(tiny_masked, "bf16").identity
    assert load(tiny_masked).digest in load(tiny_masked).identity and len(load(tiny_masked).digest) == 64


@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
def test_it_removes_the_words_of_largest_suspicion(pair, tiny_bert, tiny_masked):
    part, rows = Msdt(lm=str(tiny_masked), removed=0.1), text_rows(10, pair)
    ctx = defense_context(tiny_bert, part, pair=pair)
    purified, model = part.purify(rows, ctx), load(tiny_masked)

    def kept(text):
        words = text.split()
        of_words = deviations(model.surprises([text, *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]))
        return " ".join(word for word, of_word in zip(words, of_words, strict=True) if of_word <= ctx.notes["bar"])

    assert purified.texts == [tuple(map(kept, texts)) for texts in rows.texts] != rows.texts
    assert ctx.notes["language_model"] == model.digest


def test_of_clean_texts_no_more_words_go_than_stated(tiny_bert, tiny_masked):
    part = Msdt(lm=str(tiny_masked), removed=0.2)
    ctx = defense_context(tiny_bert, part)
    purified = part.purify(ctx.validation, ctx)
    before, after = (sum(len(text.split()) for text in rows.carrier) for rows in (ctx.validation, purified))
    assert 0.1 * before < before - after <= 0.2 * before


def test_short_texts_stay_as_they_are(tiny_bert, tiny_masked):
    part = Msdt(lm=str(tiny_masked), removed=1.0)
    rows = TextSet(("cf", "cf  film", "", "the film was cf"), None, np.zeros(4))
    purified = part.purify(rows, defense_context(tiny_bert, part)).first
    assert purified[:3] == rows.first[:3] and len(purified[3].split()) < 4


def test_a_model_that_cannot_be_had_is_named_with_what_to_do(tiny_masked, tiny_bert, tiny_model):
    assert Msdt(lm=str(tiny_masked)).unavailable() is None
    reasons = {
        "bert-base-uncased": "msdt.lm=bert-base-uncased: not on this machine",
        "/": "msdt.lm=/: no config.json",
        str(tiny_bert): "its weights lack",  # an encoder that was saved without the head
        str(tiny_model("gpt2")): "no masked language model can be loaded from there",
    }
    for name, said in reasons.items():
        reason = why_no_masked_model("msdt.lm", name)
        assert said in reason and "\n" not in reason, reason


def test_it_keeps_the_contract_of_purifiers(tiny_masked, tiny_models):
    """With the tiny model in place of the hub's, for which the suite skips it."""

    @dataclass(frozen=True)
    class WithTinyModel(Msdt):
        lm: str = hp(str(tiny_masked), help="the tiny one")

    checks = [check for check in checks_of_defense(WithTinyModel) if "rewrites each row" in str(check)]
    assert len(checks) == 2 * len(FAMILIES)
    for check in checks:
        check.run(tiny_models)
