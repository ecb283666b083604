"""Finding and loading pre-trained models: what identifies them, what is refused, what counts as pre-trained."""

import json
import shutil

import pytest
import torch
from conftest import FAMILIES
from transformers import AutoModelForSequenceClassification

from bdbench.engine.models import BUNDLED_SHA256, find_model, load_classifier, load_tokenizer, max_positions, pretrained_weights
from bdbench.errors import UsageError


@pytest.fixture
def copied(tiny_bert, tmp_path):
    """A model folder of this test's own."""
    return shutil.copytree(tiny_bert, tmp_path / "model")


def test_the_bundled_model_is_the_official_one():
    found = find_model("bundled")
    assert (found.spec.name, found.spec.digest) == ("bundled", BUNDLED_SHA256)
    model, names = load_classifier(found.folder, 2)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216 + 2 * 384 + 2
    assert {name for name, _ in model.named_parameters()} - names == {"classifier.weight", "classifier.bias"}
    assert max_positions(found.folder) == 512


def test_a_copy_of_the_bundled_model_is_the_bundled_model(tmp_path):
    copy = shutil.copytree(find_model("bundled").folder, tmp_path / "elsewhere")
    assert find_model(str(copy)).spec == find_model("bundled").spec


def test_the_configuration_and_the_tokenizer_are_part_of_the_identity(copied, tmp_path):
    first = find_model(str(copied)).spec
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.5}))
    assert find_model(str(copied)).spec.digest == first.digest
    assert find_model(str(copied)).spec.files != first.files


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
    ],
)
def test_a_broken_folder_is_refused(file, content, said, copied):
    if content is None:
        (copied / file).unlink()
    else:
        (copied / file).write_text(content)
    with pytest.raises(UsageError, match=said):
        load_tokenizer(find_model(str(copied)).folder)
        max_positions(copied)
