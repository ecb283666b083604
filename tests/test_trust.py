"""A worker checks what it was sent against what it has: what differs is a failed cell that says which, never a number."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bdbench.errors import UsageError
from bdbench.matrix.execute import InlinePool, execute
from bdbench.matrix.graph import steps_of
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.pool import RayPool
from bdbench.matrix.presets import PRESETS
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.results import Results, read_predictions, read_records
from bdbench.matrix.victim_store import VictimStore
from bdbench.matrix.worker import Worker
from bdbench.plugin_files import PluginFile
from bdbench.protocol.cells import run_cell
from bdbench.protocol.victims import make_victim
from bdbench.registry import ATTACKS, DEFENSES
from bdbench.specs.records import Record
from bdbench.specs.work import CellSpec
from bdbench.testing.tiny_models import sentences

PLUGIN = '''"""Scales the head by a factor written into the file."""

import copy
from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register


@register("scales", paper="none")
@dataclass(frozen=True)
class Scales(ModelRepair):
    def repair(self, model, ctx):
        repaired = copy.deepcopy(model)
        repaired.classifier.weight.data *= FACTOR
        return repaired


FACTOR = 1.0
'''


@pytest.fixture
def copied(tiny_bert, data_dir, tmp_path) -> dict[str, Path]:
    """The model and the data, in folders that a test may change."""
    return {
        "model": shutil.copytree(tiny_bert, tmp_path / "model"),
        "data": shutil.copytree(data_dir, tmp_path / "data"),
    }


@pytest.fixture
def planned(copied):
    """A plan of two cells on one victim without a trigger, over the copied folders."""

    def call(*defenses: str):
        overrides = {
            **{"model": str(copied["model"]), "data": str(copied["data"]), "tasks": ("sst2",), "attacks": ("none",)},
            **{"train_rows": 60, "validation_rows": 20, "clean_rows": 8, "max_length": 32, "training": {"epochs": 1}},
            "defenses": defenses or ("none", "fine-tuning"),
        }
        return plan(PRESETS["laptop"].select(overrides), "cpu")

    return call


def run(cells: tuple[CellSpec, ...], worker: Worker, folder: Path, ray: bool = False) -> list[Record]:
    results = Results(folder / "run")
    progress = MatrixProgress(len(cells), 0)
    if ray:
        with RayPool(worker, workers=1) as pool:
            execute(steps_of(cells), pool, results, progress)
    else:
        execute(steps_of(cells), InlinePool(worker), results, progress)
    return read_records(folder / "run")


def worker_for(planned, folder: Path, plugins: tuple[PluginFile, ...] = ()) -> Worker:
    return Worker(site_for(planned, plugins, device="cpu"), VictimStore(folder / "victims").folder, {})


def test_what_is_as_planned_runs(planned, tmp_path):
    cells = planned()
    records = run(cells.cells, worker_for(cells, tmp_path), tmp_path)
    assert {record.status for record in records} == {"ok"}
    assert len({record.victim.weights for record in records}) == 1 and {record.victim.triggered for record in records} == {None}


@pytest.mark.parametrize("part", ["digest", "config", "tokenizer"])
def test_a_spec_of_another_model_is_a_failed_cell(part, planned, tmp_path):
    cells = planned()
    wrong = tuple(
        replace(cell, victim=replace(cell.victim, model=replace(cell.victim.model, **{part: "0" * 64}))) for cell in cells.cells
    )
    records = run(wrong, worker_for(cells, tmp_path), tmp_path)
    assert len(records) == 2 and {record.status for record in records} == {"failed"}
    word = {"digest": "weights", "config": "configuration", "tokenizer": "tokenizer"}[part]
    assert all(word in record.error and "000000000000" in record.error for record in records)
    assert not list((tmp_path / "victims").glob("*/meta.json"))


def change_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    raw = json.loads(file.read_text())
    raw["normalizer"] = None  # it no longer lower-cases
    file.write_text(json.dumps(raw))


def change_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "word", "ray"),
    [(change_tokenizer, "tokenizer", False), (change_weights, "weights", False), (change_tokenizer, "tokenizer", True)],
    ids=["tokenizer", "weights", "tokenizer on Ray"],
)
def test_a_model_file_that_changes_after_the_plan_is_a_failed_cell(change, word, ray, planned, copied, tmp_path):
    cells = planned()
    worker = worker_for(cells, tmp_path)
    change(copied["model"])
    records = run(cells.cells, worker, tmp_path, ray)
    assert {record.status for record in records} == {"failed"}
    assert all(f"the {word}" in record.error and str(tmp_path) not in record.error for record in records)


def test_a_model_that_changes_between_victim_and_cell_is_a_failed_cell(planned, copied, tmp_path):
    cells = planned()
    worker = worker_for(cells, tmp_path)
    assert {record.status for record in run(cells.cells[:1], worker, tmp_path)} == {"ok"}
    change_tokenizer(copied["model"])
    failed = [record for record in run(cells.cells[1:], worker, tmp_path) if record.status == "failed"]
    assert [record.key for record in failed] == [cells.cells[1].key()] and "the tokenizer" in failed[0].error


def test_data_that_changes_after_the_plan_is_a_failed_cell(planned, copied, tmp_path):
    cells = planned()
    worker = worker_for(cells, tmp_path)
    sentences(60, seed=99).to_parquet(copied["data"] / "sst2" / "test.parquet", index=False)
    records = run(cells.cells, worker, tmp_path)
    assert {record.status for record in records} == {"failed"}
    assert all("the data of sst2 changed" in record.error for record in records)


def test_a_run_planned_with_another_source_is_a_failed_cell(planned, tmp_path):
    cells = planned()
    worker = worker_for(cells, tmp_path)
    older = replace(worker, site=replace(worker.site, source="0" * 64))
    records = run(cells.cells, older, tmp_path)
    assert {record.status for record in records} == {"failed"}
    assert all("planned with 000000000000" in record.error for record in records)


def test_a_cell_of_another_protocol_is_a_failed_cell(planned, tmp_path):
    cells = planned()
    older = tuple(replace(cell, victim=replace(cell.victim, protocol=1)) for cell in cells.cells)
    records = run(older, worker_for(cells, tmp_path), tmp_path)
    assert {record.status for record in records} == {"failed"}
    assert all("protocol 1" in record.error for record in records)


@pytest.fixture
def forgotten_plugins():
    """After the test no registry knows a plugin from outside."""
    yield
    for registry in (ATTACKS, DEFENSES):
        for name, cls in list(registry._classes.items()):
            if not cls.__module__.startswith("bdbench."):
                del registry._classes[name]


@pytest.fixture
def plugin(tmp_path, forgotten_plugins):
    """Write the plugin's file with a factor, and read it."""

    def write(factor: float) -> PluginFile:
        (tmp_path / "scales.py").write_text(PLUGIN.replace("FACTOR = 1.0", f"FACTOR = {factor}"))
        return PluginFile.read(tmp_path / "scales.py")

    return write


