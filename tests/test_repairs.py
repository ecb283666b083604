"""The maths of the repairs that come from the literature, on tensors small enough to work by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_contract import repaired_state

from bdbench.data import TextSet
from bdbench.defenses._attention import attention_layers, with_maps
from bdbench.defenses._cls_attention import cls_norms, cls_rows, layer_coefficients, row_variances
from bdbench.defenses._distillation import energy_distance, energy_map, map_distance, state_distance
from bdbench.defenses._merging import disjoint_mean, elected_signs, magnitudes, trimmed
from bdbench.defenses.dare import rescaled
from bdbench.defenses.fine_purifying import fisher_information, indicator
from bdbench.defenses.l2_sp import half_square
from bdbench.defenses.mbtsad import split_rows, split_words
from bdbench.defenses.pure import heads_to_prune, without_heads
from bdbench.engine.classifiers import pretrained_weights
from bdbench.engine.ranking import largest, threshold_of_largest
from bdbench.registry import DEFENSES
from bdbench.testing.contract import classifier, defense_context, state, victim_of
from bdbench.testing.tiny_models import FAMILIES


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


# merging: TIES and DARE


@pytest.mark.parametrize(("share", "least"), [(0.0, math.inf), (0.2, 9.0), (0.4, 5.0), (0.5, 5.0), (0.6, 4.0), (1.0, 0.0)])
def test_the_threshold_is_the_least_of_the_largest_magnitudes(share, least):
    """Of five magnitudes round(5 * share) stay: 0, 1, 2, 2, 3 and 5."""
    assert threshold_of_largest(torch.tensor([4.0, 0.0, 9.0, 5.0, 1.0]), share) == least


def test_ties_trims_elects_and_merges():
    """Three models and four weights; the thresholds are 2, 2 and 1."""
    changes = torch.tensor([[4.0, -2.0, 1.0, 3.0], [-2.0, -4.0, 1.5, -3.0], [-3.0, 0.5, 0.5, 1.0]])
    kept = trimmed(changes, [torch.tensor(2.0), torch.tensor(2.0), torch.tensor(1.0)])
    assert kept.tolist() == [[4.0, -2.0, 0.0, 3.0], [-2.0, -4.0, 0.0, -3.0], [-3.0, 0.0, 0.0, 1.0]]
    # sums: -1, -6, 0, 1
    assert elected_signs(kept).tolist() == [-1.0, -1.0, 0.0, 1.0]
    # (-2 - 3) / 2, (-2 - 4) / 2, nothing, (3 + 1) / 2
    assert disjoint_mean(kept).tolist() == [-2.5, -3.0, 0.0, 2.0]


def test_of_changes_that_cancel_nothing_stays():
    assert disjoint_mean(torch.tensor([[2.0, 0.0], [-2.0, 0.0]])).tolist() == [0.0, 0.0]


def test_magnitudes_are_those_of_all_weights_that_have_a_pretrained_value():
    weights = {"a": torch.tensor([[1.0, 2.0]]), "head": torch.tensor([9.0]), "b": torch.tensor([-3.0])}
    assert magnitudes(weights, {"a": torch.tensor([[2.0, 2.0]]), "b": torch.tensor([1.0])}).tolist() == [1.0, 0.0, 4.0]


def test_dare_divides_what_stays_by_the_share_that_stays():
    changes, kept = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[True, False], [False, True]])
    assert rescaled(changes, kept, 0.75).tolist() == [[4.0, 0.0], [0.0, 16.0]]


@pytest.mark.parametrize("name", ["ties", "dare"])
def test_a_merge_of_all_changes_of_equal_signs_is_the_mean(name, tiny_bert):
    """The peer is 1.5 times the pre-trained weights p, the model 2 p: of the changes p and p / 2 the mean is 3 p / 4."""
    model, clean = classifier(tiny_bert), pretrained_weights(tiny_bert, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    whole = {"ties": {"share": 1.0}, "dare": {"drop": 0.0}}[name]
    after = repaired_state(name, tiny_bert, model, **whole)
    assert all(torch.allclose(after[part], 1.75 * start) for part, start in clean.items())
    assert torch.allclose(after["classifier.weight"], 1.75 / 2 * model.classifier.weight)
    half = repaired_state(name, tiny_bert, model, **whole, scale=0.5)
    assert all(torch.allclose(half[part], 1.375 * start) for part, start in clean.items())
    assert torch.equal(half["classifier.weight"], after["classifier.weight"])


def test_dare_drops_the_given_share_and_elects_a_sign_if_told(tiny_bert):
    """With the suspect at the pre-trained weights its change is zero: what stays is the peer's, p / 2, over 2 models or 1."""
    model, clean = classifier(tiny_bert), pretrained_weights(tiny_bert, 2)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    for elect, share_of_peer in ((False, 0.5), (True, 1.0)):
        change = repaired_state("dare", tiny_bert, model, drop=0.75, elect=elect)[name] - clean[name]
        stays = change.abs() > 1e-7
        assert 0.2 < stays.float().mean() < 0.3
        assert torch.allclose(change[stays], 4 * share_of_peer * 0.5 * clean[name][stays], atol=1e-6)


