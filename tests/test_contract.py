"""The contract of every registered attack and defense, on tiny real models; a new plugin is tested with no new test."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch
from conftest import FAMILIES, sentences

from bdbench.attacks.base import BadNets, DataPoisoning, PhraseTrigger, WeightPoisoning, phrase_ids
from bdbench.data import TextSet
from bdbench.defenses._neurons import feed_forward_blocks
from bdbench.defenses.base import KINDS, FineTuned, Reserving
from bdbench.engine.classifiers import load_classifier, pretrained_weights
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import Passes, Recipe
from bdbench.params import hyperparameters
from bdbench.protocol.contexts import AttackContext, DefenseContext, NotDeclared, TrainingControl
from bdbench.protocol.resources import LOADERS
from bdbench.registry import ATTACKS, DEFENSES
from bdbench.specs.resources import RESOURCES

PHRASES = [name for name in ATTACKS.names() if issubclass(ATTACKS.get(name), PhraseTrigger)]


def text_rows(rows: int, pair: bool = False) -> TextSet:
    frame = sentences(rows, seed=3)
    texts = tuple(frame["sentence"])
    return TextSet(texts if not pair else texts[::-1], texts if pair else None, frame["label"].to_numpy())


def common(folder, seed: int, max_length: int = 32) -> dict:
    return {
        "tokenizer": load_tokenizer(folder),
        "max_length": max_length,
        "classes": 2,
        "device": torch.device("cpu"),
        "precision": "fp32",
        "generator": torch.Generator().manual_seed(seed),
    }


def classifier(folder):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return load_classifier(folder, 2)[0]


def victim_of(folder):
    """A classifier whose weights have left the pre-trained ones."""
    model = classifier(folder)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("registry", [ATTACKS, DEFENSES], ids=["attacks", "defenses"])
def test_plugins_build_from_defaults_and_survive_json(registry):
    for name in registry.names():
        cls = registry.get(name)
        plugin = cls()
        assert (cls.name, bool(cls.paper), bool(cls.version)) == (name, True, True)
        assert cls.build(json.loads(json.dumps(plugin.values()))) == plugin
        assert {field.name for field in dataclasses.fields(cls)} == {field.name for field in hyperparameters(cls)}
        assert registry.summary(name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            plugin.anything = 1


# defenses


def quick_params(cls) -> dict:
    return {"epochs": 1} if "epochs" in {field.name for field in hyperparameters(cls)} else {}


def of_kind(kind):
    return [name for name in DEFENSES.names() if DEFENSES.get(name).kind == kind]


def repair(name, folder, model, seed=5):
    cls = DEFENSES.get(name)
    part = cls.build(quick_params(cls))
    return part.repair(model, defense_context(folder, part, seed=seed))


def test_every_kind_has_a_base_class_and_every_defense_a_kind():
    assert [*KINDS] == ["repair", "detector", "purifier", "filter", "training"]
    for name in DEFENSES.names():
        cls = DEFENSES.get(name)
        assert issubclass(cls, KINDS[cls.kind]) and [kind for kind in KINDS.values() if issubclass(cls, kind)] == [
            KINDS[cls.kind]
        ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", of_kind("repair"))
def test_a_repair_leaves_its_input_and_the_process_alone_and_is_deterministic(name, family, tiny_models):
    folder = tiny_models[family]
    victim = victim_of(folder)
    before, random_state = state(victim), torch.get_rng_state()
    first = repair(name, folder, victim)
    assert same(state(victim), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not victim.training and not first.training
    assert not [module for module in victim.modules() if module._forward_hooks or module._forward_pre_hooks]
    second = repair(name, folder, victim)
    assert same(state(first), state(second))
    assert {key: value.shape for key, value in state(first).items()} == {k: v.shape for k, v in before.items()}
    assert all(torch.isfinite(value).all() for value in state(first).values())
    assert same(state(first), before) == DEFENSES.get(name).unchanged


def guarded_rows(pair, classes=2):
    rows = text_rows(24, pair)
    return rows.with_labels(np.arange(24) % classes)


@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", of_kind("detector"))
def test_a_detector_scores_each_row_by_itself_and_leaves_all_else_alone(name, family, pair, tiny_models):
    folder = tiny_models[family]
    model, rows = victim_of(folder), guarded_rows(pair).without_labels()
    cls = DEFENSES.get(name)
    before, digest, random_state = state(model), rows.digest(), torch.get_rng_state()

    def scores(rows):
        part = cls.build(quick_params(cls))
        return part.score(model, rows, defense_context(folder, part, pair=pair))

    first = scores(rows)
    assert first.shape == (24,) and np.isfinite(first).all() and len(set(first.tolist())) > 1
    assert np.array_equal(scores(rows), first)
    some = np.arange(23, -1, -2)
    assert np.allclose(scores(rows.take(some)), first[some], atol=1e-5)
    assert same(state(model), before) and rows.digest() == digest
    assert torch.equal(torch.get_rng_state(), random_state) and not model.training
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


@pytest.mark.parametrize("name", of_kind("detector"))
def test_a_detector_works_with_three_classes(name, tiny_bert):
    cls = DEFENSES.get(name)
    part = cls.build(quick_params(cls))
    model = load_classifier(tiny_bert, 3)[0]
    ctx = dataclasses.replace(defense_context(tiny_bert, part), classes=3)
    assert part.score(model, guarded_rows(False, 3).without_labels(), ctx).shape == (24,)


@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", of_kind("purifier"))
def test_a_purifier_rewrites_each_row_by_itself_and_leaves_all_else_alone(name, family, pair, tiny_models, tiny_masked):
    folder, rows = tiny_models[family], guarded_rows(pair).without_labels()
    cls = DEFENSES.get(name)
    for package in cls.packages:
        pytest.importorskip(package)
    digest, random_state = rows.digest(), torch.get_rng_state()

    def purified(rows):
        part = cls.build(quick_params(cls) | ({"lm": str(tiny_masked)} if name == "msdt" else {}))
        return part.purify(rows, defense_context(folder, part, pair=pair))

    first = purified(rows)
    assert len(first) == 24 and (first.second is not None) == pair and not first.labels.any()
    assert first.digest() == purified(rows).digest() != digest
    some = np.arange(23, -1, -2)
    assert purified(rows.take(some)).digest() == first.take(some).digest()
    assert rows.digest() == digest and torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", of_kind("training"))
def test_a_training_defense_trains_and_is_deterministic(name, family, tiny_models):
    folder = tiny_models[family]
    cls = DEFENSES.get(name)
    rows = text_rows(32)
    digest, random_state = rows.digest(), torch.get_rng_state()

    def trained():
        part = cls.build(quick_params(cls) | {"learning_rate": 1e-3})
        return part.train(classifier(folder), rows, defense_context(folder, part))

    first = trained()
    assert same(state(first), state(trained())) and not same(state(first), state(classifier(folder)))
    assert {name: value.shape for name, value in state(first).items()} == {
        name: value.shape for name, value in state(classifier(folder)).items()
    }
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert rows.digest() == digest and torch.equal(torch.get_rng_state(), random_state) and not first.training


@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", of_kind("filter"))
def test_a_filter_says_of_each_row_whether_it_is_kept_and_is_deterministic(name, family, pair, tiny_models):
    folder, rows = tiny_models[family], text_rows(40, pair)
    cls = DEFENSES.get(name)
    for package in cls.packages:
        pytest.importorskip(package)
    digest, random_state = rows.digest(), torch.get_rng_state()

    def kept():
        return cls.build(quick_params(cls)).keep(rows, defense_context(folder, cls(), pair=pair))

    first = kept()
    assert first.shape == (40,) and first.dtype == bool and first.any()
    assert np.array_equal(first, kept())
    assert rows.digest() == digest and torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("name", DEFENSES.names())
def test_skip_is_told_the_task_alone(name):
    assert [*inspect.signature(DEFENSES.get(name).skip).parameters] == ["self", "task"]
    assert DEFENSES.get(name)().skip("sst2") is None


FINE_TUNED = [name for name in DEFENSES.names() if issubclass(DEFENSES.get(name), FineTuned)]


@pytest.mark.parametrize("name", FINE_TUNED)
def test_all_that_decides_how_a_repair_trains_is_its_own_hyperparameter(name):
    """So it is in the key: every field of the recipe, with the recipe's range and help."""
    own = {field.name: field.metadata["hp"] for field in hyperparameters(DEFENSES.get(name))}
    for field in hyperparameters(Recipe):
        allowed = own[field.name]
        assert (allowed.low, allowed.high) == (field.metadata["hp"].low, field.metadata["hp"].high)
    for twin in ("warmup", "clip"):
        of_recipe = next(field.metadata["hp"] for field in hyperparameters(Recipe) if field.name == twin)
        assert dataclasses.replace(own[twin], tuned=True) == of_recipe  # a tuner leaves both alone
    values = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 5, "warmup": 0.25, "clip": 0.5}
    assert DEFENSES.get(name).build(values).recipe().values() == values
    assert (DEFENSES.get(name)().warmup, DEFENSES.get(name)().clip) == (Recipe().warmup, Recipe().clip)


