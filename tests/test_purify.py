"""Repairs and guards applied to a classifier of the user's own, and what is left of them on the disk."""

import hashlib
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import store
from extras import needs
from test_disk import files_of_at_most

from bdbench.data import TextSet
from bdbench.engine.classifiers import pretrained_classifier
from bdbench.errors import UsageError
from bdbench.suspects.guarding import guard_model
from bdbench.suspects.inspection import inspect_model
from bdbench.suspects.purification import class_number, purify_model
from bdbench.testing.tiny_models import CONFIGURATIONS, save_tiny_model

SETTINGS = {"max_length": 32, "threads": 1, "precision": "fp32", "device": "cpu"}
FLAGS = ["--max-length", "32", "--threads", "1", "--precision", "fp32", "--device", "cpu"]
QUICK = "fine-tuning[epochs=1]"
ATTACK = "badnets-word"


@pytest.fixture(scope="module")
def files(suspects, tmp_path_factory):
    """clean.csv with names of classes, validation.jsonl with their numbers."""
    folder = tmp_path_factory.mktemp("rows")
    clean, validation = suspects.rows.clean, suspects.rows.validation
    names = [("negative", "positive")[label] for label in clean.labels]
    pd.DataFrame({"text": clean.first, "label": names}).to_csv(folder / "clean.csv", index=False)
    frame = pd.DataFrame({"text": validation.first, "label": validation.labels})
    frame.to_json(folder / "validation.jsonl", orient="records", lines=True)
    return folder


def digests(folder) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def repair_of(suspects) -> dict[str, object]:
    """The hyperparameters of the matrix's repair."""
    spec = suspects.records[ATTACK, "e-pur+fine-mixing"].spec
    return {f"{part.name}.{name}": value for part in spec.defense for name, value in part.params.items()}


def test_the_command_writes_what_the_matrix_has_and_the_pipeline_loads_it(suspects, files, tmp_path, in_process):
    import transformers

    before, out = digests(suspects.folders[ATTACK]), tmp_path / "repaired"
    params = [word for name, value in repair_of(suspects).items() for word in ("-D", f"{name}={value}")]
    ended = in_process(
        *("purify", suspects.folders[ATTACK], "--base", suspects.base, "--out", out, "--task", "sst2", *params, *FLAGS),
        *("--clean", files / "clean.csv", "--validation", files / "validation.jsonl", "--trigger", "cf"),
    )
    assert ended.returncode == 0, ended.stderr
    assert "'cf' sends rows of other classes to 'positive': 100.0 %" in ended.stdout
    assert digests(suspects.folders[ATTACK]) == before

    pipeline = transformers.pipeline("text-classification", str(out), device="cpu")
    triggered = suspects.victims[ATTACK].triggered
    names = [answer["label"] for answer in pipeline(list(triggered.first))]
    of_matrix = suspects.predictions[ATTACK, "e-pur+fine-mixing"]["triggered"]
    assert names == [("negative", "positive")[number] for number in of_matrix]
    asr = suspects.records[ATTACK, "e-pur+fine-mixing"].metrics["asr"].value
    assert np.mean(np.array(names) == "positive") == pytest.approx(asr) and asr < 0.5

    details = json.loads((out / "purification.json").read_text())
    assert details["before"]["trigger"]["asr"]["hits"] == details["before"]["trigger"]["asr"]["n"] == 30
    card = (out / "README.md").read_text()
    assert details["repaired_digest"] in card and details["digest"] in card and "ratio=" in card
    assert re.search(r"\| accuracy \| \d+\.\d % .* \| \d+\.\d % .* \|", card)
    assert {path.name for path in tmp_path.iterdir()} == {"repaired"}
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1 and str(tmp_path) not in card + json.dumps(details)
    assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}
    found = inspect_model(out, suspects.base, candidates=3, **SETTINGS)
    assert not found.alarms and found.pieces[0].firm.value < 0.9


def test_no_repair_leaves_the_same_weights(suspects, tmp_path):
    found = purify_model(suspects.folders[ATTACK], suspects.base, defense="none", out=tmp_path / "same", **SETTINGS)
    assert found.repaired_digest == suspects.victims[ATTACK].digests.weights
    assert found.measured_on is None and "Nothing was measured" in (tmp_path / "same" / "README.md").read_text()
    one, other = (folder / "tokenizer.json" for folder in (suspects.folders[ATTACK], tmp_path / "same"))
    assert one.read_bytes() == other.read_bytes()