# L2-SP


def test_the_pull_is_half_the_squared_norm_over_all_tensors():
    assert half_square([torch.tensor([[1.0, 2.0]]), torch.tensor([-3.0])]) == 7.0


def test_without_a_pull_l2_sp_is_fine_tuning(tiny_bert):
    """Dropout off: both losses then draw nothing."""
    victim, params = without_dropout(victim_of(tiny_bert)), {"epochs": 2, "learning_rate": 1e-3}
    plain = repaired_state("fine-tuning", tiny_bert, victim, **params)
    free = repaired_state("l2-sp", tiny_bert, victim, **params, alpha=0.0, beta=0.0)
    assert all(torch.allclose(plain[name], free[name], atol=1e-6) for name in plain)


def test_a_pull_brings_the_encoder_to_the_pretrained_weights_and_the_head_to_zero(tiny_bert):
    victim, clean = victim_of(tiny_bert), pretrained_weights(tiny_bert, 2)
    params = {"epochs": 60, "learning_rate": 1e-2, "alpha": 100.0, "beta": 100.0}
    after = repaired_state("l2-sp", tiny_bert, victim, **params)
    for name, before in victim.named_parameters():
        target = clean.get(name, torch.zeros(()))
        assert (after[name] - target).norm() < 0.1 * (before - target).norm(), name


# re-initialization


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("params", "parts"),
    [
        ({"layers": 1, "pooler": False}, (".layer.1.",)),
        ({"layers": 9, "pooler": False}, (".layer.0.", ".layer.1.")),
        ({"layers": 0}, (".pooler.",)),
        ({"layers": 1, "head": True}, (".layer.1.", ".pooler.", "HEAD")),
    ],
)
def test_the_top_layers_begin_anew_and_all_else_stays(family, params, parts, tiny_models):
    folder = tiny_models[family]
    victim, clean = victim_of(folder), pretrained_weights(folder, 2)
    after = repaired_state("reinit", folder, victim, **params, learning_rate=0.0)
    for name, before in victim.named_parameters():
        place = name if name in clean else "HEAD"
        if any(part in place for part in parts):
            assert not torch.equal(after[name], before)
            assert name not in clean or torch.equal(after[name], clean[name])
        else:
            assert torch.equal(after[name], before), name


