"""What was found out about a model is kept for the next process, as long as nothing that decides it has changed."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from bdbench.engine import findings, probe, tokenizers
from bdbench.engine.findings import FOLDER, find_out
from bdbench.errors import UsageError
from bdbench.matrix.plan import plan
from bdbench.matrix.presets import PRESETS
from bdbench.plugin_files import PluginFile
from bdbench.registry import DEFENSES

SIZES = {"train_rows": 80, "validation_rows": 20, "test_rows": 40, "clean_rows": 16, "max_length": 24, "precision": "fp32"}
QUESTION = {"what": "the answer", "files": {"a": "0" * 64}}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache folder of this test's own: where its entries lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bdbench" / FOLDER


@pytest.fixture
def new_process():
    """A function that has this process forget what it found, as a new one would not know it."""

    def forget():
        for function in (probe._probe, tokenizers._digest, tokenizers._load, findings._lasting_circumstances):
            function.cache_clear()

    forget()
    yield forget
    forget()


def asked(question=QUESTION, answer=42):
    """The answer, and whether it had to be found out."""
    calls = []

    def find():
        calls.append(answer)
        return answer

    return find_out(question, find), bool(calls)


@pytest.mark.parametrize("answer", [42, None, "text", {"precision": "fp32", "why": None}, [None, "unfit"]])
def test_an_answer_is_kept(home, answer):
    assert asked(answer=answer) == (answer, True)
    assert asked(answer="another") == (answer, False)


def test_another_question_or_other_circumstances_are_asked_anew(home, monkeypatch, new_process):
    asked()
    assert asked(QUESTION | {"files": {"a": "1" * 64}}) == (42, True)
    with monkeypatch.context() as patch:
        patch.setenv("ATEN_CPU_CAPABILITY", "default")
        assert asked() == (42, True)
    for name in ("libraries", "processor", "source_digest"):
        with monkeypatch.context() as patch:
            patch.setattr(findings, name, lambda: "another")
            new_process()
            assert asked() == (42, True), name
    new_process()
    assert asked() == (42, False)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"answer": 42}', '{"answer": 42, "check": "0"}', "\xff", "[" * 10**5]
)
def test_a_damaged_entry_is_as_none_and_is_written_anew(home, damage):
    asked()
    (file,) = home.iterdir()
    file.write_text(damage, encoding="latin-1")
    assert asked() == (42, True) and asked() == (42, False)


def test_an_entry_of_another_question_or_with_another_answer_is_as_none(home):
    asked()
    (file,) = home.iterdir()
    entry = json.loads(file.read_text())
    file.write_text(json.dumps(entry | {"answer": 43}))
    assert asked() == (42, True)
    asked({"what": "another"}, 7)
    (other,) = set(home.iterdir()) - {file}
    shutil.copy(other, file)
    assert asked() == (42, True)


def test_no_cache_folder_that_can_be_used_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert asked() == (42, True) and asked() == (42, True)
    monkeypatch.setattr(findings, "cache_folder", lambda name: (_ for _ in ()).throw(UsageError("no home")))
    assert asked() == (42, True)


def test_what_fails_is_not_kept_and_old_entries_go(home, monkeypatch):
    with pytest.raises(UsageError, match="no such"):
        find_out(QUESTION, lambda: (_ for _ in ()).throw(UsageError("no such model")))
    assert not home.exists()
    asked()
    monkeypatch.setattr(findings, "KEPT_SECONDS", -1)
    asked({"what": "another"})
    assert not list(home.glob("*.json"))


@pytest.fixture
def tried(monkeypatch):
    """The models that were tried out."""
    folders, usual = [], probe._try
    monkeypatch.setattr(probe, "_try", lambda folder, *asked: folders.append(folder) or usual(folder, *asked))
    return folders


def probed(folder):
    return probe.probe(folder, 2, max_length=32, paired=False, precision="fp32", device=torch.device("cpu"))


def test_a_model_is_tried_once_until_a_file_of_it_changes(home, new_process, tried, tiny_bert, tiny_models, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    before = asdict(probed(folder))
    new_process()
    assert asdict(probed(folder)) == before and len(tried) == 1
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert asdict(probed(moved)) == before and len(tried) == 1  # it is known by its content
    for count, name in enumerate(("config.json", "tokenizer.json", "tokenizer_config.json"), start=2):
        with (folder / name).open("a") as stream:
            stream.write("\n")
        probed(folder)
        assert len(tried) == count, name
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # of one number
    weights.write_bytes(content)
    probed(folder)
    assert len(tried) == 5


def test_a_tokenizer_that_changed_has_another_digest(home, new_process, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    before = tokenizers.folder_tokenizer_digest(folder)
    assert before == tokenizers.tokenizer_digest(tokenizers.load_tokenizer(folder))
    new_process()
    assert tokenizers.folder_tokenizer_digest(folder) == before
    assert not tokenizers._load.cache_info().currsize  # it was not loaded
    settings = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(settings | {"normalizer": None}))
    new_process()
    assert tokenizers.folder_tokenizer_digest(folder) != before


def test_a_refused_model_is_refused_again(home, new_process, tiny_model):
    for _ in range(2):
        new_process()
        with pytest.raises(UsageError, match="padding changes the logits"):
            probed(tiny_model("xlnet"))


PICKY = '''"""Fits no model."""

from dataclasses import dataclass

from bdbench.defenses.base import ModelRepair, register


@register("picky", paper="none")
@dataclass(frozen=True)
class Picky(ModelRepair):
    def unfit(self, model):
        return f"it has {len(list(model.parameters()))} parameters"

    def repair(self, model, ctx):
        return model
'''


def test_what_a_defense_says_of_a_model_is_kept_but_one_from_outside_is_asked_again(
    home, new_process, monkeypatch, tiny_bert, data_dir, tmp_path
):
    (tmp_path / "picky.py").write_text(PICKY)
    PluginFile.read(tmp_path / "picky.py").load()
    asked = []
    for name in ("fine-pruning", "picky"):
        usual = DEFENSES.get(name).unfit
        monkeypatch.setattr(
            DEFENSES.get(name),
            "unfit",
            lambda part, model, usual=usual: asked.append(part.name) or usual(part, model) or "it is small",
        )
    selected = {"attacks": ("none",), "defenses": ("none", "fine-pruning", "picky"), **SIZES}
    selection = PRESETS["laptop"].select({"model": str(tiny_bert), "data": str(data_dir), "tasks": ("sst2",), **selected})
    first = plan(selection, "cpu")
    assert asked == ["fine-pruning", "picky"]
    assert [warning.partition(":")[0] for warning in first.warnings] == ["fine-pruning is skipped", "picky is skipped"]
    new_process()
    again = plan(selection, "cpu")
    assert asked == ["fine-pruning", "picky", "picky"]
    assert again == first


PLAN = """
import sys
from bdbench.matrix.plan import plan
from bdbench.matrix.presets import PRESETS
model, data = sys.argv[1:]
names = {"tasks": ("sst2",), "attacks": ("badnets-word",), "defenses": ("none", "fine-pruning", "e-pur+fine-mixing")}
sizes = {"train_rows": 80, "validation_rows": 20, "test_rows": 40, "clean_rows": 16, "max_length": 24, "precision": "fp32"}
cells = plan(PRESETS["laptop"].select({"model": model, "data": data, **names, **sizes}), "cpu").cells
print(*(cell.key() for cell in cells))
print("transformers.modeling_utils" in sys.modules)
"""


def test_a_plan_on_a_known_model_imports_no_model_classes(home, tiny_bert, data_dir):
    def planned():
        words = [sys.executable, "-c", PLAN, str(tiny_bert), str(data_dir)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()

    (cells, new), (again, known) = planned(), planned()
    assert again == cells and (new, known) == ("True", "False")
