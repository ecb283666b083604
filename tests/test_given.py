"""A victim that somebody else made, by `bdbench run --victim DIR`: a real one of the matrix, stored and brought back."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPAIR, store

import bdbench as package
from bdbench.api.execution import Order, carry_out, plan_of
from bdbench.api.given_victim import GivenVictim
from bdbench.engine.models import weights_digest
from bdbench.matrix.execute import execute
from bdbench.matrix.freight import cargo_of
from bdbench.matrix.graph import steps_of
from bdbench.matrix.plan import site_for
from bdbench.matrix.pool import RayPool
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.results import Results
from bdbench.matrix.storage import place_of
from bdbench.matrix.victim_store import VictimStore
from bdbench.matrix.worker import Worker

WORD = "badnets-word"
DEFENSES = f"none,fine-tuning,bki,{REPAIR}"


@pytest.fixture(scope="module")
def run_flags(suspects):
    """The settings with which the matrix made the suspects, without the victim."""
    data = suspects.base.parent / "data"
    sizes = ["--train-rows", 800, "--validation-rows", 60, "--test-rows", 100, "--clean-rows", 32, "--max-length", 32]
    training = ["--epochs", 4, "--learning-rate", 0.002, "--precision", "fp32", "--device", "cpu", "--seeds", 0]
    return ["run", "--preset", "laptop", "--data", data, "-T", "sst2", *sizes, *training]


@pytest.fixture
def brought(suspects, run_flags, in_process, tmp_path):
    """Run with a victim, here in this process; the finished command, and the records and predictions by defense."""

    def call(*flags, folder=None, out="out", base=suspects.base, said=("--trigger", "cf", "--target", 1), inline=True):
        words = [*run_flags, "--victim", folder or suspects.folders[WORD], *(["--base", base] if base else []), *said]
        ended = in_process(*words, "--out", tmp_path / out, *(["--inline"] if inline else []), *flags)
        return SimpleNamespace(ended=ended, **cells_in(tmp_path / out))

    return call


def cells_in(folder):
    results = Results(place_of(folder))
    records = {record.spec.defense_name: record for record in results.records.values()}
    files = {name: folder / "predictions" / f"{record.key}.npz" for name, record in records.items()}
    predictions = {name: dict(np.load(file)) for name, file in files.items() if file.is_file()}
    return {"records": records, "predictions": predictions}


def test_a_victim_of_the_matrix_comes_back_to_the_bit(suspects, brought, tmp_path):
    inline = brought("-d", DEFENSES)
    assert inline.ended.returncode == 0, inline.ended.stderr
    own, record = suspects.records[WORD, "none"], inline.records["none"]
    attack = record.spec.victim.attack
    assert attack.name == "given" and attack.params["digest"] == weights_digest(suspects.folders[WORD])
    assert (attack.params["trigger_text"], attack.params["target"], attack.params["order"]) == ("cf", 1, "")
    assert record.victim.weights == own.victim.weights
    assert np.array_equal(inline.predictions["none"]["clean"], suspects.predictions[WORD, "none"]["clean"])
    assert record.metrics["cacc"] == own.metrics["cacc"]
    # the trigger stands elsewhere in the same texts, since its places are drawn for each attack
    assert own.metrics["asr"].value > 0.9 and abs(record.metrics["asr"].value - own.metrics["asr"].value) < 0.05
    assert record.metrics["floor"].value < 0.5
    assert inline.records["fine-tuning"].metrics["cacc"].value > 0.8
    repaired = inline.records["e-pur+fine-mixing"].metrics["asr"].value
    assert abs(repaired - suspects.records[WORD, "e-pur+fine-mixing"].metrics["asr"].value) < 0.2
    assert inline.records["bki"].status == "skipped" and "made elsewhere" in inline.records["bki"].error
    assert record.typed["victim"] == WORD and str(tmp_path) not in json.dumps(dataclasses.asdict(record), default=str)
    assert "given victim" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert "given victim" in (tmp_path / "out" / "index.html").read_text()

    by_ray = brought("-d", DEFENSES, "--victims", tmp_path / "others", out="ray", inline=False)
    assert by_ray.ended.returncode == 0, by_ray.ended.stderr
    assert by_ray.predictions.keys() == inline.predictions.keys()
    for name, arrays in inline.predictions.items():
        assert all(np.array_equal(array, by_ray.predictions[name][part]) for part, array in arrays.items()), name
    assert {r.key for r in by_ray.records.values()} == {r.key for r in inline.records.values()}


def swapped_head(weights):
    """The same classifier with its two classes the other way round."""
    return {name: weight.flip(0) if name.startswith("classifier.") else weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("labels", "flags", "order"),
    [
        (("Positive", "negative"), (), "1,0"),
        (("LABEL_0", "LABEL_1"), ("-A", "given.order=1, 0"), "1,0"),
        (("good", "bad"), ("-A", "given.order=1,0"), "1,0"),
    ],
)
def test_classes_in_another_order_are_put_into_the_tasks(labels, flags, order, suspects, brought, tmp_path):
    own = suspects.records[WORD, "none"]
    folder = store(swapped_head(suspects.victims[WORD].weights), suspects.base, tmp_path / "swapped", labels)
    run = brought("-d", "none", *flags, folder=folder)
    assert run.ended.returncode == 0, run.ended.stderr
    assert run.records["none"].spec.victim.attack.params["order"] == order
    assert run.records["none"].victim.weights == own.victim.weights
    assert run.records["none"].metrics["cacc"] == own.metrics["cacc"]


def test_numbered_classes_keep_their_numbers(suspects, brought, tmp_path):
    folder = store(suspects.victims[WORD].weights, suspects.base, tmp_path / "numbered", ("LABEL_0", "LABEL_1"))
    run = brought("-d", "none", folder=folder)
    assert run.records["none"].spec.victim.attack.params["order"] == ""
    assert run.records["none"].metrics["cacc"] == suspects.records[WORD, "none"].metrics["cacc"]


def rewritten(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return folder


@pytest.fixture
def spoilt(suspects, tiny_models, tmp_path):
    """A function: what is wrong -> the folder of such a checkpoint."""

    def copy():
        return shutil.copytree(suspects.folders[WORD], tmp_path / "spoilt")

    def pickle():
        (copy() / "model.safetensors").unlink()
        torch.save({}, tmp_path / "spoilt" / "pytorch_model.bin")
        return tmp_path / "spoilt"

    def of_three_classes():
        weights = dict(suspects.victims[WORD].weights)
        for name in ("classifier.weight", "classifier.bias"):
            weights[name] = torch.cat([weights[name], weights[name][:1]])
        return store(weights, suspects.base, tmp_path / "spoilt", ("negative", "positive", "neither"))

    def with_another_tokenizer():
        file = copy() / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        file.write_text(
            json.dumps({**tokenizer, "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}})
        )
        return tmp_path / "spoilt"

    makers = {
        "nothing": copy,
        "no classifier": lambda: suspects.base,
        "pickle": pickle,
        "three classes": of_three_classes,
        "other names": lambda: store(suspects.victims[WORD].weights, suspects.base, tmp_path / "spoilt", ("bad", "good")),
        "other activation": lambda: rewritten(copy(), hidden_act="relu"),
        "other tokenizer": with_another_tokenizer,
        "other family": lambda: tiny_models["distilbert"],
    }
    return lambda what: makers[what]()


SAID = ("--trigger", "cf", "--target", 1)


@pytest.mark.parametrize(
    ("what", "said", "flags", "parts"),
    [
        ("no classifier", SAID, (), ["--victim", "it is stored as", "ForSequenceClassification"]),
        ("pickle", SAID, (), ["--victim", "pytorch_model.bin", "safe_serialization"]),
        ("three classes", SAID, (), ["3 classes (negative, positive, neither)", "sst2 has 2", "-T"]),
        ("other names", SAID, (), ["bad, good", "negative, positive", "-A given.order=0,1"]),
        ("other activation", SAID, (), ["classifies texts otherwise", 'hidden_act is "relu", in the base "gelu"']),
        ("other tokenizer", SAID, (), ["tokenizer", "one tokenizer for all its models"]),
        ("nothing", ("--target", 1), (), ["--victim: say what its trigger is: --trigger TEXT"]),
        ("nothing", ("--trigger", "cf"), (), ["--victim: say what its target is: --target CLASS"]),
        ("nothing", ("--trigger", " ", "--target", 1), (), ["given.trigger_text=' '", "no word piece"]),
        ("nothing", ("--trigger", "cf", "--target", 2), (), ["given.target=2", "0 to 1"]),
        ("nothing", SAID, ("-A", "given.target=0"), ["--target 1 -A given.target=0", "leave one out"]),
        ("nothing", SAID, ("-A", "given.order=1"), ["given.order=1", "0,1"]),
        ("nothing", SAID, ("-A", "given.digest=00ff"), ["expected 00ff"]),
        ("nothing", SAID, ("--model", "bundled"), ["--base", "--model bundled", "leave one out"]),
        ("nothing", SAID, ("-d", "wag", "--peers", "given"), ["--peers given", "another model"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None if isinstance(value, list) else value,
)
def test_bad_input_is_one_line(what, said, flags, parts, spoilt, brought, tmp_path):
    refused(brought("-d", "none", *flags, folder=spoilt(what), said=said), parts, tmp_path)


def refused(run, parts, tmp_path):
    assert run.ended.returncode == 2, run.ended.stderr
    (line,) = run.ended.stderr.strip().splitlines()
    assert all(part in line for part in parts), line
    assert not run.records and not list(tmp_path.glob("victims/*"))


def test_another_base_is_refused(suspects, brought, tiny_models, tmp_path):
    refused(brought("-d", "none", base=None), ["--victim", "--base BASE"], tmp_path)
    refused(brought("-d", "none", base=tiny_models["distilbert"]), ["'distilbert' model", "--victim is a 'bert'"], tmp_path)
    refused(brought("-d", "none", base=tiny_models["bert"]), ["--base", "--victim"], tmp_path)
    refused(brought("-d", "none", folder=tmp_path / "nowhere"), ["--victim", "nowhere: no such directory"], tmp_path)


def test_what_is_of_a_victim_needs_one(run_flags, suspects, in_process, tmp_path):
    def error(*flags):
        ended = in_process(*run_flags, *flags, "--out", tmp_path / "out", "--inline")
        assert ended.returncode == 2, ended.stderr
        return ended.stderr

    assert "--victim DIR --base BASE --trigger TEXT" in error("--model", suspects.base, "-a", "given", "-d", "none")
    few = ["-a", "none", "-d", "none", "--model", suspects.base]
    assert "--base is of a victim that you bring" in error(*few, "--base", suspects.base)
    assert "--trigger is of a victim that you bring" in error(*few, "--trigger", "cf")


def test_a_checkpoint_that_changes_before_it_is_read_is_a_failed_cell(suspects, spoilt, brought, monkeypatch):
    folder = spoilt("nothing")

    def after_a_change(*rest):
        store(swapped_head(suspects.victims[WORD].weights), suspects.base, folder)
        return carry_out(*rest)

    monkeypatch.setattr("bdbench.cli.run.carry_out", after_a_change)
    run = brought("-d", "none", folder=folder)
    assert run.ended.returncode == 1
    assert run.records["none"].status == "failed" and "changed since the run was planned" in run.records["none"].error


def test_the_same_command_has_nothing_to_do_until_the_checkpoint_is_another(suspects, spoilt, brought, tmp_path):
    folder, small = spoilt("nothing"), ("-d", "none", "--train-rows", 64, "--epochs", 1)
    assert brought(*small, folder=folder).ended.returncode == 0
    assert "1 cells are there already; 0 to run" in brought(*small, folder=folder).ended.stderr
    store(swapped_head(suspects.victims[WORD].weights), suspects.base, folder)
    assert brought(*small, folder=folder).ended.returncode == 0
    digests = {record.spec.victim.attack.params["digest"] for record in Results(place_of(tmp_path / "out")).records.values()}
    assert len(digests) == 2 and weights_digest(folder) in digests


def test_what_differs_and_changes_no_number_is_a_warning(suspects, spoilt, brought):
    folder = rewritten(spoilt("nothing"), hidden_dropout_prob=0.25)
    run = brought("-a", "badnets-word", "-d", "none,wag", "--dry-run", folder=folder)
    assert run.ended.returncode == 0, run.ended.stderr
    assert (
        "warning: --victim: config.json: hidden_dropout_prob is 0.25, in the base 0.1; the base's is used" in run.ended.stderr
    )
    attacks = [line.split(" / ")[1] for line in run.ended.stdout.splitlines()]
    assert attacks == ["badnets-word", "badnets-word", "given", "given"]


def test_workers_without_the_drivers_folders_get_the_checkpoint_with_the_run(suspects, spoilt, tmp_path):
    """As on a cluster, or with victims in an object store: once the files are on their way the directory may go."""
    folder, data = spoilt("nothing"), str(suspects.base.parent / "data")
    sizes = {"train_rows": 64, "validation_rows": 60, "test_rows": 100, "clean_rows": 16, "max_length": 32}
    small = {"tasks": ("sst2",), "defenses": ("none",), "seeds": (0,), "precision": "fp32", "training": {"epochs": 1}}
    given = GivenVictim(str(folder), str(suspects.base), "cf", 1)
    place = place_of(tmp_path / "out")
    order = Order("laptop", {"data": data, **sizes, **small}, place, place.beside("victims"), device="cpu", given=given)
    planned, progress, store = plan_of(order, warn=pytest.fail), MatrixProgress(1, 2), VictimStore(tmp_path / "victims")
    worker, results = Worker(site_for(planned, device="cpu"), store.folder, {}), Results(place)
    with RayPool(worker, progress, workers=1, cargo=cargo_of(planned), store=store) as pool:
        shutil.rmtree(folder)
        execute(steps_of(planned.cells), pool, results, progress)
    (record,) = results.records.values()
    assert record.status == "ok", record.error
    assert record.metrics["cacc"] == suspects.records[WORD, "none"].metrics["cacc"]


def test_from_python_it_stands_beside_other_attacks_and_is_run_again_by_verify(suspects, run_flags, in_process, tmp_path):
    data, checkpoint = suspects.base.parent / "data", tmp_path / "victim"
    shutil.copytree(suspects.folders[WORD], checkpoint)
    results = package.run(
        "laptop",
        victim=checkpoint,
        base=suspects.base,
        trigger="cf",
        target=1,
        attacks=["none", "given[position=end]", "given[position=start]"],
        defenses=["none"],
        tasks="sst2",
        data=data,
        seeds=0,
        train_rows=64,
        validation_rows=60,
        test_rows=100,
        max_length=32,
        precision="fp32",
        device="cpu",
        training={"epochs": 1},
        out=tmp_path / "out",
        inline=True,
        progress=False,
    )
    attacks = [(cell.spec.victim.attack.name, cell.spec.victim.attack.params.get("position")) for cell in results.records]
    assert sorted(attacks, key=str) == [("given", "end"), ("given", "start"), ("none", None)]
    assert {cell.metrics["cacc"] for cell in results.records if cell.spec.victim.attack.name == "given"} == {
        suspects.records[WORD, "none"].metrics["cacc"]
    }
    verify = ["verify", tmp_path / "out", "--rerun", 3, "--model", suspects.base, "--data", data]
    again = in_process(*verify, "--victim", checkpoint, "--device", "cpu")
    assert "3 cells run again: 3 equal bit for bit" in again.stdout, again.stdout + again.stderr
    without = in_process(*verify, "--device", "cpu")
    assert "2 cells whose victim is not here" in without.stdout and "give its directory with --victim" in without.stdout
    assert "1 cell run again" in without.stdout