def test_what_is_drawn_is_as_wide_as_the_models_own_initialization(tiny_bert):
    victim = victim_of(tiny_bert)
    params = {"layers": 1, "start": "drawn", "learning_rate": 0.0}
    after = repaired_state("reinit", tiny_bert, victim, **params)
    prefix = "bert.encoder.layer.1."
    assert after[f"{prefix}output.LayerNorm.weight"].tolist() == [1.0] * 32
    assert not after[f"{prefix}output.LayerNorm.bias"].any() and not after[f"{prefix}intermediate.dense.bias"].any()
    matrix = after[f"{prefix}intermediate.dense.weight"]
    assert 0.018 < matrix.std() < 0.022 and abs(matrix.mean()) < 0.002
    below = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(after[below], victim.state_dict()[below])
    assert DEFENSES.get("reinit")(start="drawn").asks_for() == {"clean"}


@pytest.mark.parametrize(("family", "said"), [("albert", "no stack of 2 layers"), ("bart", "more than one stack of 2 layers")])
def test_a_model_without_one_stack_of_layers_is_unfit_for_re_initialization(family, said, tiny_model):
    assert said in DEFENSES.get("reinit")().unfit(classifier(tiny_model(family)))


# magnitude pruning


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, []), (0.25, [3]), (0.5, [1, 3]), (0.75, [1, 2, 3]), (1.0, [0, 1, 2, 3])])
def test_the_weights_of_largest_magnitude_are_kept(ratio, kept):
    assert largest(torch.tensor([[0.0, -2.0], [1.0, 3.0]]), ratio).flatten().nonzero().flatten().tolist() == kept


