"""What identifies a tokenizer, and that a changed one is seen."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from extras import BUNDLED, skip_without

from bdbench.attacks.base import check_phrases
from bdbench.data import TextSet
from bdbench.engine.encoding import encode
from bdbench.engine.models import find_model
from bdbench.engine.tokenizers import folder_tokenizer_digest, load_tokenizer, tokenizer_digest
from bdbench.errors import UsageError

TEXTS = TextSet(("the film was good", "xyzzy is a bad plot"), None, np.array([1, 0]))


@pytest.fixture
def copied(tiny_bert, tmp_path):
    """A model folder of this test's own."""
    return shutil.copytree(tiny_bert, tmp_path / "model")


@pytest.fixture
def bundled_tokenizer(tmp_path):
    """The files of the bundled model but its weights, in a folder of this test's own."""
    skip_without(BUNDLED)
    return shutil.copytree(find_model("bundled").folder, tmp_path / "bundled", ignore=shutil.ignore_patterns("*.safetensors"))


def change_json(file, **values):
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | values))


def lower_casing_off(folder):
    change_json(folder / "tokenizer.json", normalizer=None)


def other_vocabulary(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def added_token(folder):
    change_json(folder / "added_tokens.json", xyzzy=len(load_tokenizer(folder)))


def added_token_in_the_configuration(folder):
    token = {"content": "xyzzy", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False}
    place = str(len(load_tokenizer(folder)))
    change_json(folder / "tokenizer_config.json", added_tokens_decoder={place: token})


def other_special_token(folder):
    change_json(folder / "tokenizer_config.json", sep_token="film")


def special_tokens_in_other_roles(folder):
    change_json(folder / "tokenizer_config.json", sep_token="[CLS]", cls_token="[SEP]")


def special_token_in_a_file_of_its_own(folder):
    change_json(folder / "special_tokens_map.json", sep_token="film")


def other_padding(folder):
    change_json(folder / "tokenizer_config.json", pad_token="[MASK]")


def no_token_types(folder):
    change_json(folder / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])


def cut_on_the_left(folder):
    change_json(folder / "tokenizer_config.json", truncation_side="left")


def special_tokens_in_texts_split(folder):
    change_json(folder / "tokenizer_config.json", split_special_tokens=True)


CHANGES = [
    lower_casing_off,
    other_vocabulary,
    added_token,
    added_token_in_the_configuration,
    other_special_token,
    special_tokens_in_other_roles,
    special_token_in_a_file_of_its_own,
    other_padding,
    no_token_types,
    cut_on_the_left,
    special_tokens_in_texts_split,
]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_tokenizer_changes_its_digest_and_is_seen_at_once(change, copied):
    before, tokenizer = folder_tokenizer_digest(copied), load_tokenizer(copied)
    assert load_tokenizer(copied) is tokenizer  # read once, as long as nothing changes
    change(copied)
    assert load_tokenizer(copied) is not tokenizer
    assert folder_tokenizer_digest(copied) == tokenizer_digest(load_tokenizer(copied)) != before


def test_a_phrase_is_refused_where_texts_are_cut_at_their_beginning(copied):
    check_phrases("badnets-word.trigger_text", ["film"], 1, load_tokenizer(copied), 32)
    cut_on_the_left(copied)
    with pytest.raises(
        UsageError, match='badnets-word: .* cuts a long text at its beginning.*set "truncation_side" to "right"'
    ):
        check_phrases("badnets-word.trigger_text", ["film"], 1, load_tokenizer(copied), 32)


def test_the_lower_casing_option_is_part_of_the_digest(bundled_tokenizer):
    before = folder_tokenizer_digest(bundled_tokenizer)
    assert before == find_model("bundled").spec.tokenizer
    change_json(bundled_tokenizer / "tokenizer_config.json", do_lower_case=False)
    assert load_tokenizer(bundled_tokenizer).tokenize("The") != ["the"]
    assert folder_tokenizer_digest(bundled_tokenizer) != before


def test_files_that_decide_no_piece_do_not_change_the_digest(copied):
    before = folder_tokenizer_digest(copied)
    (copied / "README.md").write_text("a model")
    change_json(copied / "tokenizer_config.json", model_max_length=7, clean_up_tokenization_spaces=True)
    assert folder_tokenizer_digest(copied) == before


def test_the_name_of_the_folder_is_not_in_the_digest(copied, tmp_path):
    elsewhere = copied.rename(tmp_path / "another name")
    assert load_tokenizer(elsewhere).name_or_path != str(copied)
    assert folder_tokenizer_digest(elsewhere) == tokenizer_digest(load_tokenizer(shutil.copytree(elsewhere, copied)))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_encoding_texts_does_not_change_the_digest(family, tiny_models, tmp_path):
    tokenizer = load_tokenizer(shutil.copytree(tiny_models[family], tmp_path / "fresh"))
    before = tokenizer_digest(tokenizer)
    encode(tokenizer, TEXTS, 8)
    assert tokenizer_digest(tokenizer) == before
    tokenizer(list(TEXTS.first), padding=True, truncation=True, max_length=4)
    assert tokenizer_digest(tokenizer) == before


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_another_process_finds_the_same_digest(family, tiny_models):
    code = "import sys, pathlib; from bdbench.engine.tokenizers import folder_tokenizer_digest as digest; "
    code += "print(digest(pathlib.Path(sys.argv[1])))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tiny_models[family])], capture_output=True, text=True, check=True, env=environment
    )
    assert answer.stdout.strip() == folder_tokenizer_digest(tiny_models[family])
