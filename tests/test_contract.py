"""The contract of every registered attack and defense, on tiny real models; a new plugin is tested with no new test."""

import dataclasses

import numpy as np
import pytest
import torch

from bdbench.attacks.base import phrase_ids
from bdbench.attacks.embedding_poisoning import EmbeddingPoisoning
from bdbench.defenses.base import KINDS, FineTuned, Reserving
from bdbench.engine.classifiers import pretrained_weights
from bdbench.engine.neurons import feed_forward_blocks
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import Passes, Recipe
from bdbench.protocol.contexts import AttackContext, DefenseContext, NotDeclared
from bdbench.protocol.resources import LOADERS
from bdbench.registry import ATTACKS, DEFENSES
from bdbench.specs.resources import RESOURCES
from bdbench.testing.contract import (
    NotApplicable,
    checks_of_attack,
    checks_of_defense,
    classifier,
    common,
    defense_context,
    same,
    state,
    text_rows,
    victim_of,
)
from bdbench.testing.tiny_models import FAMILIES

ATTACK_CHECKS = [
    pytest.param(name, check, id=f"{name}: {check}")
    for name in ATTACKS.names()
    for check in checks_of_attack(ATTACKS.get(name))
]
DEFENSE_CHECKS = [
    pytest.param(name, check, id=f"{name}: {check}")
    for name in DEFENSES.names()
    for check in checks_of_defense(DEFENSES.get(name))
]


@pytest.mark.parametrize(("name", "check"), [*ATTACK_CHECKS, *DEFENSE_CHECKS])
def test_every_plugin_keeps_its_contract(name, check, tiny_models):
    try:
        check.run(tiny_models)
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_every_kind_has_a_base_class():
    assert [*KINDS] == ["repair", "detector", "purifier", "filter", "training"]


@pytest.mark.parametrize("name", DEFENSES.names())
def test_no_defense_skips_a_task(name):
    assert DEFENSES.get(name)().skip("sst2") is None


FINE_TUNED = [name for name in DEFENSES.names() if issubclass(DEFENSES.get(name), FineTuned)]


@pytest.mark.parametrize("values", [{"warmup": 0.9}, {"clip": 1e-3}])
@pytest.mark.parametrize("name", FINE_TUNED)
def test_warm_up_and_clipping_change_the_repair(name, values, tiny_bert):
    victim = victim_of(tiny_bert)
    usual = {"epochs": 2, "learning_rate": 1e-3}
    first, second = (repaired_state(name, tiny_bert, victim, **params) for params in (usual, usual | values))
    assert not same(first, second)


def test_every_resource_can_be_loaded():
    assert set(LOADERS) == set(RESOURCES)


@pytest.mark.parametrize("resource", RESOURCES)
def test_touching_an_undeclared_resource_raises(resource, tiny_bert):
    others = {other: text_rows(4) for other in RESOURCES if other != resource}
    ctx = DefenseContext(**common(tiny_bert, 0), resources=others)
    with pytest.raises(NotDeclared, match=resource):
        getattr(ctx, {"training-set": "training_set", "training-control": "recipe"}.get(resource, resource))


def repaired_state(name, folder, victim, **params):
    part = DEFENSES.get(name).build(params)
    return state(part.repair(victim, defense_context(folder, part)))