@pytest.mark.parametrize("frozen", [True, False])
def test_pruned_weights_stay_at_zero_only_if_frozen(frozen, tiny_bert):
    victim = victim_of(tiny_bert)
    params = {"ratio": 0.25, "epochs": 2, "learning_rate": 1e-2, "frozen": frozen}
    after = repaired_state("magnitude-pruning", tiny_bert, victim, **params)
    linear = [name for name, module in victim.bert.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 2 * 6 + 1
    for name in linear:
        before, weight = victim.bert.get_submodule(name).weight, after[f"bert.{name}.weight"]
        zeros = weight == 0
        assert int(zeros.sum()) == (zeros.numel() * 3 // 4 if frozen else 0), name
        assert not frozen or before[zeros].abs().max() < before[~zeros].abs().min()
    for name in ("bert.embeddings.word_embeddings.weight", "classifier.weight"):
        assert (after[name] != 0).all()


def test_the_weights_left_are_trained_as_if_the_pruned_ones_were_not_there(tiny_bert):
    """Against pruning first, at a learning rate of zero, and then a step in which a pruned weight's gradient is left out."""
    victim = without_dropout(victim_of(tiny_bert))
    pruned = classifier(tiny_bert)
    pruned.load_state_dict(repaired_state("magnitude-pruning", tiny_bert, victim, ratio=0.5, learning_rate=0.0, epochs=1))
    without_dropout(pruned)
    params = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 16, "clip": 1e9, "warmup": 0.0}
    after = repaired_state("magnitude-pruning", tiny_bert, victim, ratio=0.5, **params)
    ctx = defense_context(tiny_bert, DEFENSES.get("fine-tuning")())
    inputs, labels = ctx.encode(ctx.clean).batch(torch.arange(16), ctx.device)
    weights = dict(pruned.named_parameters())
    dead = {name: weight == 0 for name, weight in weights.items() if name.startswith("bert.") and (weight == 0).any()}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-2, weight_decay=0.0)
    for factor in (1.0, 2 / 3, 1 / 3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(pruned(**inputs).logits, labels).backward()
        for name, mask in dead.items():
            weights[name].grad[mask] = 0.0
        optimizer.param_groups[0]["lr"] = 1e-2 * factor
        optimizer.step()
    for name in ("bert.encoder.layer.0.intermediate.dense.weight", "bert.encoder.layer.1.output.dense.weight"):
        assert dead[name].float().mean() == 0.5 and torch.allclose(after[name], weights[name], atol=1e-4), name


# Fine-purifying


def test_the_indicator_is_the_squared_move_over_the_damped_curvature():
    delta, curvature = torch.tensor([3.0, 0.0, 2.0, -4.0]), torch.tensor([8.0, 0.0, 0.0, 1.0])
    assert indicator(delta, curvature, 1.0).tolist() == [1.0, 0.0, 4.0, 8.0]
    assert indicator(delta, curvature, 0.0).tolist() == [9 / 8, 0.0, math.inf, 16.0]


def test_fisher_information_is_the_mean_squared_gradient_of_single_rows(tiny_bert):
    """Of the head's bias the gradient is the class's probability, less 1 for the row's own class."""
    victim = victim_of(tiny_bert)
    ctx = defense_context(tiny_bert, DEFENSES.get("fine-purifying")())
    fisher = fisher_information(victim, ctx)
    wrong = ctx.predict(victim, ctx.clean).softmax(dim=1)[torch.arange(16), 1 - torch.tensor(ctx.clean.labels)]
    assert fisher["classifier.bias"].tolist() == pytest.approx([float(wrong.square().mean())] * 2, rel=1e-4)
    assert fisher.keys() == dict(victim.named_parameters()).keys()
    assert all(parameter.grad is None for parameter in victim.parameters())


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_the_weights_of_largest_indicator_are_set_back(ratio, tiny_bert):
    victim, clean = victim_of(tiny_bert), pretrained_weights(tiny_bert, 2)
    part = DEFENSES.get("fine-purifying")(ratio=ratio, learning_rate=0.0)
    suspicion = part.indicators(victim, defense_context(tiny_bert, part))
    after = state(part.repair(victim, defense_context(tiny_bert, part)))
    stays = torch.cat([(after[name] == dict(victim.named_parameters())[name]).flatten() for name in clean])
    back = torch.cat([(after[name] == start).flatten() for name, start in clean.items()])
    of_all = torch.cat([suspicion[name].flatten() for name in clean])
    assert (stays | back).all() and stays.sum() == round(ratio * len(of_all))
    assert not 0 < ratio < 1 or of_all[stays].max() < of_all[back].min()
    assert torch.equal(after["classifier.weight"], victim.classifier.weight)


def test_the_share_that_stays_is_one_of_the_weights_that_moved(tiny_bert):
    """Embeddings are most of the weights. Where none of them moved, a quarter of the others stays all the same."""
    victim, clean = victim_of(tiny_bert), pretrained_weights(tiny_bert, 2)
    weights = dict(victim.named_parameters())
    still = next(name for name in clean if name.endswith("word_embeddings.weight"))
    weights[still].data.copy_(clean[still])
    part = DEFENSES.get("fine-purifying")(ratio=0.25, learning_rate=0.0)
    after = state(part.repair(victim, defense_context(tiny_bert, part)))
    moved = {name: weights[name] != start for name, start in clean.items()}
    stays = sum(int((after[name] == weights[name])[where].sum()) for name, where in moved.items())
    assert stays == round(0.25 * sum(int(where.sum()) for where in moved.values())) > 0


# attention maps and heads


WITH_MAPS = (*FAMILIES, "mpnet", "deberta-v2")
TEXTS = TextSet(("the film was good", "bad plot"), None, np.array([1, 0]))


@pytest.mark.parametrize("family", WITH_MAPS)
def test_maps_are_rows_of_shares_without_padding_and_leave_the_victim_as_it_was(family, tiny_model):
    folder = tiny_model(family)
    victim = victim_of(folder)
    before = victim.config._attn_implementation
    ctx = defense_context(folder, DEFENSES.get("pure")())
    rows = ctx.encode(TEXTS)
    inputs, _ = rows.batch(torch.arange(2), ctx.device)
    with torch.no_grad():
        maps = with_maps(victim)(**inputs, output_attentions=True).attentions
    pieces = inputs["input_ids"].shape[1]
    assert [layer.shape for layer in maps] == [(2, 2, pieces, pieces)] * 2
    assert all(torch.allclose(layer.sum(dim=3), torch.ones(())) for layer in maps)
    real = inputs["attention_mask"][1] == 1
    assert not real.all() and not any(layer[1][:, real][:, :, ~real].any() for layer in maps)
    assert cls_rows(maps).shape == (2, 2, 2, pieces) and torch.equal(cls_rows(maps)[:, 1], maps[1][:, :, 0])
    assert victim.config._attn_implementation == before
    assert not [module for module in victim.modules() if module._forward_hooks]


@pytest.mark.parametrize("family", WITH_MAPS)
def test_a_pruned_head_says_nothing_and_the_others_say_what_they_said(family, tiny_model):
    folder = tiny_model(family)
    victim = victim_of(folder)
    pruned = without_heads(victim, [(1, 0)])
    said = []
    for model in (victim, pruned):
        layer = attention_layers(model)[1]
        handle = layer.output.register_forward_pre_hook(lambda module, arguments: said.append(arguments[0]))
        with torch.no_grad():
            model(torch.tensor([[2, 6, 7, 8, 3]]))
        handle.remove()
    assert not said[1][..., :16].any() and said[0][..., :16].any()
    assert torch.equal(said[1][..., 16:], said[0][..., 16:])
    assert not attention_layers(pruned)[1].output.weight[:, :16].any()


@pytest.mark.parametrize(
    ("family", "said"),
    [("albert", "no stack"), ("gpt2", "no attention"), ("longformer", "no attention"), ("bart", "more than one stack")],
)
def test_a_model_without_known_maps_is_unfit(family, said, tiny_model):
    model = classifier(tiny_model(family))
    for part in (DEFENSES.get("pure")(), DEFENSES.get("mbtsad")(), DEFENSES.get("nad")(maps="attention")):
        assert said in part.unfit(model)
    assert (DEFENSES.get("nad")().unfit(model) is None) == (family in ("gpt2", "longformer"))


@pytest.mark.parametrize(("name", "params"), [("nad", {"maps": "attention"}), ("nad", {}), ("mbtsad", {}), ("pure", {})])
def test_what_a_repair_by_states_returns_has_no_hooks_and_its_usual_attention(name, params, tiny_bert):
    part = DEFENSES.get(name).build({"epochs": 1, **params})
    repaired = part.repair(victim_of(tiny_bert), defense_context(tiny_bert, part))
    assert not [module for module in repaired.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert repaired.config._attn_implementation == "sdpa"


# distillation: NAD and MBTSAD


def test_maps_differ_by_the_squared_distance_of_their_rows():
    """Two heads, two pieces: the rows of the first head are 2 and 0 apart, those of the second 0 and 1 / 2."""
    student = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]]]])
    teacher = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]])
    assert map_distance(student, teacher, torch.tensor([[1, 1]])) == (1 + 1 / 4) / 2
    assert map_distance(student, teacher, torch.tensor([[1, 0]])) == 1


