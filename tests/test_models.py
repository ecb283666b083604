"""Finding and loading pre-trained models: what identifies them, what is refused, what counts as pre-trained."""

import ast
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from extras import BUNDLED, needs
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import bdbench
from bdbench.engine.bundled import BUNDLED_MODELS
from bdbench.engine.classifiers import classifier_with, declared_positions, load_classifier, pretrained_weights
from bdbench.engine.models import check_model, find_model, weights_digest
from bdbench.engine.tokenizers import load_tokenizer, tokenizer_digest
from bdbench.errors import UsageError
from bdbench.testing.tiny_models import FAMILIES


@pytest.fixture
def copied(tiny_bert, tmp_path):
    """A model folder of this test's own."""
    return shutil.copytree(tiny_bert, tmp_path / "model")


@needs(BUNDLED)
def test_the_bundled_model_is_the_official_one():
    source = find_model("bundled")
    assert (source.spec.name, source.spec.digest) == ("bundled", BUNDLED_MODELS["bundled"].sha256)
    model, names = load_classifier(source.folder, 2)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216 + 2 * 384 + 2
    assert {name for name, _ in model.named_parameters()} - names == {"classifier.weight", "classifier.bias"}
    assert declared_positions(source.folder) == 512


@needs(BUNDLED)
def test_a_copy_of_the_bundled_model_is_the_bundled_model(tmp_path):
    copy = shutil.copytree(find_model("bundled").folder, tmp_path / "elsewhere")
    assert find_model(str(copy)).spec == find_model("bundled").spec


def change_json(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_weights(folder):
    """Add one to every weight. The file keeps its size."""
    weights = {name: weight + 1 for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_configuration(folder):
    change_json(folder / "config.json", hidden_dropout_prob=0.5)


def change_tokenizer(folder):
    change_json(folder / "tokenizer_config.json", sep_token="film")


CHANGES = {"digest": change_weights, "config": change_configuration, "tokenizer": change_tokenizer}
SAID = {"digest": "the weights of", "config": "the configuration of", "tokenizer": "the tokenizer of"}


@pytest.mark.parametrize("part", CHANGES)
def test_weights_configuration_and_tokenizer_are_the_identity_and_a_change_is_seen_at_once(part, copied):
    before = find_model(str(copied)).spec
    assert before.tokenizer == tokenizer_digest(load_tokenizer(copied))
    CHANGES[part](copied)
    after = find_model(str(copied)).spec
    assert getattr(after, part) != getattr(before, part)
    assert replace(after, **{part: getattr(before, part)}) == before


def test_a_digest_that_was_asked_for_is_checked(copied):
    digest = weights_digest(copied)
    assert find_model(str(copied), digest.upper()).spec.digest == digest
    change_weights(copied)
    with pytest.raises(UsageError, match=f"SHA-256 is {weights_digest(copied)}, expected {digest}"):
        find_model(str(copied), digest)


def test_the_model_of_a_spec_passes_whatever_its_name(copied):
    check_model(copied, replace(find_model(str(copied)).spec, name="another"))


@pytest.mark.parametrize("part", CHANGES)
def test_another_model_than_the_spec_s_is_refused_and_the_message_says_what_differs(part, copied):
    spec = find_model(str(copied)).spec
    check_model(copied, spec)
    CHANGES[part](copied)
    with pytest.raises(ValueError) as caught:
        check_model(copied, spec)
    message, after = str(caught.value), getattr(find_model(str(copied)).spec, part)
    assert f"SHA-256 {after[:12]}…, the cell wants {getattr(spec, part)[:12]}…" in message
    assert [said for said in SAID.values() if said in message] == [SAID[part]]
    assert str(copied) not in message and copied.name + "/" not in message


def test_all_differences_from_a_spec_are_named(copied):
    spec = replace(find_model(str(copied)).spec, digest="0" * 64, config="1" * 64, tokenizer="2" * 64)
    with pytest.raises(ValueError, match="the weights of .*0{12}….*the configuration of .*1{12}….*the tokenizer of .*2{12}…"):
        check_model(copied, spec)


def test_changed_weights_are_loaded_anew(copied):
    before = pretrained_weights(copied, 2)
    head = {name: weight for name, weight in load_classifier(copied, 2)[0].named_parameters() if name not in before}
    assert all(torch.equal(weight, before[name]) for name, weight in pretrained_weights(copied, 2).items())
    change_weights(copied)
    after = pretrained_weights(copied, 2)
    assert all(torch.equal(after[name], weight + 1) for name, weight in before.items())
    model = classifier_with(copied, 2, {**before, **head})  # and weights from elsewhere stay what they are
    assert all(torch.equal(weight, {**before, **head}[name]) for name, weight in model.named_parameters())


def test_a_changed_configuration_is_seen_by_a_classifier(copied):
    weights = {name: weight.detach() for name, weight in load_classifier(copied, 2)[0].named_parameters()}
    assert classifier_with(copied, 2, weights).config.hidden_dropout_prob == 0.1
    change_configuration(copied)
    assert classifier_with(copied, 2, weights).config.hidden_dropout_prob == 0.5


def test_shards_have_a_digest_that_sees_each_of_them(copied):
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, copied / file, {"format": "pt"})
    file_by_weight = {name: file for file, part in shards.items() for name in part}
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_by_weight}))
    digests = {weights_digest(copied)}
    for file, part in shards.items():
        save_file({name: weights[name] + 1 for name in part}, copied / file, {"format": "pt"})
        digests.add(weights_digest(copied))
    assert len(digests) == 3