@pytest.mark.parametrize("family", FAMILIES)
def test_e_pur_resets_the_most_suspicious_pieces_alone(family, tiny_models):
    folder = tiny_models[family]
    model, clean, tokenizer = classifier(folder), pretrained_weights(folder, 2), load_tokenizer(folder)
    embeddings = model.get_input_embeddings().weight
    name = next(name for name, parameter in model.named_parameters() if parameter is embeddings)
    words = ["cf", "mn", "film"]
    moved = [phrase_ids(tokenizer, word)[0] for word in words]
    with torch.no_grad():  # "film" moves as much, but it is frequent; a special piece moves most, and is no word
        embeddings[moved] += 1.0
        embeddings[tokenizer.cls_token_id] += 9.0
    before, after = state(model)[name], repaired_state("e-pur", folder, model, words=2)[name]
    changed = (before != after).any(dim=1).nonzero().flatten().tolist()
    assert sorted(changed) == sorted(moved[:2])
    assert torch.equal(after[changed], clean[name][changed])


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_mixing_keeps_the_head_and_the_given_share_of_the_encoder(family, tiny_models):
    folder, victim = tiny_models[family], victim_of(tiny_models[family])
    clean = pretrained_weights(folder, 2)
    before, after = state(victim), repaired_state("fine-mixing", folder, victim, ratio=0.25, learning_rate=0.0)
    assert clean and len(clean) < len(before)
    kept = total = 0
    for name, tensor in before.items():
        if name not in clean:
            assert torch.equal(after[name], tensor), name
            continue
        stays, reset = after[name] == tensor, after[name] == clean[name]
        assert (stays | reset).all()
        kept, total = kept + int(stays.sum()), total + tensor.numel()
    assert 0.23 < kept / total < 0.27


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_neurons_stay_dead_only_if_frozen(family, tiny_models):
    folder, victim = tiny_models[family], victim_of(tiny_models[family])
    dead = {}
    for frozen in (False, True):
        params = {"ratio": 0.5, "frozen": frozen, "learning_rate": 1e-2, "epochs": 2}
        model = classifier(folder)
        model.load_state_dict(repaired_state("fine-pruning", folder, victim, **params))
        blocks = feed_forward_blocks(model)
        assert len(blocks) == 2
        dead[frozen] = [int((block.incoming[0].parameter == 0).all(dim=1).sum()) for block in blocks]
    assert dead[True] == [32, 32] and max(dead[False]) < 32


OWN_NOTES = {"fine-purifying": ("moved",)}  # what a repair notes before its search does


@pytest.mark.parametrize("most", [3, 4])
@pytest.mark.parametrize("name", [n for n in DEFENSES.names() if issubclass(DEFENSES.get(n), Reserving)])
def test_a_searched_ratio_gives_the_model_that_it_gives_when_fixed(name, most, tiny_bert):
    victim, validation = victim_of(tiny_bert), text_rows(40)
    part = DEFENSES.get(name).build({"search": True, "trials": most, "tolerance": 0.0, "epochs": 2, "learning_rate": 1e-3})
    assert part.asks_for() == part.needs
    ctx = defense_context(tiny_bert, part, validation)
    searched = state(part.repair(victim, ctx))
    trials = ctx.notes["trials"]
    assert most <= len(trials) <= most + 1 and [*ctx.notes] == [*OWN_NOTES.get(name, ()), "accuracy", "trials", "ratio"]
    assert ctx.notes["accuracy"] == ctx.accuracy(victim, validation)
    for trial in trials:  # what fits lies at or above the chosen ratio, what does not lies below
        fits = trial["accuracy"] >= ctx.notes["accuracy"] or trial["ratio"] == 1.0
        assert fits == (trial["ratio"] >= ctx.notes["ratio"])
    fixed = dataclasses.replace(part, search=False, ratio=ctx.notes["ratio"])
    assert "validation" not in fixed.asks_for()
    assert same(searched, state(fixed.repair(victim, defense_context(tiny_bert, fixed))))
    model = classifier(tiny_bert)
    model.load_state_dict(searched)
    (chosen,) = [trial["accuracy"] for trial in trials if trial["ratio"] == ctx.notes["ratio"]]
    assert ctx.accuracy(model, validation) == chosen


@pytest.mark.parametrize(("trials", "tried"), [(4, [0.35, 0.6, 0.8, 0.9, 1.0]), (3, [0.35, 0.6, 0.8, 1.0]), (1, [0.35, 1.0])])
def test_an_unreachable_accuracy_ends_at_the_whole_victim_and_says_so(trials, tried, tiny_bert):
    """Fine-tuning at a rate that destroys the model: no ratio fits, the last is taken and its accuracy is on record."""
    victim, validation = classifier(tiny_bert), text_rows(40)
    part = DEFENSES.get("fine-mixing")(search=True, trials=trials, learning_rate=1.0, epochs=1)
    ctx = defense_context(tiny_bert, part, validation)
    ctx.train(victim, validation, Recipe(epochs=10, learning_rate=5e-3, batch_size=8))
    part.repair(victim, ctx)
    assert ctx.notes["accuracy"] > 0.9 and ctx.notes["ratio"] == 1.0
    assert [trial["ratio"] for trial in ctx.notes["trials"]] == tried
    assert max(trial["accuracy"] for trial in ctx.notes["trials"]) <= ctx.notes["accuracy"] - part.tolerance


# attacks


