"""What the plan finds out about a model before anything is trained."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bdbench.data import TextSet
from bdbench.engine.classifiers import declared_positions, load_classifier, pretrained_classifier
from bdbench.engine.encoding import encode
from bdbench.engine.neurons import feed_forward_blocks, mean_activations
from bdbench.engine.probe import probe
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.errors import UsageError
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.presets import PRESETS
from bdbench.protocol.cells import run_cell
from bdbench.protocol.victims import make_victim
from bdbench.registry import DEFENSES
from bdbench.testing.tiny_models import sentences

CPU = torch.device("cpu")


def probed(folder, max_length=32, precision="fp32", paired=False):
    return probe(folder, 2, max_length=max_length, paired=paired, precision=precision, device=CPU)


def changed(folder, tmp_path, file="config.json", **values):
    """A copy of a model whose JSON file has other values."""
    copied = shutil.copytree(folder, tmp_path / "model")
    (copied / file).write_text(json.dumps(json.loads((copied / file).read_text()) | values))
    return copied


@pytest.mark.parametrize("family", ["bert", "albert", "deberta-v2", "modernbert", "gpt2", "bart", "llama"])
def test_a_model_that_can_be_trained_passes_on_texts_and_pairs(family, tiny_model):
    for paired in (False, True):
        assert probed(tiny_model(family), precision="bf16", paired=paired).precision == "bf16"


@pytest.mark.parametrize("family", ["mpnet", "roberta", "longformer"])
def test_positions_counted_from_an_offset_are_found_by_trying(family, tiny_model):
    probed(tiny_model(family), max_length=64)
    for too_long in (65, 5000):
        with pytest.raises(UsageError, match=rf"--max-length {too_long} is outside \[8, 64\].* at most 64 word pieces"):
            probed(tiny_model(family), max_length=too_long)


@pytest.mark.parametrize("limit", [None, -1])
def test_a_model_without_a_limit_takes_any_length(limit, tiny_model, tmp_path):
    folder = changed(tiny_model("bloom"), tmp_path, max_position_embeddings=limit)
    probed(folder, max_length=100)
    assert declared_positions(folder) is None and declared_positions(tiny_model("xlnet")) is None


@pytest.mark.parametrize("family", ["xlnet", "fnet", "nystromformer"])
def test_a_model_that_looks_at_padding_is_refused(family, tiny_model):
    with pytest.raises(UsageError, match=f"padding changes the logits of this '{family}' model"):
        probed(tiny_model(family))


def test_a_padding_number_of_another_piece_is_refused_and_a_missing_one_is_filled_in(tiny_model, tmp_path):
    wrong = changed(tiny_model("llama"), tmp_path / "wrong", pad_token_id=9)
    with pytest.raises(UsageError, match="pad_token_id 9, the tokenizer pads with 0"):
        probed(wrong)
    missing = changed(tiny_model("gpt2"), tmp_path / "missing", pad_token_id=None)
    assert load_classifier(missing, 2)[0].config.pad_token_id == load_tokenizer(missing).pad_token_id
    assert probed(missing).precision == "fp32"


def test_a_model_that_overflows_in_bf16_is_computed_in_fp32(tiny_model):
    found = probed(tiny_model("deberta"), precision="bf16")
    assert found.precision == "fp32" and "BFloat16" in found.why_not_asked
    assert probed(tiny_model("deberta"), precision="fp32").why_not_asked is None


def test_a_model_that_gives_nan_is_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["pooler.dense.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="NaN"):
        probed(folder)


def test_a_piece_without_a_word_embedding_is_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    tokenizer = load_tokenizer(tiny_bert)
    (folder / "added_tokens.json").write_text(json.dumps({"[NEW]": len(tokenizer)}))
    with pytest.raises(UsageError, match=rf"'\[NEW\]' with number {len(tokenizer)}.*resize_token_embeddings"):
        probed(folder)


def test_the_probe_leaves_the_process_as_it_was(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "unseen")
    before = torch.random.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    weights = {name: weight.clone() for name, weight in pretrained_classifier(tiny_bert, 2).named_parameters()}
    probed(folder)
    probed(tiny_bert, max_length=16)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1:] == (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    assert all(torch.equal(weights[name], now) for name, now in pretrained_classifier(tiny_bert, 2).named_parameters())


def selection(folder, data, **values):
    sizes = {"train_rows": 20, "validation_rows": 10, "test_rows": 10, "clean_rows": 8, "max_length": 32}
    return PRESETS["laptop"].select(
        {"model": str(folder), "data": str(data), "tasks": ("sst2",), "attacks": ("none",), "seeds": (0,), **sizes, **values}
    )


def test_the_plan_says_that_it_computes_in_fp32_and_the_key_knows(tiny_model, data_dir):
    planned = plan(selection(tiny_model("deberta"), data_dir, defenses=("none",), precision="bf16"), "cpu")
    assert {victim.precision for victim in planned.victims} == {"fp32"}
    (said,) = [warning for warning in planned.warnings if "bf16" in warning]
    assert "computed in fp32" in said and "\n" not in said


def test_a_defense_without_its_blocks_is_skipped_and_said_before_and_alone_refused(tiny_model, data_dir):
    folder = tiny_model("squeezebert")
    pruned, mixed = "fine-pruning", "fine-mixing[select=activation]"
    with pytest.raises(UsageError, match="no feed-forward block"):
        plan(selection(folder, data_dir, defenses=(pruned, mixed)), "cpu")
    planned = plan(selection(folder, data_dir, defenses=("none", "fine-mixing", pruned)), "cpu")
    assert [warning for warning in planned.warnings if "fine-pruning is skipped" in warning]
    site, spec = site_for(planned, device="cpu"), planned.cells[-1]
    record, predictions = run_cell(spec, make_victim(spec.victim, site), site)
    assert (record.status, predictions) == ("skipped", None) and "no feed-forward block" in record.error


# Family -> the layers that come behind the neurons, how many rows of incoming weights a neuron has, and the neurons.
NEURONS = {
    "bert": (2, 1, 64),
    "albert": (1, 1, 64),  # its layers share one block
    "modernbert": (2, 2, 64),
    "bart": (4, 1, 64),  # encoder and decoder
    "gpt2": (2, 1, 128),
    "t5": (4, 1, 64),
    "mt5": (4, 2, 64),
    "deberta": (2, 1, 64),
    "mpnet": (2, 1, 64),
    "xlnet": (2, 1, 64),
    "opt": (2, 1, 64),
    "llama": (2, 2, 64),
    "phi3": (2, 2, 64),
    "nomic_bert": (2, 2, 64),
    "bloom": (2, 1, 128),
    "gptj": (2, 1, 128),
    "xlm": (2, 1, 128),
}


@pytest.mark.parametrize("family", NEURONS)
def test_pruning_silences_just_the_chosen_neurons_of_every_family(family, tiny_model):
    """What comes out of every block is what its outgoing layer makes of the activations, the chosen ones replaced by zero."""
    folder = tiny_model(family)
    torch.manual_seed(0)
    model, _ = load_classifier(folder, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # biases, too, are no zeros
    frame = sentences(3, seed=5)
    rows = encode(load_tokenizer(folder), TextSet(tuple(frame["sentence"]), None, frame["label"].to_numpy()), 32)
    blocks = feed_forward_blocks(model)
    count, rows_in, neurons = NEURONS[family]
    assert [block.neurons for block in blocks] == [neurons] * count
    chosen = torch.arange(neurons) % 3 == 0
    inputs = rows.batch(torch.arange(3), CPU)[0]

    def activations():
        seen = []
        handles = [block.reader.register_forward_hook(lambda _, given, out: seen.append(given[0].clone())) for block in blocks]
        with torch.no_grad():
            model(**inputs)
        for handle in handles:
            handle.remove()
        return seen

    before = activations()
    assert all((activation[..., chosen] != 0).any() for activation in before)
    for block in blocks:
        weights = [part for part in block.incoming if part.parameter.dim() > 1]
        assert sum(part.copies for part in weights) == rows_in
        for part in block.incoming:
            part.zero(chosen)
    after = activations()
    assert all((activation[..., chosen] == 0).all() and (activation[..., ~chosen] != 0).any() for activation in after)
    assert torch.equal(after[0][..., ~chosen], before[0][..., ~chosen])  # the first block has the same input as before
    kept = [(part.mask(~chosen) & (part.parameter != 0)).sum() for block in blocks for part in block.incoming]
    assert all(int(part) for part in kept)


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "opt", "albert", "llama", "xlnet", "modernbert"])
def test_activations_are_those_of_the_texts_one_by_one(family, tiny_model):
    """The mean over the pieces of a padded batch, and over the layers that share a block, is that of each text alone."""
    folder = tiny_model(family)
    model, _ = load_classifier(folder, 2)
    frame = sentences(4, seed=5)
    rows = encode(load_tokenizer(folder), TextSet(tuple(frame["sentence"]), None, frame["label"].to_numpy()), 32)
    blocks = feed_forward_blocks(model)
    sums, pieces = [torch.zeros(block.neurons) for block in blocks], [0] * len(blocks)

    def add(i):
        def hook(module, given):
            sums[i] += given[0].flatten(0, -2).abs().sum(0)
            pieces[i] += given[0].flatten(0, -2).shape[0]

        return hook

    handles = [block.reader.register_forward_pre_hook(add(i)) for i, block in enumerate(blocks)]
    with torch.no_grad():
        for i in range(4):
            model(**rows.batch(torch.tensor([i]), CPU)[0])
    for handle in handles:
        handle.remove()
    for found, total, count in zip(mean_activations(model, rows, CPU), sums, pieces, strict=True):
        assert torch.allclose(found, total / count, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in DEFENSES.names() if not DEFENSES.get(name).unchanged])
def test_every_defense_says_of_a_usual_model_that_it_fits(name, tiny_bert):
    assert DEFENSES.get(name)().unfit(pretrained_classifier(tiny_bert, 2)) is None
