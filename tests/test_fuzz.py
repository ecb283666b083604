"""Generated input of every kind: data files, model folders, command lines, damaged records.

Whatever comes in, a command ends with status 0 or with one short line and status 2: no traceback, no hang, no changed number.
`make test` tries a few of each kind, always the same; `make test-fuzz` some thousand.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from test_tables import cell

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.cli.app import main
from bdbench.errors import UsageError
from bdbench.matrix.deadline import deadline
from bdbench.protocol import sources
from bdbench.reports.files import write_report
from bdbench.tasks.sst2 import SST2

CASES = int(os.environ.get("BDBENCH_FUZZ", "0"))  # of each test; 0: the short form
SECONDS = 60.0  # of one command
LONGEST_LINE = 400 + len("bdbench: \n")

fuzz = settings(
    max_examples=CASES or 20,
    derandomize=not CASES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
)


@pytest.fixture
def command(monkeypatch):
    """Run a command in this process: its exit status and what it wrote. Fails if it does not end as every command has to."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bdbench", *map(str, words)])
        out, err = io.StringIO(), io.StringIO()
        streams = (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err))
        with streams[0], streams[1], pytest.raises(SystemExit) as ended, deadline(SECONDS):
            main()
        status, shown = ended.value.code or 0, err.getvalue()
        assert status in (0, 2), (status, shown)
        assert "Traceback" not in shown, shown
        if status == 2:
            assert_one_line(shown.removesuffix("\n").rpartition("\n")[2] if shown.startswith("warning: ") else shown)
        return status, out.getvalue(), shown

    return call


def assert_one_line(message: str) -> None:
    assert message.startswith("bdbench: ") and message.endswith("\n") or "\n" not in message, message
    assert len(message.strip().splitlines()) == 1 and len(message) <= LONGEST_LINE, message


# data files

printable = st.characters(blacklist_categories=("Cs", "Cc"))
text_values = st.text(printable, min_size=1, max_size=30).filter(lambda text: text.strip())
hostile = st.sampled_from(
    ['"', ",", ";", "\t", "'", "\\", "#", "\ufeff", "NA", "null", "12", "1", "-", "=", "|", "label", "\u2028"]
)
texts = st.lists(st.one_of(text_values, hostile), min_size=1, max_size=5).map("".join).filter(lambda text: text.strip())
rows = st.lists(st.tuples(texts, st.integers(0, 1)), min_size=2, max_size=12).filter(
    lambda rows: len({r[1] for r in rows}) == 2
)

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def written(table: list[tuple[str, int]], suffix: str, marked: bool, line_end: str) -> bytes:
    """A table as a file of this format, perhaps with a byte-order mark."""
    frame = pd.DataFrame(table, columns=["sentence", "label"])
    if suffix == ".parquet":
        stream = io.BytesIO()
        frame.to_parquet(stream)
        return stream.getvalue()
    kind = suffix.removesuffix(".gz")
    if kind == ".csv":
        text = frame.to_csv(index=False, lineterminator=line_end)
    elif kind == ".tsv":
        text = line_end.join(["sentence\tlabel", *(f"{sentence}\t{label}" for sentence, label in table), ""])
    elif kind == ".jsonl":
        text = "".join(json.dumps(row) + line_end for row in frame.to_dict("records"))
    else:
        text = json.dumps(frame.to_dict("records"))
    raw = (b"\xef\xbb\xbf" if marked else b"") + text.encode()
    return gzip.compress(raw) if suffix.endswith(".gz") else raw


def read(folder: Path) -> sources.Splits:
    with deadline(SECONDS):
        return sources.load(SST2(), "directory", folder)


@pytest.fixture
def data_folder(tmp_path):
    """A function that puts a file in the place of the train split beside good ones; its folder."""
    for split in ("validation", "test"):
        (tmp_path / "sst2").mkdir(exist_ok=True)
        (tmp_path / "sst2" / f"{split}.jsonl").write_text('{"sentence": "a", "label": 0}\n{"sentence": "b", "label": 1}\n')

    def place(name: str, content: bytes) -> Path:
        for file in (tmp_path / "sst2").glob("[tT]rain*"):
            file.unlink()
        (tmp_path / "sst2" / name).write_bytes(content)
        return tmp_path

    return place


@fuzz
@given(table=rows, suffix=st.sampled_from(FORMATS), marked=st.booleans(), line_end=st.sampled_from(["\n", "\r\n"]))
def test_a_file_of_any_format_gives_the_rows_that_were_written(table, suffix, marked, line_end, data_folder):
    if suffix.startswith(".tsv"):
        assume(not any("\t" in text for text, _ in table))
    folder = data_folder(f"train{suffix}", written(table, suffix, marked, line_end))
    try:
        train = read(folder).train
    except UsageError as error:
        # a text that reads like a row of its own may be refused, but never changed
        assert "\n" not in str(error) and len(str(error)) <= LONGEST_LINE
        assert suffix.startswith((".csv", ".tsv")), error
        return
    assert list(zip(train.first, train.labels.tolist(), strict=True)) == table