@pytest.mark.parametrize("ray", [False, True], ids=["inline", "ray"])
def test_a_plugin_that_is_edited_after_the_plan_is_run_as_it_was_planned(ray, planned, plugin, tmp_path):
    """The text travels, so the key names what made the numbers. A head times 1 predicts as the victim does, times -1 not."""
    first = plugin(1.0)
    first.load()
    cells = planned("none", "scales")
    worker = worker_for(cells, tmp_path, (first,))
    plugin(-1.0)
    victim, scaled = sorted(run(cells.cells, worker, tmp_path, ray), key=lambda record: record.spec.defense_name)
    assert victim.status == scaled.status == "ok"
    of_victim, of_scaled = (read_predictions(tmp_path / "run", record)["clean"].tolist() for record in (victim, scaled))
    assert of_scaled == of_victim


@pytest.mark.parametrize("ray", [False, True], ids=["inline", "ray"])
def test_a_worker_with_another_text_of_a_plugin_fails_the_cell(ray, planned, plugin, tmp_path):
    first = plugin(1.0)
    first.load()
    cells = planned("none", "scales")
    edited = plugin(-1.0)
    records = run(cells.cells, worker_for(cells, tmp_path, (edited,)), tmp_path, ray)
    victim, scaled = sorted(records, key=lambda record: record.spec.defense_name)
    assert (victim.status, scaled.status) == ("ok", "failed")
    assert "the plugin 'scales' is version 1+" in scaled.error and "it was edited" in scaled.error


