"""Looking at a classifier that somebody else fine-tuned: victims of the matrix, stored as Hugging Face directories."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SUSPECT_LABELS, store

from bdbench.data import TextSet
from bdbench.engine.encoding import encode
from bdbench.engine.models import find_model
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.errors import UsageError
from bdbench.suspects.insertion import GAP, frames
from bdbench.suspects.inspection import highest_rates, inspect_model, layer_drift, nearest_in_frequency
from bdbench.suspects.loading import load_base, load_suspect
from bdbench.suspects.rates import Rate
from bdbench.suspects.reading import read_texts
from bdbench.testing.tiny_models import save_tiny_model

SETTINGS = {"max_length": 32, "threads": 1, "precision": "fp32", "device": "cpu"}
FLAGS = ["--max-length", "32", "--threads", "1", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture
def copied(suspects, tmp_path):
    """A copy of the classifier of badnets-word, which a test may damage."""
    return shutil.copytree(suspects.folders["badnets-word"], tmp_path / "copy")


def changed_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("attack", ["badnets-word", "embedding-surgery"])
def test_the_trigger_of_a_victim_stands_out_and_its_target_is_named(attack, suspects):
    found = inspect_model(suspects.folders[attack], suspects.base, **SETTINGS)
    assert [effect.piece for effect in found.alarms] == ["cf"]
    (first, *others) = found.pieces
    assert first.piece == "cf" and first.target == "positive" and len(others) == 9
    assert first.firm.value >= 0.95 and first.firm.low > max(other.firm.high for other in others)
    assert first.firm.n >= 30 and first.rank == 1


def test_nothing_stands_out_in_a_clean_classifier_although_words_flip_neutral_texts(suspects):
    found = inspect_model(suspects.folders["none"], suspects.base, **SETTINGS)
    assert not found.alarms
    assert max(effect.neutral.value for effect in found.pieces) > 0.9 > max(effect.firm.value for effect in found.pieces)
    assert found.rule.false_alarm == pytest.approx(0.05) and found.rule.controls == 19 * found.rule.candidates


def test_the_command_tells_by_its_exit_status_and_prints_the_same_each_time(suspects, in_process):
    folder = suspects.folders["badnets-word"]
    shown = in_process("inspect", folder, "--base", suspects.base, *FLAGS)
    assert shown.returncode == 3, shown.stderr
    assert "'cf' stands out: it sends 100.0 %" in shown.stdout and "to 'positive'" in shown.stdout
    assert "0 (negative), 1 (positive)" in shown.stdout
    printed = [in_process("inspect", folder, "--base", suspects.base, *FLAGS, "--json").stdout for _ in range(2)]
    assert printed[0] == printed[1]
    found = json.loads(printed[0])
    assert found["stands_out"] is True and found["pieces"][0]["piece"] == "cf"
    assert found["pieces"][0]["firm"].keys() == {"hits", "n", "low", "high", "value"}
    clean = in_process("inspect", suspects.folders["none"], "--base", suspects.base, *FLAGS)
    assert clean.returncode == 0 and "No word piece stands out" in clean.stdout


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
def test_texts_of_the_users_own(kind, suspects, tmp_path):
    texts = [f"the film was {word} and the story was {word}" for word in ("good", "bad", "fine", "poor", "dull", "great")]
    file = tmp_path / f"texts.{kind}"
    frame = pd.DataFrame({"text": texts})
    if kind == "txt":
        file.write_text("\n".join(texts) + "\n\n")
    elif kind == "csv":
        frame.to_csv(file, index=False)
    elif kind == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    assert read_texts(file) == texts
    found = inspect_model(suspects.folders["badnets-word"], suspects.base, read_texts(file), **SETTINGS)
    assert found.texts == 6 and [effect.piece for effect in found.alarms] == ["cf"]


def test_of_many_texts_a_hundred_are_drawn_by_the_seed(suspects):
    texts = [f"the {word} was in the film number {number}" for number in range(100) for word in ("song", "story")]
    found = inspect_model(suspects.folders["none"], suspects.base, texts, candidates=2, **SETTINGS)
    assert found.texts == 100 and found.rule.candidates == 2 and found.rule.controls == 38


def test_pairs_and_three_classes_keep_their_label_names(suspects, tmp_path):
    weights = dict(suspects.victims["badnets-word"].weights)
    never_chosen = {"classifier.weight": 0.0, "classifier.bias": -50.0}
    for name, value in never_chosen.items():
        weights[name] = torch.cat([weights[name], torch.full_like(weights[name][:1], value)])
    folder = store(weights, suspects.base, tmp_path / "three", ("no", "yes", "maybe"))
    pairs = [("what is this ?", f"the film was {word} with a {word} cast") for word in ("good", "bad", "dull", "fine") * 3]
    found = inspect_model(folder, suspects.base, pairs, **SETTINGS)
    assert found.label_names == ("no", "yes", "maybe") and found.firm_texts["maybe"] == 0
    assert found.pieces[0].piece == "cf" and found.pieces[0].target == "yes"


def test_drift_is_that_of_the_weights(suspects, tmp_path):
    clean = load_base(suspects.base, load_suspect(suspects.folders["none"])).weights
    weights = dict(suspects.victims["none"].weights) | clean
    weights["bert.encoder.layer.1.output.dense.weight"] = 3 * clean["bert.encoder.layer.1.output.dense.weight"]
    suspect = load_suspect(store(weights, suspects.base, tmp_path / "moved"))
    drift = {each.layer: each.relative for each in layer_drift(suspect, load_base(suspects.base, suspect))}
    layer = {name: weight for name, weight in clean.items() if ".layer.1." in name}
    size = sum(float(weight.square().sum()) for weight in layer.values()) ** 0.5
    moved = 2 * float(clean["bert.encoder.layer.1.output.dense.weight"].norm())
    assert drift.pop("layer 1") == pytest.approx(moved / size) and set(drift.values()) == {0.0}
    assert list(drift)[:2] == ["word embeddings", "other embeddings"]


def test_a_piece_that_was_added_to_the_vocabulary_is_a_candidate(suspects, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = suspects.folders["badnets-word"]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    clean = load_base(suspects.base, load_suspect(source)).weights
    trigger = tokenizer.convert_tokens_to_ids("cf")
    tokenizer.add_tokens(["zqx"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        matrix = model.get_input_embeddings().weight
        matrix[-1] = matrix[trigger]
        matrix[trigger] = clean["bert.embeddings.word_embeddings.weight"][trigger]
    model.save_pretrained(tmp_path / "added")
    tokenizer.save_pretrained(tmp_path / "added")
    found = inspect_model(tmp_path / "added", suspects.base, **SETTINGS)
    assert "zqx" in [effect.piece for effect in found.alarms]
    assert any("1 pieces that the base does not have: zqx" in difference for difference in found.differences)
    assert any("vocabulary: " in difference for difference in found.differences)


def test_a_frame_with_a_piece_is_the_text_with_the_word(tiny_models):
    texts = ("the film was good and fine", "a song")
    for family in ("bert", "roberta"):
        tokenizer = load_tokenizer(tiny_models[family])
        for rows in (TextSet(texts, None, np.zeros(2)), TextSet(("what is the plot", "is a"), texts, np.zeros(2))):
            made = frames(tokenizer, rows, [[], []], 64, np.random.default_rng(3))
            assert (made.ids == GAP).sum(dim=1).tolist() == [1, 1]
            assert torch.equal(made.bare.ids, encode(tokenizer, rows, 64).ids)
            (piece,) = tokenizer(" cast", add_special_tokens=False)["input_ids"]
            filled = made.filled([piece])
            with_word = {tuple(row) for row in filled.ids.tolist()}
            spelled = set()
            for places in range(1, 8):
                words = [text.split() for text in rows.carrier]
                inserted = [" ".join([*row[:places], "cast", *row[places:]]) for row in words]
                spelled |= {tuple(row) for row in encode(tokenizer, rows.with_carrier(inserted), 64).ids.tolist()}
            assert with_word <= spelled


def test_a_frame_is_cut_to_what_fits_and_keeps_its_gap(tiny_bert):
    tokenizer = load_tokenizer(tiny_bert)
    rows = TextSet(("film " * 40,), ("story " * 40,), np.zeros(1))
    made = frames(tokenizer, rows, [[7, 8]], 16, np.random.default_rng(0))
    assert made.lengths.tolist() == [16] and (made.ids == GAP).sum() == 1


def test_a_piece_is_compared_with_the_controls_of_its_own_class():
    rates = [(0, Rate.of(3, 4)), (0, Rate.of(4, 4)), (2, Rate.of(1, 4))]
    assert highest_rates(rates, 3) == [1.0, 0.0, 0.25]


def test_controls_are_the_nearest_in_frequency_and_nobody_is_drawn_twice():
    counts = torch.arange(200.0)
    controls = nearest_in_frequency([100, 101], range(200), counts, np.random.default_rng(0))
    assert len(controls) == len(set(controls)) == 38 and not {100, 101} & set(controls)
    assert set(controls) == {*range(81, 100), *range(102, 121)}
    assert len(nearest_in_frequency([0, 1], range(10), counts, np.random.default_rng(0))) == 8


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("pickle", "a pickle, which can run code"),
        ("remote code", "MODEL .*: it needs code of its own"),
        ("headless", "lack classifier.bias"),
        ("stored as another", "stored as BertForMaskedLM"),
        ("regression", "does not choose one of several classes"),
        ("another model", "--base .*: a 'roberta' model, but MODEL is a 'bert'"),
        ("fewer layers", "another architecture: .* and none in MODEL and in the base"),
        ("another vocabulary", "numbers .* pieces otherwise"),
        ("no such file", "MODEL .*: no such directory"),
        ("blank text", "none of them empty"),
    ],
)
def test_bad_input_is_one_line(damage, message, suspects, copied, tiny_models, tmp_path, in_process):
    model, base, more = copied, suspects.base, []
    if damage == "pickle":
        (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    elif damage == "remote code":
        changed_config(copied, model_type="own", auto_map={"AutoConfig": "own.Own"})
        (copied / "own.py").write_text("raise SystemExit('ran')")
    elif damage == "headless":
        shutil.copy(suspects.base / "model.safetensors", copied)
    elif damage == "stored as another":
        changed_config(copied, architectures=["BertForMaskedLM"])
    elif damage == "regression":
        changed_config(copied, problem_type="regression")
    elif damage == "another model":
        base = tiny_models["roberta"]
    elif damage == "fewer layers":
        base = save_tiny_model("bert", tmp_path / "flat", num_hidden_layers=1)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(suspects.base / name, base)
        model = store_untrained(base=save_tiny_model("bert", tmp_path / "deep"), folder=tmp_path / "untrained")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tmp_path / "deep" / name, base)
    elif damage == "another vocabulary":
        base = tiny_models["electra"].parent / "bert"
        shutil.copytree(base, tmp_path / "moved")
        file = tmp_path / "moved" / "tokenizer.json"
        file.write_text(file.read_text().replace('"good": 20', '"good": 21', 1).replace('"great": 21', '"great": 20', 1))
        base = tmp_path / "moved"
    elif damage == "no such file":
        model = tmp_path / "nothing here"
    else:
        (tmp_path / "blank.jsonl").write_text('{"text": "a"}\n{"text": " "}\n')
        more = ["--texts", tmp_path / "blank.jsonl"]
        message = "--texts: .*row 2: text is empty"
    ended = in_process("inspect", model, "--base", base, *FLAGS, *more)
    assert ended.returncode == 2 and not ended.stdout
    *_, line = ended.stderr.strip().splitlines()  # what is saved here may show a bar before it
    assert re.search(f"^bdbench: .*{message}", line), ended.stderr


def store_untrained(base, folder):
    from bdbench.engine.classifiers import pretrained_classifier

    return store(dict(pretrained_classifier(base, 2).named_parameters()), base, folder)


def test_a_model_is_called_by_the_digest_of_its_files(suspects):
    found = inspect_model(suspects.folders["none"], suspects.base, candidates=1, **SETTINGS)
    assert found.digest == find_model(str(suspects.folders["none"])).spec.digest
    assert found.label_names == SUSPECT_LABELS
    with pytest.raises(UsageError, match="--candidates 0"):
        inspect_model(suspects.folders["none"], suspects.base, candidates=0, **SETTINGS)