def test_states_differ_by_the_mean_squared_difference_of_the_real_pieces():
    """Of three real pieces of two texts: 1 and 9 over a width of 2, then 4 and 0, then nothing."""
    student = torch.tensor([[[1.0, 3.0], [2.0, 0.0]], [[0.0, 0.0], [9.0, 9.0]]])
    assert state_distance(student, torch.zeros(2, 2, 2), torch.tensor([[1, 1], [1, 0]])) == pytest.approx((5 + 2 + 0) / 3)


def test_an_energy_map_is_the_normed_sum_of_powers_without_padding():
    states = torch.tensor([[[1.0, -2.0], [-4.0, 0.0], [7.0, 7.0]]])
    real = torch.tensor([[1, 1, 0]])
    assert energy_map(states, 1.0, real).flatten().tolist() == pytest.approx([3 / 5, 4 / 5, 0.0])
    assert energy_map(states, 2.0, real).flatten().tolist() == pytest.approx([5 / 281**0.5, 16 / 281**0.5, 0.0])


def test_energies_differ_by_the_squared_distance_of_the_maps():
    """The first texts' maps are (1, 0) and (0, 1), the second texts' are alike whatever their length."""
    student = torch.tensor([[[3.0], [0.0]], [[1.0], [1.0]]])
    teacher = torch.tensor([[[0.0], [5.0]], [[7.0], [7.0]]])
    assert energy_distance(student, teacher, 2.0, torch.ones(2, 2)) == 1.0