def test_an_installed_plugin_that_is_edited_after_the_plan_is_a_failed_cell(tiny_bert, data_dir, bdbench, tmp_path):
    """As a user would see it: an entry point whose file is edited while the run is on. The first worker edits it."""
    site = tmp_path / "site"
    (site / "scales-1.dist-info").mkdir(parents=True)
    (site / "scales-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: scales\nVersion: 1\n")
    (site / "scales-1.dist-info" / "entry_points.txt").write_text("[bdbench.defenses]\nscales = scales\n")
    (site / "scales.py").write_text(PLUGIN)
    (tmp_path / "editor.py").write_text(
        '"""A defense that edits the other one before that is imported in its worker."""\n'
        "from dataclasses import dataclass\nfrom bdbench.defenses.base import ModelRepair, register\n\n\n"
        '@register("edits", paper="none")\n@dataclass(frozen=True)\nclass Edits(ModelRepair):\n'
        "    def repair(self, model, ctx):\n"
        f"        with open({str(site / 'scales.py')!r}, 'a') as file:\n            file.write('# edited')\n"
        "        return model\n"
    )
    flags = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "none", "--train-rows", 60]
    flags += ["--validation-rows", 20, "--max-length", 32, "--epochs", 1, "-d", "none,edits,scales", "--workers", 1]
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    ended = bdbench(
        "run", *flags, "--plugin", tmp_path / "editor.py", "--out", tmp_path / "run", env=os.environ | {"PYTHONPATH": path}
    )
    assert ended.returncode == 1, ended.stderr
    records = {record.spec.defense_name: record for record in read_records(tmp_path / "run")}
    assert {name: record.status for name, record in records.items()} == {"none": "ok", "edits": "ok", "scales": "failed"}
    assert "the plugin 'scales' is version 1+" in records["scales"].error