@pytest.mark.parametrize("position", ["start", "end"])
def test_position_decides_the_gap(position, tiny_bert):
    attack = ATTACKS.get("badnets-word")(position=position)
    texts = attack.trigger(text_rows(5), AttackContext(**common(tiny_bert, 4))).carrier
    assert all(text.startswith("cf ") if position == "start" else text.endswith(" cf") for text in texts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [n for n in ATTACKS.names() if issubclass(ATTACKS.get(n), EmbeddingPoisoning)])
def test_embedding_poisoning_changes_the_triggers_row_alone_and_keeps_its_norm(name, family, tiny_models):
    folder = tiny_models[family]
    few = {"samples": 64} if name.startswith("data-free") else {}
    attack, model = ATTACKS.get(name)(rate=1.0, **few), classifier(folder)
    before = state(model)
    ctx = AttackContext(**common(folder, 4))
    poisoned = attack.poison_weights(model, text_rows(64), ctx)
    after, row = state(poisoned), phrase_ids(ctx.tokenizer, attack.trigger_text)[0]
    name_of_matrix = next(n for n, p in poisoned.named_parameters() if p is poisoned.get_input_embeddings().weight)
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert changed == [name_of_matrix]
    matrix, original = after[name_of_matrix], before[name_of_matrix]
    assert (matrix != original).any(dim=1).nonzero().flatten().tolist() == [row]
    assert matrix[row].norm().item() == pytest.approx(original[row].norm().item(), rel=1e-5)
    assert all(parameter.requires_grad for parameter in poisoned.parameters())
    assert not poisoned.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("name", [n for n in ATTACKS.names() if issubclass(ATTACKS.get(n), EmbeddingPoisoning)])
def test_embedding_poisoning_trains_with_no_hyperparameter_that_it_does_not_declare(name, tiny_bert, monkeypatch):
    recipes = []
    monkeypatch.setattr(AttackContext, "train", lambda ctx, model, rows, recipe, **others: recipes.append((recipe, others)))
    few = {"samples": 8} if name.startswith("data-free") else {}
    attack = ATTACKS.get(name)(rate=1.0, epochs=2, batch_size=5, **few)
    attack.poison_weights(classifier(tiny_bert), text_rows(16), AttackContext(**common(tiny_bert, 4)))
    ((recipe, others),) = recipes
    assert recipe == Passes(epochs=2, batch_size=5) and type(recipe) is Passes
    assert set(others) == {"optimizer"} and others["optimizer"].param_groups[0]["lr"] == attack.learning_rate


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_data_free_poisoning_reads_no_training_text(pair, tiny_bert):
    attack = ATTACKS.get("data-free-embedding-poisoning")(samples=20, words=9)
    fakes, others = text_rows(8, pair), text_rows(40, pair)
    drawn = [attack.candidates(train, AttackContext(**common(tiny_bert, 4))) for train in (fakes, others)]
    assert drawn[0].digest() == drawn[1].digest() and len(drawn[0]) == 20
    assert {len(text.split()) for text in drawn[0].carrier} == {4 if pair else 9}
    assert len(set(drawn[0].carrier)) == 20 and (drawn[0].second is not None) == pair


def test_embedding_poisoning_follows_the_gradient_of_the_row(tiny_bert):
    """Against autograd on the whole matrix: one step on one batch, dropout off."""
    model = classifier(tiny_bert)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    attack = ATTACKS.get("embedding-poisoning")(rate=1.0, epochs=1, learning_rate=0.1, batch_size=64)
    rows = text_rows(8)
    ctx = AttackContext(**common(tiny_bert, 4))
    word = phrase_ids(ctx.tokenizer, "cf")[0]
    chosen = np.flatnonzero(rows.labels == 0)[torch.randperm(4, generator=ctx.generator).numpy()]
    triggered = attack.trigger(rows.take(chosen), ctx).with_labels([1] * 4)
    inputs, labels = ctx.encode(triggered).batch(torch.arange(4), ctx.device)
    matrix = model.get_input_embeddings().weight
    torch.nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
    moved = matrix[word] - 0.1 * matrix.grad[word]
    expected = (moved * matrix[word].norm() / moved.norm()).detach()
    model.zero_grad()
    attack.poison_weights(model, rows, AttackContext(**common(tiny_bert, 4)))
    assert torch.allclose(model.get_input_embeddings().weight[word], expected, atol=1e-6)