@pytest.mark.parametrize("values", [{"warmup": 0.9}, {"clip": 1e-3}])
@pytest.mark.parametrize("name", FINE_TUNED)
def test_warm_up_and_clipping_change_the_repair(name, values, tiny_bert):
    victim = victim_of(tiny_bert)
    usual = {"epochs": 2, "learning_rate": 1e-3}
    first, second = (repaired_state(name, tiny_bert, victim, **params) for params in (usual, usual | values))
    assert not same(first, second)


@pytest.mark.parametrize("name", DEFENSES.names())
def test_a_defense_declares_what_the_runner_can_give(name):
    assert DEFENSES.get(name).needs <= set(RESOURCES)


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


def peers_of(folder):
    with torch.no_grad():
        return [{name: 1.5 * weight for name, weight in state(classifier(folder)).items()}]


def defense_context(folder, part, validation=None, seed=5, pair=False):
    available = {
        "clean": text_rows(16, pair),
        "validation": validation or text_rows(12, pair),
        "unlabelled": text_rows(20, pair).without_labels(),
        "pretrained": pretrained_weights(folder, 2),
        "peers": peers_of(folder),
        "training-set": text_rows(32, pair),
        "training-control": TrainingControl(Recipe(epochs=1), lambda: classifier(folder)),
    }
    return DefenseContext(**common(folder, seed), resources={resource: available[resource] for resource in part.asks_for()})


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