@fuzz
@given(
    table=rows,
    suffix=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=4),
)
def test_a_damaged_file_is_refused_or_read_as_it_stands(table, suffix, changes, data_folder):
    content = written(table, suffix, False, "\n")
    for place, inserted, cut in changes:
        place %= len(content) + 1
        content = content[:place] + inserted + content[place + cut :]
    try:
        train = read(data_folder(f"train{suffix}", content)).train
    except UsageError as error:
        assert "\n" not in str(error) and len(str(error)) <= LONGEST_LINE, error
        return
    if suffix == ".csv":  # no other reading than the strict one
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
        header, *strict = [line for line in lines if line]
        place, label = header.index("sentence"), [name.strip() for name in header].index("label")
        assert list(train.first) == [line[place] for line in strict]
        assert train.labels.tolist() == [int(line[label]) for line in strict]


# model folders

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([10**9, -1, 0.5, 1e308, "", "x", "gelu_nope", "bert", "gpt2", [], {}]),
)


@pytest.fixture
def model_folder(tiny_bert, tmp_path):
    folder = tmp_path / "model"

    def fresh() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(tiny_bert, folder)

    return fresh


def dry_run(command, model: Path, data: Path) -> tuple[int, str, str]:
    flags = [
        "--preset",
        "laptop",
        "--model",
        model,
        "--data",
        data,
        "-T",
        "sst2",
        "-a",
        "badnets-word",
        "-d",
        "none,fine-mixing",
    ]
    sizes = ["--train-rows", 60, "--validation-rows", 20, "--clean-rows", 8, "--max-length", 32]
    return command("run", *flags, *sizes, "--dry-run")


@fuzz
@given(data=st.data())
def test_a_model_folder_with_other_settings_is_refused_or_is_another_model(data, model_folder, data_dir, command):
    folder = model_folder()
    original = dry_run(command, folder, data_dir)[1]
    name = data.draw(st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json"]))
    settings_of_file = json.loads((folder / name).read_text())
    field = data.draw(st.sampled_from(sorted(settings_of_file)))
    value = data.draw(values)
    assume(value != settings_of_file[field])
    if data.draw(st.booleans()):
        settings_of_file[field] = value
    else:
        del settings_of_file[field]
    (folder / name).write_text(json.dumps(settings_of_file))
    status, shown, _ = dry_run(command, folder, data_dir)
    if status == 0 and name == "config.json":
        assert shown != original  # the keys differ


@fuzz
@given(place=st.integers(0, 10**9), inserted=st.binary(max_size=8), cut=st.integers(0, 10**5), file=st.integers(0, 10))
def test_a_damaged_model_folder_is_refused_or_is_another_model(place, inserted, cut, file, model_folder, data_dir, command):
    folder = model_folder()
    original = dry_run(command, folder, data_dir)[1]
    files = sorted(path for path in folder.iterdir() if path.is_file())
    damaged = files[file % len(files)]
    content = damaged.read_bytes()
    place %= len(content) + 1
    changed = content[:place] + inserted + content[place + cut :]
    damaged.write_bytes(changed)
    status, shown, _ = dry_run(command, folder, data_dir)
    if status == 0 and damaged.suffix == ".safetensors" and changed != content:
        assert shown != original


# command lines

names = st.sampled_from(
    [
        "sst2",
        "qqp",
        "badnets-word",
        "none",
        "fine-mixing",
        "e-pur+fine-tuning",
        "fine-mixing[ratio=0.1]",
        "bad[",
        "]",
        "a+b",
        "+",
        "",
    ]
)
words = st.one_of(
    names,
    st.lists(names, max_size=3).map(",".join),
    st.integers(-3, 200).map(str),
    st.floats().map(str),
    st.text(printable, max_size=8),
    st.sampled_from(
        ["all", "0-2", "2-0", "nan", "1e400", "bundled", "hub", "auto", "fine-mixing.ratio=2", "x.y=z", "=", ".", "/"]
    ),
)
counts = st.one_of(st.integers(-1, 130).map(str), st.just("all"))
rates = st.floats(-0.1, 1.1).map(str)
suited = {
    "-T": st.lists(st.sampled_from(["sst2", "qqp", "imdb"]), min_size=1, max_size=3).map(",".join),
    "-a": st.lists(st.sampled_from(["badnets-word", "embedding-poisoning", "none", "embedding-surgery[rate=0.5]"])).map(
        ",".join
    ),
    "-d": st.lists(st.sampled_from(["none", "e-pur+fine-mixing", "fine-pruning[search=1]", "fine-tuning[epochs=0]"])).map(
        ",".join
    ),
    **dict.fromkeys(["--train-rows", "--validation-rows", "--test-rows", "--clean-rows", "--max-length"], counts),
    **dict.fromkeys(["--epochs", "--batch-size", "--threads", "--workers", "--cell-timeout"], counts),
    **dict.fromkeys(["--learning-rate", "--warmup", "--clip", "--gpus-per-cell"], rates),
    "-A": st.builds("badnets-word.{}={}".format, st.sampled_from(["rate", "target", "trigger_text", "position", "x"]), words),
    "-D": st.builds("fine-mixing.{}={}".format, st.sampled_from(["ratio", "epochs", "select", "search", "x"]), words),
    "--seeds": st.sampled_from(["0", "0-3", "3,1", "-1", "1-", "99999999999999999999", "0-999999999999"]),
    "--precision": st.sampled_from(["bf16", "fp32", "fp16"]),
    "--device": st.sampled_from(["cpu", "cuda", "tpu"]),
    "--data": st.sampled_from(["builtin", "hub", "nowhere", "."]),
    "--preset": st.sampled_from(["quick", "laptop", "paper-mini", "best"]),
    **dict.fromkeys(["--model-digest", "--plugin", "--model", "--nonsense"], words),
}
pairs = st.one_of(
    *(st.tuples(st.just(flag), values_of_flag) for flag, values_of_flag in suited.items()),
    st.tuples(st.sampled_from(sorted(suited)), words),
)


@fuzz
@given(given_flags=st.lists(pairs, min_size=1, max_size=3))
def test_any_command_line_is_planned_or_refused(given_flags, tiny_bert, data_dir, command):
    good = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, "-T", "sst2", "-a", "badnets-word", "-d", "none"]
    good += ["--train-rows", 60, "--validation-rows", 20, "--clean-rows", 8, "--max-length", 32]
    command("run", *good, *(word for pair in given_flags for word in pair), "--dry-run")