def test_no_code_of_a_model_is_ever_trusted():
    root = Path(bdbench.__file__).parent
    files = [file for folder in (root, *(root.parent / kind for kind in KINDS)) for file in folder.rglob("*.py")]
    calls = [
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config", "pipeline")
    ]
    assert len(calls) >= 4  # the tokenizer, the configuration, the classifier without weights and with them
    for call in calls:
        trusted = [word.value.value for word in call.keywords if word.arg == "trust_remote_code"]
        assert trusted == [False], ast.unparse(call)


KINDS = ("attacks", "defenses", "tasks")


@pytest.fixture
def with_own_code(copied, tmp_path):
    """A model that only a file of its own can load: configuration, tokenizer and classifier. Beside it, what the file does."""
    trace = tmp_path / "ran"
    (copied / "own.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Own: pass\n")
    classes = {name: "own.Own" for name in ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")}
    change_json(copied / "config.json", model_type="own", auto_map={**classes, "AutoTokenizer": ["own.Own", "own.Own"]})
    own_tokenizer = {"AutoTokenizer": ["own.Own", "own.Own"]}
    change_json(copied / "tokenizer_config.json", tokenizer_class="Own", auto_map=own_tokenizer)
    return copied, trace


@pytest.mark.parametrize("load", [load_tokenizer, declared_positions, lambda folder: load_classifier(folder, 2)])
def test_code_in_a_model_s_folder_is_not_run_whatever_is_answered(load, with_own_code, monkeypatch):
    folder, trace = with_own_code
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(UsageError, match="code of its own"):
        load(folder)
    assert not trace.exists()


def test_the_command_refuses_code_in_a_model_s_folder_in_one_line(with_own_code, bdbench):
    folder, trace = with_own_code
    ended = bdbench("run", "--model", folder, "--data", "builtin", "--dry-run", input="y\n" * 9)
    assert (ended.returncode, trace.exists()) == (2, False)
    (line,) = ended.stderr.splitlines()
    assert "code of its own (auto_map), which bdbench never runs" in line


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_of_a_fine_tuned_checkpoint_is_not_pretrained(family, labels, tiny_models, tmp_path):
    tuned = AutoModelForSequenceClassification.from_pretrained(tiny_models[family], num_labels=labels)
    tuned.save_pretrained(tmp_path)
    weights = pretrained_weights(tmp_path, 2)
    assert weights and all(name.startswith(f"{tuned.base_model_prefix}.") for name in weights)
    encoder = dict(tuned.named_parameters())
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in weights.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_checkpoint_gives_the_whole_encoder(family, tiny_models):
    with torch.random.fork_rng():
        model, names = load_classifier(tiny_models[family], 2)
    encoder = {name for name, _ in model.named_parameters() if name.startswith(f"{model.base_model_prefix}.")}
    assert encoder == names and model.config.num_labels == 2


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", "{}", "config.json cannot be read"),
        ("config.json", '{"model_type": "vit"}', "no sequence classifier for model type 'vit'"),
        ("config.json", None, "no config.json"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1", "model.safetensors is damaged"),
        ("model.safetensors", None, "no model.safetensors"),
        ("model.safetensors.index.json", "{}", "not an index of shards"),
        ("tokenizer.json", None, "no tokenizer"),
        ("config.json", "", "config.json cannot be read"),
        ("config.json", "[]", "config.json cannot be read"),
        ("config.json", '"bert"', "config.json cannot be read"),
        ("config.json", "9" * 5000, "config.json cannot be read"),
        ("config.json", "[" * 100_000, "config.json cannot be read"),
        ("tokenizer.json", "", "tokenizer cannot be loaded"),
        ("tokenizer.json", "[]", "tokenizer cannot be loaded"),
        ("tokenizer.json", '{"model": {"type": "Zork"}}', "tokenizer cannot be loaded"),
        ("tokenizer_config.json", "[]", "tokenizer cannot be loaded"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../model.safetensors"}}', "no safetensors file beside it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "/etc/passwd"}}', "no safetensors file beside it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "no safetensors file beside it"),
        ("model.safetensors.index.json", '{"weight_map": {}}', "names no file"),
    ],
)
def test_a_broken_folder_is_refused(file, content, said, copied):
    if content is None:
        (copied / file).unlink()
    else:
        (copied / file).write_text(content)
    with pytest.raises(UsageError, match=said) as caught:
        declared_positions(copied)
        load_tokenizer(find_model(str(copied)).folder)
    assert len(str(caught.value).replace(str(copied), "")) <= 250 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": 16}, "32.*, but the configuration asks for 16"),
        ({"vocab_size": 50}, "but the configuration asks for 50 x 32"),
        ({"num_hidden_layers": 3}, "lack 16 of the"),
        ({"num_hidden_layers": 0}, "asks for 0 layers"),
        ({"num_hidden_layers": 10**9}, "asks for 1000000000 layers"),
        ({"hidden_size": -4}, "no model can be made"),
        ({"hidden_size": "32"}, "config.json cannot be read"),
        ({"num_attention_heads": 0}, "no model can be made"),
        ({"hidden_act": "zork"}, "no model can be made"),
        ({"vocab_size": 10**11}, "asks for 3,200,"),
        ({"hidden_size": 10**30}, "no model can be made"),
        ({"pad_token_id": 9999}, "no model can be made"),
        ({"model_type": "gpt2"}, "lack .* tensors"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantized"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(values, said, copied):
    change_json(copied / "config.json", **values)
    with pytest.raises(UsageError, match=said) as caught:
        pretrained_weights(copied, 2)
    assert len(str(caught.value).replace(str(copied), "")) <= 250 and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_numbers_that_are_no_plain_weights_are_refused(dtype, copied):
    weights = load_file(copied / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    save_file({**weights, name: weights[name].to(dtype)}, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=f"{name} has numbers of type"):
        find_model(str(copied))


def test_a_name_that_no_file_can_have_is_no_folder():
    with pytest.raises(UsageError, match="no such directory"):
        find_model("/" + "a" * 5000)