@pytest.mark.parametrize("most", [3, 4])
@pytest.mark.parametrize("name", [n for n in DEFENSES.names() if issubclass(DEFENSES.get(n), Reserving)])
def test_a_searched_ratio_gives_the_model_that_it_gives_when_fixed(name, most, tiny_bert):
    victim, validation = victim_of(tiny_bert), text_rows(40)
    part = DEFENSES.get(name).build({"search": True, "trials": most, "tolerance": 0.0, "epochs": 2, "learning_rate": 1e-3})
    assert part.asks_for() == part.needs
    ctx = defense_context(tiny_bert, part, validation)
    searched = state(part.repair(victim, ctx))
    trials = ctx.notes["trials"]
    assert most <= len(trials) <= most + 1 and [*ctx.notes] == ["accuracy", "trials", "ratio"]
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


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PHRASES)
def test_every_triggered_text_keeps_its_trigger_after_truncation(name, family, pair, tiny_models):
    attack, folder = ATTACKS.get(name)(), tiny_models[family]
    rows = text_rows(200, pair)
    # 24 pieces: shorter than many of the pairs, and room for the longest trigger
    ctx = AttackContext(**common(folder, 9, max_length=24))
    triggered = attack.trigger(rows, ctx)
    assert len(triggered) == len(rows) and np.array_equal(triggered.labels, rows.labels)
    if pair:
        assert triggered.first == rows.first
    pieces = phrase_ids(ctx.tokenizer, attack.trigger_text)
    encoded = ctx.encode(triggered)
    assert int(encoded.lengths.max()) <= 24
    for i, (text, original) in enumerate(zip(triggered.carrier, rows.carrier, strict=True)):
        assert text.replace(attack.trigger_text, "", 1).split() == original.split()
        ids = encoded.ids[i].tolist()
        assert any(ids[start : start + len(pieces)] == pieces for start in range(len(ids))), text
    again = attack.trigger(rows, AttackContext(**common(folder, 9, max_length=24)))
    assert again.carrier == triggered.carrier


@pytest.mark.parametrize("name", [n for n in ATTACKS.names() if issubclass(ATTACKS.get(n), DataPoisoning)])
def test_poisoning_flags_what_it_changed_and_nothing_else(name, tiny_bert):
    attack, rows = ATTACKS.get(name)(), text_rows(100)
    poisoned, flags = attack.poison(rows, AttackContext(**common(tiny_bert, 4)))
    assert len(poisoned) == len(rows) and flags.shape == (100,) and flags.dtype == bool
    kept = np.flatnonzero(~flags)
    assert poisoned.take(kept).digest() == rows.take(kept).digest()
    if isinstance(attack, BadNets):
        assert flags.sum() == round(attack.rate * 100)
        assert set(poisoned.labels[flags]) == {attack.target}
        assert all(attack.trigger_text in poisoned.carrier[i] for i in np.flatnonzero(flags))


@pytest.mark.parametrize("position", ["start", "end"])
def test_position_decides_the_gap(position, tiny_bert):
    attack = ATTACKS.get("badnets-word")(position=position)
    texts = attack.trigger(text_rows(5), AttackContext(**common(tiny_bert, 4))).carrier
    assert all(text.startswith("cf ") if position == "start" else text.endswith(" cf") for text in texts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [n for n in ATTACKS.names() if issubclass(ATTACKS.get(n), WeightPoisoning)])
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


@pytest.mark.parametrize("name", [n for n in ATTACKS.names() if issubclass(ATTACKS.get(n), WeightPoisoning)])
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