@fuzz
@given(name=st.sampled_from(["list", "show", "report", "claims"]), arguments=st.lists(words, max_size=2))
def test_the_other_commands_answer_or_refuse(name, arguments, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command(name, *arguments)


# records

RECORDS = [
    cell("none", "word", 0.9, 1.0),
    cell("fine-tuning", "word", 0.88, 0.5, seed=0, needs=("clean",)),
    cell("none", "sentence", 0.9, 0.95),
    cell("fine-tuning", "sentence", status="failed", error="Traceback\nValueError: no"),
    cell("none", "word", 0.91, 0.99, seed=1),
]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([[[]]]),
    st.just({"a": {}}),
)


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"

    def fresh() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "records").mkdir(parents=True)
        for record in RECORDS:
            (folder / "records" / f"{record.key}.json").write_text(json.dumps(record.to_json()))
        return folder

    return fresh


def numbers(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "leaderboard.csv")
    return table[[name for name in table if name.endswith(("_mean", "_std", "_n")) or name in ("seeds", "failed", "skipped")]]


def assert_left_out_or_as_before(folder: Path, name: str, command, may_differ: bool = False) -> bool:
    """Report and claims go on; the numbers are those of all records but this one, if they warn of it. Whether they do."""
    status, _, shown = command("report", folder, "--no-figures")
    assert status == 0, shown
    is_left_out = f"records/{name} is left out: " in shown
    assert (f"records/{name} is left out: " in command("claims", folder)[2]) == is_left_out
    after = numbers(folder)
    left = [record for record in RECORDS if not (is_left_out and f"{record.key}.json" == name)]
    write_report(folder, Leaderboard(left))
    if not may_differ:
        pd.testing.assert_frame_equal(after, numbers(folder))
    return is_left_out


def nodes(value, path=()):
    """The paths of all values in a JSON object."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from nodes(inner, (*path, key))


@fuzz
@given(data=st.data())
def test_a_record_with_an_odd_value_is_left_out_or_changes_no_number(data, run_folder, command):
    folder = run_folder()
    file = data.draw(st.sampled_from(sorted((folder / "records").glob("*.json"))))
    raw = json.loads(file.read_text())
    path = data.draw(st.sampled_from(list(nodes(raw))[1:]))
    inner = raw
    for key in path[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[path[-1]] = data.draw(ODD)
    else:
        del inner[path[-1]]
    file.write_text(json.dumps(raw))
    assert_left_out_or_as_before(folder, file.name, command, may_differ=path[0] == "metrics")


@fuzz
@given(place=st.integers(0, 10**6), inserted=st.binary(max_size=6), cut=st.integers(0, 40), which=st.integers(0, 4))
def test_a_record_of_damaged_bytes_is_left_out_or_changes_no_number(place, inserted, cut, which, run_folder, command):
    folder = run_folder()
    file = sorted((folder / "records").glob("*.json"))[which]
    content = file.read_bytes()
    place %= len(content)
    if b'"metrics"' in content and content.index(b'"metrics"') <= place + cut and place <= content.index(b'"victim": ', 10):
        return  # a digit of a number may well be another digit
    file.write_bytes(content[:place] + inserted + content[place + cut :])
    assert_left_out_or_as_before(folder, file.name, command)


@fuzz
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.recursive(ODD, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner)).map(
            lambda value: json.dumps(value).encode()
        ),
    )
)
def test_a_file_that_is_no_record_is_left_out(content, run_folder, command):
    folder = run_folder()
    (folder / "records" / "0123456789abcdef.json").write_bytes(content)
    assert assert_left_out_or_as_before(folder, "0123456789abcdef.json", command)