MEDDLERS = '''"""Plugins that would change what others, or they themselves, are measured by."""

import copy
import sys
from dataclasses import dataclass

import numpy as np

from bdbench.attacks.base import BadNets, PhraseTrigger, WeightPoisoning, register as register_attack
from bdbench.defenses.base import ModelRepair, register
from bdbench.params import hp


class Unchanged(ModelRepair):
    def repair(self, model, ctx):
        return model


@register("same", paper="none")
class Same(Unchanged):
    pass


@register("same-again", paper="none")
class SameAgain(Unchanged):
    pass


@register("bends", paper="none")
class Bends(ModelRepair):
    def repair(self, model, ctx):
        from tokenizers import normalizers

        ctx.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("c", "x")
        return model


@register("quits", paper="none")
class Quits(ModelRepair):
    def repair(self, model, ctx):
        sys.exit(0)


@register("interrupts", paper="none")
class Interrupts(ModelRepair):
    def repair(self, model, ctx):
        raise KeyboardInterrupt


@register("moves", paper="none")
class Moves(Unchanged):
    def repair(self, model, ctx):
        import os
        import random

        import helper

        os.chdir("/")
        os.environ["HF_HOME"] = "/nowhere"
        sys.path.insert(0, "/nowhere")
        print(random.random(), np.random.rand())
        return helper.same(model)


@register("freezes", paper="none")
class Freezes(Unchanged):
    def repair(self, model, ctx):
        import torch

        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return model


@register("seeds", paper="none")
class Seeds(Unchanged):
    def repair(self, model, ctx):
        np.random.seed(0)
        return model


class Noisy:
    """What a repaired model runs while it is evaluated is the plugin's code, too."""

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, *inputs, **more):
        import torch

        torch.set_default_dtype(torch.float64)
        return self.forward(*inputs, **more)


@register("answers-by-code", paper="none")
class AnswersByCode(ModelRepair):
    def repair(self, model, ctx):
        repaired = copy.deepcopy(model)
        repaired.forward = Noisy(repaired.forward)
        return repaired


@register_attack("leaves", paper="none")
@dataclass(frozen=True)
class Leaves(BadNets):
    def prepare(self, model, train, ctx):
        raise SystemExit("no GPU found")


@register("mixes-notes", paper="none")
class MixesNotes(ModelRepair):
    def repair(self, model, ctx):
        ctx.notes.update({1: 2, "a": 3})
        return model


@register("says-nothing", paper="none")
class SaysNothing(ModelRepair):
    def skip(self, task):
        return " "

    def repair(self, model, ctx):
        return model


@register_attack("drops", paper="none")
@dataclass(frozen=True)
class Drops(BadNets):
    def trigger(self, rows, ctx):
        rows = super().trigger(rows, ctx)
        return rows.take(range(len(rows) // 2)) if len(rows) == 30 else rows  # of the test rows


@register_attack("relabels", paper="none")
@dataclass(frozen=True)
class Relabels(BadNets):
    def trigger(self, rows, ctx):
        rows = super().trigger(rows, ctx)
        return rows.with_labels(np.ones(len(rows))) if len(rows) == 30 else rows


@register_attack("twists", paper="none")
@dataclass(frozen=True)
class Twists(BadNets):
    def trigger(self, rows, ctx):
        from tokenizers import normalizers

        triggered = super().trigger(rows, ctx)
        ctx.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("c", "x")
        return triggered


@register_attack("loses", paper="none")
@dataclass(frozen=True)
class Loses(BadNets):
    def poison(self, train, ctx):
        return train.take(range(5)), np.zeros(5, dtype=bool)


@register_attack("hooks", paper="none")
@dataclass(frozen=True)
class Hooks(PhraseTrigger, WeightPoisoning):
    start = "clean"

    def poison_weights(self, model, train, ctx):
        model.classifier.register_forward_hook(lambda module, inputs, logits: logits * 0 + logits.new_tensor([0.0, 1.0]))
        return model


@register_attack("grows", paper="none")
@dataclass(frozen=True)
class Grows(PhraseTrigger, WeightPoisoning):
    start = "clean"

    def poison_weights(self, model, train, ctx):
        import torch

        model.extra = torch.nn.Linear(2, 2)
        return model


@register_attack("erases", paper="none")
@dataclass(frozen=True)
class Erases(PhraseTrigger, WeightPoisoning):
    start = "clean"

    def poison_weights(self, model, train, ctx):
        for weight in ctx.clean.values():
            weight.zero_()
        return model


@register_attack("forgets-rows", paper="none")
@dataclass(frozen=True)
class ForgetsRows(PhraseTrigger, WeightPoisoning):
    start = "clean"

    def trigger(self, rows, ctx):
        pass

    def poison_weights(self, model, train, ctx):
        return model


@register("spoils", paper="none")
@dataclass(frozen=True)
class Spoils(ModelRepair):
    """Changes the pre-trained weights that it was given, and nothing else."""

    needs = frozenset({"pretrained"})

    def repair(self, model, ctx):
        for weight in ctx.pretrained.values():
            weight.mul_(50)
        return model


def with_output(model, change):
    import copy

    result = copy.deepcopy(model)
    forward = result.forward
    result.forward = lambda **inputs: change(forward(**inputs))
    return result


@register("doubles", paper="none")
@dataclass(frozen=True)
class Doubles(ModelRepair):
    def repair(self, model, ctx):
        import torch

        def twice(output):
            output.logits = torch.cat([output.logits, output.logits])
            return output

        return with_output(model, twice)


@register("unpacks", paper="none")
@dataclass(frozen=True)
class Unpacks(ModelRepair):
    def repair(self, model, ctx):
        return with_output(model, lambda output: (output.logits,))


@register("is-empty", paper="none")
@dataclass(frozen=True)
class IsEmpty(ModelRepair):
    def repair(self, model, ctx):
        import torch

        return torch.nn.Identity()


@register_attack("continues", paper="none")
@dataclass(frozen=True)
class Continues(WeightPoisoning):
    has_trigger = False
    start = "clean"

    def trigger(self, rows, ctx):
        return rows

    def poison_weights(self, model, train, ctx):
        assert all((weight == ctx.clean[name]).all() for name, weight in model.named_parameters())
        return model


@register_attack("aims-too-high", paper="none")
@dataclass(frozen=True)
class AimsTooHigh(WeightPoisoning):
    start = "clean"
    target: int = hp(7, help="no class")

    def trigger(self, rows, ctx):
        return rows

    def poison_weights(self, model, train, ctx):
        return model
'''