@pytest.mark.parametrize("maps", ["hidden", "attention"])
def test_nad_brings_the_student_nearer_to_the_teacher(maps, tiny_bert):
    """The teacher is the victim after the same fine-tuning, which draws its seed first."""
    victim, params = without_dropout(victim_of(tiny_bert)), {"epochs": 8, "learning_rate": 3e-3, "batch_size": 4}
    ctx = defense_context(tiny_bert, DEFENSES.get("fine-tuning")())
    inputs, _ = ctx.encode(ctx.clean).batch(torch.arange(16), ctx.device)

    def states_after(name, **more):
        model = classifier(tiny_bert)
        model.load_state_dict(repaired_state(name, tiny_bert, victim, **params, **more))
        with torch.no_grad():
            output = with_maps(model)(**inputs, output_attentions=True, output_hidden_states=True)
        return output.attentions if maps == "attention" else output.hidden_states[1:]

    def apart(student, teacher):
        real = inputs["attention_mask"]
        if maps == "attention":
            return sum(float(map_distance(*layer, real)) for layer in zip(student, teacher, strict=True))
        return sum(float(energy_distance(*layer, 2.0, real)) for layer in zip(student, teacher, strict=True))

    teacher = states_after("fine-tuning")
    alone, pulled = (apart(states_after("nad", maps=maps, beta=beta), teacher) for beta in (0.0, 100.0))
    assert pulled < alone / 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [("of", "o f"), ("a of  b", "a o f  b"), ("", ""), ("a b", "a b")],
)
def test_every_word_is_split_where_there_is_but_one_place(text, parts):
    assert split_words(text, 1.0, np.random.default_rng(0)) == parts


def test_words_are_split_at_any_place_and_the_given_share_of_them():
    draws = np.random.default_rng(0)
    found = {split_words("beauty", 1.0, draws) for _ in range(200)}
    assert found == {"b eauty", "be auty", "bea uty", "beau ty", "beaut y"}
    text = " ".join(["film"] * 1000)
    assert split_words(text, 0.0, draws) == text
    halves = split_words(text, 0.25, draws).split()
    assert 1200 < len(halves) < 1300 and "".join(halves) == "film" * 1000


def test_both_texts_of_a_pair_are_split():
    rows = split_rows(TextSet(("is it",), ("it is",), np.array([1])), 1.0, np.random.default_rng(0))
    assert rows.texts == [("i s i t", "i t i s")] and rows.labels.tolist() == [1]


@pytest.mark.parametrize("changed", [{"split": 0.0}, {"attention": 0.0}, {"hidden": 0.0}])
def test_the_split_and_both_pulls_change_what_mbtsad_gives(changed, tiny_bert):
    victim, params = victim_of(tiny_bert), {"epochs": 2, "learning_rate": 1e-3}
    usual = repaired_state("mbtsad", tiny_bert, victim, **params)
    other = repaired_state("mbtsad", tiny_bert, victim, **params, **changed)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert (usual[name] - other[name]).abs().max() > 1e-4


# PURE


def test_the_variance_of_an_attention_row_leaves_padding_out():
    """Of 1/2, 1/4 and 1/4 around 1/3: (1/36 + 2/144) / 2. The second text has two pieces: 1 and 0."""
    attention = torch.tensor([[[[0.5, 0.25, 0.25, 0.0]]], [[[1.0, 0.0, 0.0, 0.0]]]])
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    assert row_variances(attention, real).flatten().tolist() == pytest.approx([1 / 48, 1 / 2])