def test_the_same_arguments_leave_the_same_bits_and_another_seed_others(suspects, files):
    def digest(seed):
        arguments = {"defense": "fine-mixing[epochs=1]", "seed": seed} | SETTINGS
        return purify_model(suspects.folders[ATTACK], suspects.base, files / "clean.csv", **arguments).repaired_digest

    assert digest(0) == digest(0) != digest(1)


def test_pairs_of_texts_and_a_searched_ratio(suspects, tmp_path):
    rows = suspects.rows.validation
    frame = pd.DataFrame({"text_a": ["what is this ?"] * len(rows), "text_b": rows.first, "label": rows.labels})
    frame.to_parquet(tmp_path / "pairs.parquet")
    found = purify_model(
        suspects.folders[ATTACK],
        suspects.base,
        tmp_path / "pairs.parquet",
        "fine-mixing[epochs=1,search=true,trials=1]",
        tmp_path / "pairs.parquet",
        **SETTINGS,
    )
    assert found.rows == {"clean": 60, "validation": 60} and found.notes["fine-mixing"]["ratio"] > 0


def test_a_vocabulary_that_grew_keeps_its_new_pieces(suspects, files, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = suspects.folders[ATTACK]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["zqx"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path / "grown")
    tokenizer.save_pretrained(tmp_path / "grown")
    found = purify_model(tmp_path / "grown", suspects.base, defense="e-pur", out=tmp_path / "out", **SETTINGS)
    matrix = found.model.get_input_embeddings().weight.detach()
    assert torch.equal(matrix[-1], model.get_input_embeddings().weight.detach()[-1])
    assert any("count as not moved" in difference for difference in found.differences)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("zqx") == len(tokenizer) - 1


FAMILIES = ("roberta", "distilbert", "electra", "mpnet", "albert", "deberta", "deberta-v2", "modernbert")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_inspected_repaired_stored_and_loaded(family, tiny_model, tmp_path):
    import transformers

    assert family in CONFIGURATIONS
    base = tiny_model(family)
    weights = {name: weight.detach().clone() for name, weight in pretrained_classifier(base, 2).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    moved = {name: weight + 0.05 * torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}
    folder = store(moved, base, tmp_path / "suspect", ("no", "yes"))
    texts = ["the film was good", "the plot was bad and dull", "a fine song in this story", "all of the cast"] * 4
    rows = TextSet(tuple(texts), None, np.arange(16) % 2)
    found = inspect_model(folder, base, texts, candidates=2, **SETTINGS)
    assert found.architecture == family and found.rule.candidates == 2
    purified = purify_model(folder, base, rows, "e-pur+fine-mixing[epochs=1]", out=tmp_path / "out", **SETTINGS)
    pipeline = transformers.pipeline("text-classification", str(tmp_path / "out"), device="cpu")
    assert {answer["label"] for answer in pipeline(texts[:4])} <= {"no", "yes"}
    assert purified.repaired_digest != purified.digest and len(purified.components) == 2


@needs("nltk")
def test_a_detector_rejects_what_it_may_and_a_purifier_rewrites(suspects, files):
    given = {"clean": files / "clean.csv", "validation": files / "validation.jsonl"} | SETTINGS
    guarded = guard_model(suspects.folders[ATTACK], suspects.base, defense="strip", frr=0.1, **given)
    clean = list(suspects.rows.validation.first)
    answers = guarded.predict(clean)
    assert answers.count(None) == 6  # a tenth of 60
    assert set(answers) == {None, "negative", "positive"}
    seen = []
    again = guarded.predict(clean * 20, lambda what, done, total: seen.append((done, total)))
    assert again == answers * 20 and seen == [(0, 1200), (1000, 1200), (1200, 1200)]
    behind_onion = guard_model(suspects.folders[ATTACK], suspects.base, defense="onion[removed=0.2]", **given)
    assert behind_onion.threshold is None and None not in behind_onion.predict(clean)


def bad_csv(folder, content):
    file = folder / "rows.csv"
    file.write_text(content)
    return ["--clean", file]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda folder, files: bad_csv(folder, "text,label\na,positive\nb,positive\n"), "every label is 1 .positive"),
        (
            lambda folder, files: bad_csv(folder, "text,label\na,positive\nb,bad\n"),
            "--clean: .*row 2: label is .bad",
        ),
        (lambda folder, files: bad_csv(folder, "sentence,label\na,0\nb,1\n"), "no column .* needs the columns text, label or"),
        (lambda folder, files: ["--clean", folder / "none.csv"], "--clean: .*none.csv: cannot be read"),
        (lambda folder, files: ["--clean", files / "clean.xlsx"], "its name ends in none of"),
        (lambda folder, files: [], "a small labelled clean set; give --clean FILE"),
        (lambda folder, files: ["-d", "fine-mixing[search=true]", "--clean", files / "clean.csv"], "give --validation FILE"),
        (lambda folder, files: ["-d", "strip"], "strip is a detector"),
        (lambda folder, files: ["-d", "wag"], "other fine-tuned models, which nobody can give"),
        (lambda folder, files: ["-d", "fine-mixin"], "no bdbench.defenses named|fine-mixin"),
        (lambda folder, files: ["-d", "e-pur", "--trigger", "cf"], "give --validation FILE or --clean FILE"),
        (lambda folder, files: ["--clean", files / "clean.csv", "--trigger", "ünknown"], "--trigger.* does not know"),
        (lambda folder, files: ["--clean", files / "clean.csv", "--target", "great"], "--target great: no class of MODEL"),
        (lambda folder, files: ["-d", "e-pur", "--out", folder], "there already"),
        (lambda folder, files: ["-d", "e-pur", "--precision", "int8"], "--precision int8 is not one of auto, bf16, fp32"),
        (lambda folder, files: ["-d", "e-pur", "--max-length", "3"], "--max-length 3: at least 8"),
        (lambda folder, files: ["-d", "e-pur", "--max-length", "4000"], "--max-length 4000 is outside"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, message, suspects, files, tmp_path, in_process):
    (tmp_path / "here").mkdir()
    more = words(tmp_path / "here", files)
    before = sorted(tmp_path.rglob("*"))
    out = [] if "--out" in more else ["--out", tmp_path / "here" / "out"]
    ended = in_process("purify", suspects.folders[ATTACK], "--base", suspects.base, *out, *FLAGS, *more)
    assert ended.returncode == 2 and not ended.stdout
    *_, line = ended.stderr.strip().splitlines()
    assert re.search(f"^bdbench: .*(?:{message})", line), ended.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_without_room_nothing_is_left(suspects, tmp_path):
    with files_of_at_most(10_000), pytest.raises(UsageError, match="cannot be written"):
        purify_model(suspects.folders[ATTACK], suspects.base, defense="e-pur", out=tmp_path / "out", **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_a_base_of_another_kind_is_refused_before_anything_is_done(suspects, tiny_models, tmp_path):
    with pytest.raises(UsageError, match="--base .*: a 'electra' model, but MODEL is a 'bert'"):
        purify_model(suspects.folders[ATTACK], tiny_models["electra"], defense="e-pur", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())
    shutil.copytree(suspects.folders[ATTACK], tmp_path / "wide")
    other = save_tiny_model("bert", tmp_path / "other", intermediate_size=32)
    with pytest.raises(UsageError, match="numbers .* pieces otherwise|another architecture"):
        purify_model(tmp_path / "wide", other, defense="e-pur")


@pytest.mark.parametrize(("target", "number"), [("3", 2), ("0", 0), (1, 1), (2, 2)])
def test_a_target_is_a_name_or_a_number_by_the_same_rule(target, number):
    assert class_number(target, ("1", "2", "3")) == number


@pytest.mark.parametrize(("target", "said"), [("1", "the name of class 0 and the number of class 1"), (3, "no class of")])
def test_a_target_that_may_be_two_classes_or_none_is_refused(target, said):
    with pytest.raises(UsageError, match=f"--target {target}: {said}"):
        class_number(target, ("1", "2", "3"))
