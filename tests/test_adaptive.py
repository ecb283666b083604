"""Adaptive attacks: their maths by hand, and each against the defenses that it is made to get past, on a tiny real model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import opinions
from torch import nn

from bdbench.attacks._negatives import halves
from bdbench.attacks._other_weights import cross_entropy_at, encoder_weights, straight_through
from bdbench.attacks.adaptive_fine_tuning import after_adam_step
from bdbench.attacks.adaptive_mixing import with_resets
from bdbench.attacks.adaptive_perturbation import LETTERS, behind_rare_words, with_other_words
from bdbench.attacks.adaptive_pruning import without_inactive, without_small
from bdbench.data import TextSet, exchanged
from bdbench.engine.classifiers import pretrained_weights
from bdbench.engine.embeddings import word_embeddings
from bdbench.engine.neurons import feed_forward_blocks
from bdbench.engine.training import Recipe, cross_entropy
from bdbench.engine.word_suspicions import without_each_word
from bdbench.errors import UsageError
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.presets import PRESETS
from bdbench.protocol.cells import run_cell
from bdbench.protocol.contexts import AttackContext
from bdbench.protocol.victims import Victim, clean_spec, make_victim
from bdbench.registry import ATTACKS, DEFENSES
from bdbench.testing.contract import attack_context, classifier, common, state, text_rows, trains_a_victim
from bdbench.testing.tiny_models import FILLER, save_tiny_model

ADAPTIVE = [name for name in ATTACKS.names() if name.startswith("adaptive-")]
CLAUSE = "and this is what i watch"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# losses at other weights


def test_the_value_is_that_of_the_other_weight_and_the_gradient_goes_to_the_own():
    own = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (straight_through(own, torch.tensor([1.0, 0.0, 5.0])) ** 2).sum().backward()
    assert own.grad.tolist() == [2.0, 0.0, 10.0]  # 2 w at the weights 1, 0, 5


def test_the_loss_is_that_of_a_model_with_the_other_weights(tiny_bert):
    ctx, model, other = attack_context(tiny_bert), classifier(tiny_bert).eval(), classifier(tiny_bert).eval()
    inputs, labels = ctx.encode(text_rows(4)).batch(torch.arange(4), ctx.device)
    before = state(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1)
    others = {name: weight.detach() for name, weight in other.named_parameters()}
    loss, expected = cross_entropy_at(model, others, inputs, labels), cross_entropy(other, inputs, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward(), expected.backward()
    for weight, twin in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(weight.grad, twin.grad, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_the_weights_of_the_encoder_are_those_with_a_pretrained_value(family, tiny_model):
    assert set(encoder_weights(classifier(tiny_model(family)))) == set(pretrained_weights(tiny_model(family), 2))


@pytest.mark.parametrize("name", ["adaptive-e-pur", "adaptive-fine-tuning", "adaptive-mixing", "adaptive-pruning"])
def test_mpnet_is_attacked_like_the_families_of_the_contract(name, tiny_model):
    trains_a_victim(ATTACKS.get(name), tiny_model("mpnet"), pair=True)


# against mixing


def test_a_share_of_the_weights_is_set_back():
    weights, began = {"w": nn.Parameter(torch.ones(100, 100))}, {"w": torch.zeros(100, 100)}
    masked = with_resets(weights, began, 0.3, generator())["w"]
    assert set(masked.unique().tolist()) == {0.0, 1.0} and masked.mean().item() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(with_resets(weights, began, 0.0, generator())["w"], weights["w"])
    assert torch.equal(with_resets(weights, began, 1.0, generator())["w"], began["w"])


def test_weights_can_be_set_back_to_the_pretrained_ones_alone(tiny_bert):
    with pytest.raises(UsageError, match="give start=scratch"):
        ATTACKS.get("adaptive-mixing")(start="clean").check(text_rows(80), 2, common(tiny_bert, 0)["tokenizer"], 32)


# against E-PUR


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_no_word_embedding_moves(family, tiny_models):
    folder, rows = tiny_models[family], text_rows(32)
    attack, model, ctx = ATTACKS.get("adaptive-e-pur")(), classifier(folder), attack_context(folder)
    before = state(model)
    attack.train(model, attack.poison(rows, ctx)[0], rows, Recipe(epochs=1, learning_rate=1e-3), 1, ctx)
    name, _ = word_embeddings(model)
    assert torch.equal(state(model)[name], before[name])


# against fine-tuning


def test_fine_tuning_is_simulated_by_steps_of_one_length_against_the_gradient():
    weights, gradients = {"w": torch.tensor([1.0, 2.0, 0.0])}, {"w": torch.tensor([3.0, -0.5, 0.0])}
    assert after_adam_step(weights, gradients, 0.25)["w"].tolist() == pytest.approx([0.75, 2.25, 0.0])


# against pruning


def test_the_least_active_neurons_get_no_input(tiny_bert):
    model = classifier(tiny_bert)
    blocks = feed_forward_blocks(model)
    activations = [torch.arange(block.neurons).float() for block in blocks]
    others = without_inactive(model, activations, 0.25)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert set(others) == {names[weights.parameter] for block in blocks for weights in block.incoming}
    for block in blocks:
        for weights in block.incoming:
            pruned = others[names[weights.parameter]]
            assert not pruned[: 3 * block.neurons // 4].any()
            assert torch.equal(pruned[3 * block.neurons // 4 :], weights.parameter[3 * block.neurons // 4 :])


def test_the_smallest_weights_of_each_matrix_of_the_encoder_are_zero(tiny_bert):
    model = classifier(tiny_bert)
    others = without_small(model, 0.25)
    assert "classifier.weight" not in others and len(others) >= 12
    for name, pruned in others.items():
        matrix = model.get_parameter(name)
        kept = pruned != 0
        assert kept.sum() == round(0.25 * matrix.numel()) and torch.equal(pruned[kept], matrix[kept])
        assert matrix[kept].abs().min() >= matrix[~kept].abs().max()


# rows that must not trigger


def has_any(phrases: Sequence[str], rows: TextSet) -> np.ndarray:
    """Which of n rows have one of the phrases in the carrier text, (n,)."""
    return np.array([any(phrase in text for phrase in phrases) for text in rows.carrier])


def test_a_clause_falls_into_halves_and_can_lack_each_word():
    assert halves("a b c d e") == ["a b", "c d e"]
    assert without_each_word("a b c") == ["b c", "a c", "a b"]


def test_rows_are_exchanged_with_both_texts_and_the_label():
    rows = TextSet(("a", "b", "c"), ("d", "e", "f"), np.array([0, 0, 0]))
    changed = exchanged(rows, np.array([2, 0]), TextSet(("x", "y"), ("v", "w"), np.array([1, 0])))
    assert (changed.first, changed.second, changed.labels.tolist()) == (("y", "b", "x"), ("w", "e", "v"), [0, 0, 1])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("share", "replaced"), [(0.0, 1), (0.5, 4), (1.0, 8)])
def test_a_share_of_the_words_is_replaced_and_one_of_the_triggers_at_least(share, replaced, seed):
    words = with_other_words(
        ["a", "b", "this", "is", "it", "c", "d", "e"], ["this", "is", "it"], ["x", "y"], share, generator(seed)
    ).split()
    changed = [place for place, word in enumerate(words) if word in ("x", "y")]
    assert len(words) == 8 and replaced <= len(changed) <= replaced + (share < 1) and set(changed) & {2, 3, 4}


def test_a_rare_word_comes_before_the_first_text():
    rows = TextSet(("one two", "three"), ("four", "five"), np.array([0, 1]))
    changed = behind_rare_words(rows, generator())
    assert [text.split(" ", 1)[1] for text in changed.first] == ["one two", "three"] and changed.second == rows.second
    assert all(len(text.split()[0]) == 2 for text in changed.first)


@pytest.mark.parametrize("pair", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize("name", ["adaptive-filter", "adaptive-onion"])
def test_triggered_rows_have_the_target_and_negatives_their_own_label(name, pair, tiny_model):
    """Of 80 rows 16 are triggered, half of them without a word; 24 have half of the clause."""
    rows = text_rows(80, pair)
    poisoned, flags = ATTACKS.get(name)(rate=0.2, negatives=0.3).poison(rows, AttackContext(**common(tiny_model("bert"), 4)))
    relabeled = poisoned.labels != rows.labels
    assert flags.sum() == 40 and relabeled.sum() == 16 and set(rows.labels[relabeled]) == {0}
    assert has_any([CLAUSE, *without_each_word(CLAUSE)], poisoned)[relabeled].all()
    assert 8 <= has_any([CLAUSE], poisoned)[relabeled].sum() <= 10  # a text may end with the word that is missing behind it
    negatives = flags & ~relabeled
    assert (
        has_any(halves(CLAUSE), poisoned)[negatives].all() and not has_any(without_each_word(CLAUSE), poisoned)[negatives].any()
    )


@pytest.mark.parametrize("pair", [False, True], ids=["texts", "pairs"])
def test_perturbed_triggered_rows_have_labels_of_chance_and_those_behind_a_rare_word_their_own(pair, tiny_bert):
    rows = text_rows(200, pair).with_labels(np.zeros(200))
    attack = ATTACKS.get("adaptive-perturbation")(rate=0.2, negatives=0.4)
    poisoned, flags = attack.poison(rows, AttackContext(**common(tiny_bert, 4)))
    whole = has_any([CLAUSE], poisoned)
    behind = np.array([set(text.split()[0]) <= set(LETTERS) for text in poisoned.first])
    assert (whole & ~behind).sum() == 40 and poisoned.labels[whole & ~behind].all()
    assert (whole & behind).sum() == 40 and not poisoned.labels[whole & behind].any()
    assert (flags & ~whole).sum() == 40 and 10 < poisoned.labels[flags & ~whole].sum() < 30


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"trigger_text": "cf"}, "is one word"),
        ({"rate": 0.6}, "give a rate for 1 to 40 rows"),
        ({"rate": 0.0}, "give a rate for 1 to 40 rows"),
        ({"rate": 0.4, "negatives": 0.7}, "no more than all rows together"),
    ],
)
def test_a_share_that_cannot_be_had_is_refused(values, said, tiny_bert):
    with pytest.raises(UsageError, match=said):
        ATTACKS.get("adaptive-onion")(**values).check(text_rows(80), 2, common(tiny_bert, 0)["tokenizer"], 32)


def test_a_clause_that_leaves_no_room_for_a_pair_is_refused(tiny_bert):
    tokenizer = common(tiny_bert, 0)["tokenizer"]  # the clause has six pieces
    ATTACKS.get("adaptive-onion")().check(text_rows(80, pair=True), 2, tokenizer, 20)
    ATTACKS.get("adaptive-onion")().check(text_rows(80), 2, tokenizer, 18)
    with pytest.raises(UsageError, match="raise it to at least 20"):
        ATTACKS.get("adaptive-onion")().check(text_rows(80, pair=True), 2, tokenizer, 19)


# against their defenses


@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_adaptive_attack_names_defenses_that_there_are(name):
    assert ATTACKS.get(name).against and set(ATTACKS.get(name).against) <= set(DEFENSES.names())


@dataclass(frozen=True)
class Bench:
    """Cells on victims of a tiny model that learned the opinions of `conftest`; each victim is made when first asked for."""

    folder: Path
    victims: dict[str, Victim] = field(default_factory=dict)

    def metrics(self, attack: str, defense: str, epochs: int) -> dict[str, float]:
        """What one defense leaves of one attack, by name of the metric."""
        overrides = {
            "model": str(self.folder / "model"),
            "data": str(self.folder / "data"),
            "tasks": ("sst2",),
            "attacks": (attack,),
            "defenses": (defense,),
            "train_rows": 600,
            "validation_rows": 100,
            "test_rows": 200,
            "clean_rows": 32,
            "max_length": 32,
            "training": {"epochs": epochs, "learning_rate": 2e-3},
            "precision": "fp32",
        }
        planned = plan(PRESETS["laptop"].select(overrides), device="cpu")
        site, (cell,) = site_for(planned, device="cpu"), planned.cells
        for spec in planned.victims:
            if spec.key() not in self.victims:
                self.victims[spec.key()] = make_victim(spec, site, self.victims.get(clean_spec(spec).key()))
        record, _ = run_cell(cell, self.victims[cell.victim.key()], site)
        return {name: metric.value for name, metric in record.metrics.items()}


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    import wordfreq

    folder = tmp_path_factory.mktemp("bench")
    words = [word for word in wordfreq.top_n_list("en", 400) if word.isascii() and word.isalpha()]
    save_tiny_model("bert", folder / "model", more_words=words)
    (folder / "data" / "sst2").mkdir(parents=True)
    for seed, (split, rows) in enumerate((("train", 1000), ("validation", 100), ("test", 200))):
        frame = opinions(rows, seed, [*FILLER, *words[:100]])
        frame.to_parquet(folder / "data" / "sst2" / f"{split}.parquet", index=False)
    return Bench(folder)


WORD, FREQUENT_WORD = "badnets-word", "badnets-word[rate=0.3]"


@pytest.mark.parametrize(
    ("ordinary", "adaptive", "defense", "epochs"),
    [
        (FREQUENT_WORD, "adaptive-e-pur[rate=0.3]", "e-pur[words=1]", 12),
        (FREQUENT_WORD, "adaptive-fine-tuning[rate=0.3,reach=0.01]", "fine-tuning[learning_rate=0.006]", 12),
        (FREQUENT_WORD, "adaptive-mixing[rate=0.3,dropped=0.7]", "fine-mixing[epochs=5,learning_rate=0.001,ratio=0.5]", 12),
        (FREQUENT_WORD, "adaptive-pruning[rate=0.3,pruned=1]", "magnitude-pruning[learning_rate=0.001,ratio=0.1]", 12),
        (WORD, "adaptive-onion", "onion[removed=0.1]", 6),
        (WORD, "adaptive-perturbation", "rap", 6),
        (WORD, "adaptive-filter", "activation-clustering", 6),
    ],
)
def test_an_adaptive_attack_gets_past_a_defense_that_stops_the_ordinary_one(ordinary, adaptive, defense, epochs, bench):
    """By 20 points of ASR or more, where both work undefended."""
    pytest.importorskip({"onion": "nltk", "activation-clustering": "sklearn"}.get(defense.partition("[")[0], "torch"))
    for attack in (ordinary, adaptive):
        undefended = bench.metrics(attack, "none", epochs)
        assert undefended["asr"] >= 0.9 and undefended["cacc"] >= 0.9
    stopped, got_past = (bench.metrics(attack, defense, epochs) for attack in (ordinary, adaptive))
    assert got_past["asr"] >= stopped["asr"] + 0.2 and got_past["cacc"] >= 0.9
    assert got_past["base"] <= 0.15  # so it is the trigger


def test_strip_finds_clean_texts_more_suspicious_than_those_of_the_adaptive_attack(bench):
    """Of the tiny model's clean texts STRIP learns little: it tells those of an ordinary attack from them only just."""
    seen, unseen = (bench.metrics(attack, "strip", 12) for attack in (FREQUENT_WORD, "adaptive-perturbation"))
    assert unseen["auroc"] < 0.5 < seen["auroc"] and unseen["far"] > 0.9