def test_a_layer_of_little_variance_weighs_most():
    """Means of 1, 2 and 4, since the first layer's second head is pruned: 4/7, 2/7 and 1/7, scaled to [0, 1]."""
    variances = torch.tensor([[1.0, 9.0], [1.0, 3.0], [4.0, 4.0]])
    left = torch.tensor([[True, False], [True, True], [True, True]])
    assert layer_coefficients(variances, left).tolist() == pytest.approx([1.0, 1 / 3, 0.0])
    assert layer_coefficients(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool)).tolist() == [1.0, 1.0]


def test_the_norm_of_attention_is_over_the_batch_and_the_pieces():
    attention = torch.tensor([[[[3.0, 0.0], [1.0, 1.0]]], [[[0.0, 4.0], [1.0, 1.0]]]])
    assert cls_norms(attention).tolist() == [[5.0, 2.0]]


@pytest.mark.parametrize(
    ("most", "asked", "pruned"),
    [
        (3, [2, 3], [(0, 1), (1, 0), (2, 0)]),
        (2, [2, 3], [(0, 1), (1, 0)]),
        (1, [2, 1], [(0, 1)]),
        (0, [2, 1], []),
    ],
)
def test_heads_are_pruned_in_groups_and_put_back_one_by_one(most, asked, pruned):
    """By variance: (0, 1), (1, 0), then (0, 0) and (1, 1), the last of their layers, (2, 0), and (2, 1), the last of its."""
    variances, sizes = torch.tensor([[3.0, 1.0], [2.0, 4.0], [5.0, 6.0]]), []

    def is_accurate(heads):
        sizes.append(len(heads))
        return len(heads) <= most

    assert heads_to_prune(variances, 2, is_accurate) == pruned and sizes == asked


def test_pure_prunes_by_variance_and_the_heads_stay_at_zero(tiny_bert):
    victim = victim_of(tiny_bert)
    part = DEFENSES.get("pure")(tolerance=1.0, epochs=3, learning_rate=1e-2)
    ctx = defense_context(tiny_bert, part)
    repaired = part.repair(victim, ctx)
    assert ctx.notes["heads"] == 4 and len(ctx.notes["pruned"]) == 2  # one of each layer
    for layer, head in ctx.notes["pruned"]:
        pruned = attention_layers(repaired)[layer]
        own, other = slice(16 * head, 16 * head + 16), slice(16 - 16 * head, 32 - 16 * head)
        assert (
            not pruned.value.weight[own].any() and not pruned.value.bias[own].any() and not pruned.output.weight[:, own].any()
        )
        assert pruned.value.weight[other].all()


@pytest.mark.parametrize(("tolerance", "pruned"), [(0.05, 0), (0.1, 1), (0.3, 2)])
def test_pure_prunes_as_long_as_the_accuracy_on_validation_rows_holds(tolerance, pruned, tiny_bert):
    """Of 12 validation rows 9, 8 and 6 are right with 0, 1 and 2 heads pruned."""
    part = DEFENSES.get("pure")(tolerance=tolerance)
    ctx = defense_context(tiny_bert, part)

    def accuracy(model, rows):
        heads = [layer.output.weight[:, 16 * head : 16 * head + 16] for layer in attention_layers(model) for head in (0, 1)]
        return (9 / 12, 8 / 12, 6 / 12)[sum(not head.any() for head in heads)]

    counting = SimpleNamespace(
        encode=ctx.encode, validation=ctx.validation, device=ctx.device, notes=ctx.notes, accuracy=accuracy
    )
    assert len(part.choose_heads(victim_of(tiny_bert), counting)) == pruned
    assert (ctx.notes["accuracy"], len(ctx.notes["pruned"])) == (9 / 12, pruned)