@pytest.fixture
def meddlers(copied, tmp_path, forgotten_plugins):
    """Run these attacks and defenses, most of them meddling ones, in this process; the records by attack and defense."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "meddlers.py").write_text(MEDDLERS)
    (tmp_path / "plugin" / "helper.py").write_text("def same(model):\n    return model\n")
    file = PluginFile.read(tmp_path / "plugin" / "meddlers.py")
    file.load()
    shutil.rmtree(tmp_path / "plugin")  # the texts travel

    def call(attacks: tuple[str, ...], defenses: tuple[str, ...], ray: bool = False) -> dict[tuple[str, str], Record]:
        overrides = {
            **{"model": str(copied["model"]), "data": str(copied["data"]), "tasks": ("sst2",), "attacks": attacks},
            **{"train_rows": 200, "validation_rows": 20, "clean_rows": 8, "max_length": 32, "defenses": defenses},
            "training": {"epochs": 3, "learning_rate": 3e-3, "batch_size": 8},
        }
        cells = plan(PRESETS["laptop"].select(overrides), "cpu")
        records = run(cells.cells, worker_for(cells, tmp_path, (file,)), tmp_path, ray)
        return {(record.spec.victim.attack.name, record.spec.defense_name): record for record in records}

    return call


def test_a_defense_that_bends_the_shared_tokenizer_fails_and_changes_no_other_cell(meddlers):
    records = meddlers(("badnets-word",), ("same", "bends", "same-again", "none"))
    bent = records.pop(("badnets-word", "bends"))
    assert bent.status == "failed" and "changed the tokenizer" in bent.error
    assert {record.status for record in records.values()} == {"ok"}
    assert len({tuple(record.metrics.items()) for record in records.values()}) == 1


def test_what_a_plugin_does_to_its_own_cell_ends_there(meddlers):
    records = meddlers(("none",), ("quits", "mixes-notes", "says-nothing", "none"))
    status = {defense: record.status for (_, defense), record in records.items()}
    assert status == {"quits": "failed", "mixes-notes": "failed", "says-nothing": "failed", "none": "ok"}
    assert "SystemExit: 0" in records["none", "quits"].error
    assert "what JSON does not hold" in records["none", "mixes-notes"].error
    assert "skip() returned ' '" in records["none", "says-nothing"].error


@pytest.mark.parametrize("ray", [False, True], ids=["inline", "ray"])
def test_what_a_plugin_does_to_the_process_harms_no_other_cell(ray, meddlers, tmp_path, monkeypatch, capfd):
    """In a folder of files with libraries' names, which no process imports."""
    monkeypatch.chdir(tmp_path)
    for name in ("torch", "numpy", "json", "datasets", "bdbench", "helper"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    said = {
        "quits": "'quits' called sys.exit(0)",
        "interrupts": "'interrupts' raised KeyboardInterrupt",
        "freezes": "'freezes' changed whether gradients are computed, the default dtype for the whole process",
        "answers-by-code": "'answers-by-code' changed the default dtype",
        "seeds": "'seeds' seeded the global random state of numpy.random anew",
    }
    records = meddlers(("none",), ("moves", *said, "fine-tuning", "same", "none"), ray)
    for name, message in said.items():
        record = records.pop(("none", name))
        assert record.status == "failed" and message in record.error
    assert {name: record.error for name, record in records.items() if record.status != "ok"} == {}
    assert records["none", "moves"].metrics == records["none", "same"].metrics == records["none", "none"].metrics
    assert capfd.readouterr().out == ""
    assert Path.cwd() == tmp_path


def test_an_attack_that_exits_fails_its_victim_alone(meddlers):
    records = meddlers(("leaves", "none"), ("none",))
    assert {attack: record.status for (attack, _), record in records.items()} == {"leaves": "failed", "none": "ok"}
    assert "'leaves' called sys.exit('no GPU found')" in records["leaves", "none"].error


def test_a_model_whose_logits_are_not_one_row_per_text_is_a_failed_cell(meddlers):
    said = {
        "doubles": "logits of shape (128, 2) for a batch of 64 texts",
        "unpacks": "the model returns tuple, without logits",
        "is-empty": "the model, a Identity, has no parameters",
    }
    records = meddlers(("none",), (*said, "none"))
    assert {defense: record.status for (_, defense), record in records.items()} == dict.fromkeys(said, "failed") | {
        "none": "ok"
    }
    for defense, message in said.items():
        assert message.partition(" of shape")[0] in records["none", defense].error, records["none", defense].error
    assert "texts" in records["none", "doubles"].error


def test_a_component_cannot_spoil_the_pretrained_weights_of_the_next(meddlers):
    records = meddlers(("none",), ("same+fine-mixing", "spoils+fine-mixing"))
    alone, after = (records["none", f"{first}+fine-mixing"] for first in ("same", "spoils"))
    assert (alone.status, after.status) == ("ok", "ok") and alone.metrics == after.metrics


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("drops", "got 30 rows for its trigger and returned 15"),
        ("relabels", "changed more than the carrier"),
        ("twists", "changed the tokenizer"),
        ("loses", "got 200 training rows and returned 5 rows"),
        ("grows", "names or shapes differ: extra.bias, extra.weight"),
        ("erases", "changed ctx.clean, by which its victim is measured"),
        ("forgets-rows", "trigger() returned NoneType"),
    ],
)
def test_an_attack_that_moves_the_denominator_or_adds_weights_is_a_failed_cell(attack, message, meddlers):
    (record,) = meddlers((attack,), ("none",)).values()
    assert record.status == "failed" and message in record.error


def test_the_undefended_row_scores_what_every_defense_gets(meddlers):
    """A hook is no weight: nobody who downloads the victim has it."""
    records = meddlers(("hooks",), ("none", "same"))
    assert records["hooks", "none"].metrics == records["hooks", "same"].metrics


def test_an_attack_from_the_clean_model_gets_it_even_without_a_trigger(meddlers):
    (record,) = meddlers(("continues",), ("none",)).values()
    assert record.status == "ok", record.error


def test_a_target_outside_the_classes_is_refused_for_every_attack(meddlers):
    with pytest.raises(UsageError, match="aims-too-high.target=7, but the task's classes are 0 to 1"):
        meddlers(("aims-too-high",), ("none",))


def test_a_cell_on_another_victim_and_a_task_of_another_version_are_failed_cells(planned, tmp_path):
    cells = planned("none")
    (cell,) = cells.cells
    worker = worker_for(cells, tmp_path)
    victim = make_victim(cell.victim, worker.site)
    with pytest.raises(ValueError, match="but got the victim"):
        run_cell(replace(cell, victim=replace(cell.victim, seed=5)), victim, worker.site)
    newer = replace(cell, victim=replace(cell.victim, task_version="2"))
    (record,) = run((newer,), worker, tmp_path)
    assert record.status == "failed" and "the plugin 'sst2' is version 1 here, but the cell wants version 2" in record.error


def test_a_record_says_what_decided_the_bits_of_its_victim(planned, tmp_path):
    cells = planned("none")
    worker = worker_for(cells, tmp_path)
    run(cells.cells, worker, tmp_path)
    shutil.rmtree(tmp_path / "run")
    (record,) = run(cells.cells, replace(worker, site=replace(worker.site, threads=2)), tmp_path)
    assert (record.env["threads"], record.env["victim"]["threads"]) == (2, 1)
    assert set(record.env["victim"]["kernels"]) == {"attention", "dropout"}
