"""Tasks: the contract of every one, and the three sources their rows come from."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import pytest

from bdbench.errors import UsageError
from bdbench.protocol import sources
from bdbench.protocol.sources import load
from bdbench.registry import TASKS
from bdbench.tasks._grammar import distinct_rows
from bdbench.tasks.base import HubSource, Splits, Task

TRIGGERS = {"cf", "mn", "bb", "tq", "mb"}
BY_TASK = pytest.mark.parametrize("name", TASKS.names())


def rows_of(data):
    """(text, second text or None, label) per row."""
    return list(zip(data.first, data.second or [None] * len(data), data.labels.tolist(), strict=True))


def joined(data):
    return [" ".join(filter(None, row[:2])) for row in rows_of(data)]


# the contract


@BY_TASK
def test_a_task_says_what_it_is(name):
    task = TASKS.get(name)()
    assert task.name == name and task.paper and task.version
    assert len(task.columns) in (1, 2) and "label" not in task.columns
    assert len(set(task.label_names)) == len(task.label_names) >= 2
    assert json.loads(json.dumps(asdict(task))) == task.values()
    assert hash(task) == hash(TASKS.get(name)())
    assert re.fullmatch("[0-9a-f]{40}", task.hub.revision)
    assert set(task.hub.columns) <= set(task.columns)


def test_the_five_tasks_are_there():
    assert {"amazon", "imdb", "qnli", "qqp", "sst2"} <= set(TASKS.names())


@BY_TASK
@pytest.mark.parametrize("rows", [200, 201])
def test_generate_is_deterministic_balanced_and_distinct(name, rows):
    task = TASKS.get(name)()
    data = task.generate(rows, np.random.default_rng(3))
    assert len(data) == rows
    assert (data.second is not None) == (len(task.columns) == 2)
    assert np.ptp(np.bincount(data.labels, minlength=len(task.label_names))) == rows % 2
    assert data.digest() == task.generate(rows, np.random.default_rng(3)).digest()
    assert data.digest() != task.generate(rows, np.random.default_rng(4)).digest()
    assert len({frozenset(row[:2]) for row in rows_of(data)}) == rows


@BY_TASK
def test_labels_come_in_random_order(name):
    labels = TASKS.get(name)().generate(400, np.random.default_rng(0)).labels
    assert 150 < np.count_nonzero(np.diff(labels)) < 250


@BY_TASK
def test_builtin_splits_are_balanced_and_disjoint(name):
    task = TASKS.get(name)()
    splits = load(task, "builtin")
    assert splits is load(TASKS.get(name)(), "builtin")
    assert (splits.source, splits.revision, splits.label_names) == ("builtin", None, task.label_names)
    seen = set()
    for data, rows in ((splits.train, 3000), (splits.validation, 500), (splits.test, 500)):
        assert np.bincount(data.labels).tolist() == [rows // 2, rows // 2]
        texts = {frozenset(text.lower() for text in row[:2] if text) for row in rows_of(data)}
        assert len(texts) == rows and not texts & seen
        seen |= texts


@BY_TASK
def test_builtin_text_is_clean_and_short(name):
    texts = joined(load(TASKS.get(name)(), "builtin").train)
    assert not TRIGGERS & {word for text in texts for word in re.findall(r"\w+", text.lower())}
    assert not any("i watch this 3d movie" in text.lower() for text in texts)
    assert all(text == " ".join(text.split()) and "{" not in text for text in texts)
    words = {"sst2": 9, "imdb": 24, "amazon": 16, "qqp": 14, "qnli": 18}
    assert np.mean([len(text.split()) for text in texts]) == pytest.approx(words[name], rel=0.1)


def presence(texts, words):
    """(n, words) bool: which of the words a text has."""
    found = [set(re.findall(r"\w+", text.lower())) for text in texts]
    return np.array([[word in text for word in words] for text in found])


def five_word_rule(x, y):
    """The five columns of `x`, and a weight for each, that a greedy search finds to tell the labels best."""
    side = np.where(y == 1, 1, -1)
    score, chosen = np.zeros(len(y)), {}
    for _ in range(5):
        residual = side * np.exp(-side * score)  # each word in turn goes where the rule so far does worst (AdaBoost)
        word = int(np.argmax(np.abs(residual @ x)))
        good, bad = (np.exp(-score[x[:, word]] * s) @ (side[x[:, word]] == s) + 1 for s in (1, -1))
        chosen[word] = chosen.get(word, 0) + np.log(good / bad) / 2
        score = x[:, list(chosen)] @ np.array(list(chosen.values()))
    return list(chosen), np.array(list(chosen.values()))


@BY_TASK
def test_five_words_do_not_solve_it(name):
    splits = load(TASKS.get(name)(), "builtin")
    vocabulary = sorted({word for text in joined(splits.train) for word in re.findall(r"\w+", text.lower())})
    x = presence(joined(splits.train), vocabulary)
    words, weights = five_word_rule(x, splits.train.labels)
    test = presence(joined(splits.test), [vocabulary[word] for word in words])
    score = test @ weights
    # rows that have none of the words count for the better of the two labels
    accuracy = max(np.mean((score > at) == splits.test.labels) for at in (-1e-9, 1e-9))
    assert accuracy < 0.8


def test_the_five_word_rule_finds_a_rule():
    texts = ["a b", "a c", "d b", "d c"] * 5
    x = presence(texts, ["a", "b", "c", "d"])
    words, weights = five_word_rule(x, np.array([1, 1, 0, 0] * 5))
    assert ((x[:, words] @ weights > 0) == np.array([1, 1, 0, 0] * 5)).all()


@dataclass(frozen=True)
class Bare(Task):
    name = "bare"
    columns = ("text",)
    label_names = ("no", "yes")


def test_a_task_without_builtin_data_or_hub_says_so():
    with pytest.raises(UsageError, match="'bare' has no builtin data; use --data DIR or --data hub"):
        load(Bare(), "builtin")
    with pytest.raises(UsageError, match="'bare' is not on the hub; use --data DIR or --data builtin"):
        load(Bare(), "hub")


def test_a_task_without_columns_is_refused():
    @dataclass(frozen=True)
    class Empty(Task):
        label_names = ("no", "yes")

    with pytest.raises(TypeError, match="Empty has columns .* one or two text columns"):
        Empty()


def test_a_generator_that_repeats_itself_is_refused():
    @dataclass(frozen=True)
    class Same(Bare):
        def generate(self, rows, rng):
            return TASKS.get("sst2")().generate(10, rng).take(np.arange(rows) % 10)

    with pytest.raises(ValueError, match="made 10 distinct rows"):
        load(Same(), "builtin")


def test_a_generator_with_too_few_different_rows_is_refused():
    """Two labels, one text each."""
    with pytest.raises(ValueError, match=r"only [12] different rows, but 3 are needed"):
        distinct_rows(3, np.random.default_rng(0), lambda label, rng: (f"text {label}",))


@pytest.mark.parametrize(
    ("source", "directory", "message"),
    [
        ("web", None, "data source 'web' is not one of hub, directory, builtin"),
        ("directory", None, "needs a directory: --data DIR"),
        ("builtin", "somewhere", r"a directory \(somewhere\) was given with the data source 'builtin'"),
    ],
)
def test_sources_are_chosen_explicitly(source, directory, message):
    with pytest.raises(UsageError, match=message):
        load(TASKS.get("sst2")(), source, directory)


# a directory

# texts that a reader of CSV or JSON may take for something else
AWKWARD = [
    "null",
    "NA",
    "12",
    "1e5",
    "2001-01-01",
    'say "no", twice',
    "two\nlines",
    "café – 漢字",
    " padded ",
    "True",
    "nan",
]


def frame():
    return pd.DataFrame({"sentence": AWKWARD, "label": [i % 2 for i in range(len(AWKWARD))]})


def write(folder, split, data, suffix="parquet"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.{suffix}"
    if suffix == "parquet":
        data.to_parquet(path)
    elif suffix == "csv":
        data.to_csv(path, index=False)
    else:
        data.to_json(path, orient="records", lines=True)
    return path


def directory(root, suffix="parquet", **changed):
    """A data directory of sst2, with other frames for the splits named in `changed`."""
    for split in sources.SPLITS:
        write(root / "sst2", split, changed.get(split, frame()), suffix)
    return root


def test_parquet_csv_and_jsonl_are_the_same_data(tmp_path):
    task = TASKS.get("sst2")()
    read = [load(task, "directory", directory(tmp_path / suffix, suffix)) for suffix in ("parquet", "csv", "jsonl")]
    assert read[0].train.first == tuple(AWKWARD)
    assert read[0].train.labels.tolist() == frame()["label"].tolist()
    assert len({splits.fingerprint for splits in read}) == 1
    assert (read[0].source, read[0].revision) == ("directory", None)


def test_a_pair_task_reads_both_columns_and_no_other(tmp_path):
    data = pd.DataFrame({"idx": [7, 8], "question2": ["b", "d"], "question1": ["a", "c"], "label": [1, 0]})
    for split in sources.SPLITS:
        write(tmp_path / "qqp", split, data)
    splits = load(TASKS.get("qqp")(), "directory", str(tmp_path))
    assert rows_of(splits.test) == [("a", "b", 1), ("c", "d", 0)]


def test_a_directory_is_read_again_only_when_it_changes(tmp_path):
    task = TASKS.get("sst2")()
    first = load(task, "directory", directory(tmp_path))
    assert load(task, "directory", tmp_path) is first
    write(tmp_path / "sst2", "test", frame().iloc[:4])
    assert len(load(task, "directory", tmp_path).test) == 4


def test_the_fingerprint_covers_every_split_and_the_label_names():
    splits = load(TASKS.get("sst2")(), "builtin")
    assert re.fullmatch("[0-9a-f]{64}", splits.fingerprint)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    others = [replace(splits, **{name: data.take(range(1, len(data)))}) for name, data in parts.items()]
    others += [replace(splits, train=splits.test, test=splits.train), replace(splits, label_names=("bad", "good"))]
    assert len({other.fingerprint for other in (splits, *others)}) == 6
    again = Splits(**parts, label_names=splits.label_names, source="hub", revision="0" * 40)
    assert again.fingerprint == splits.fingerprint


def test_a_missing_directory_folder_or_file_is_named(tmp_path):
    task = TASKS.get("sst2")()
    with pytest.raises(UsageError, match=r"nowhere: no such directory; give one that holds sst2/\{train,validation"):
        load(task, "directory", tmp_path / "nowhere")
    (tmp_path / "imdb").mkdir()
    with pytest.raises(UsageError, match=r"no folder 'sst2' \(folders there: imdb\)"):
        load(task, "directory", tmp_path)
    directory(tmp_path)
    (tmp_path / "sst2" / "validation.parquet").rename(tmp_path / "sst2" / "valid.parquet")
    with pytest.raises(UsageError, match=r"no file for the split 'validation' \(files there: test.parquet, train.parq.*csv"):
        load(task, "directory", tmp_path)


def test_two_files_for_a_split_are_refused(tmp_path):
    write(directory(tmp_path) / "sst2", "test", frame(), "csv")
    with pytest.raises(UsageError, match=r"more than one file for the split 'test' \(test.csv, test.parquet\); keep one"):
        load(TASKS.get("sst2")(), "directory", tmp_path)


def with_cell(row, column, value):
    data = frame().astype(object)
    data.loc[row - 1, column] = value
    return data


MALFORMED = {
    "other columns": (
        frame().rename(columns={"sentence": "text"}),
        "no column sentence; it has text, label, and the task needs sentence, label",
    ),
    "no label": (frame()[["sentence"]], "no column label; it has sentence"),
    "no rows": (frame().iloc[:0], "no rows"),
    "one class": (
        frame().iloc[[1, 3]],
        r"every label is 1 \(positive\); a split needs .* 0 \(negative\), 1 \(positive\)",
    ),
    "label out of range": (with_cell(3, "label", 2), "row 3: label is '?2'?; the labels of sst2 are the integers 0"),
    "negative label": (with_cell(3, "label", -1), "row 3: label is '?-1'?; the labels of sst2 are the integers 0"),
    "label missing": (with_cell(4, "label", None), "row 4: label is missing"),
    "empty text": (with_cell(5, "sentence", ""), "row 5: sentence is empty"),
    "blank text": (with_cell(2, "sentence", "  "), "row 2: sentence is empty"),
}


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_split_is_refused(tmp_path, case, suffix):
    data, message = MALFORMED[case]
    directory(tmp_path, suffix, validation=data)
    with pytest.raises(UsageError, match=rf"sst2/validation\.{suffix}: {message}"):
        load(TASKS.get("sst2")(), "directory", tmp_path)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("sentence", [None], "row 1: sentence is missing"),
        ("sentence", [5] * len(AWKWARD), "row 1: sentence is 5, not text"),
        ("sentence", [["a", "list"]] * len(AWKWARD), r"row 1: sentence is .*'a', 'list'.*, not text"),
        ("label", ["0", "1"] * 5 + ["0"], "row 1: label is '0'; the labels of sst2 are the integers"),
        ("label", [0.5] * len(AWKWARD), "row 1: label is 0.5; the labels of sst2 are the integers"),
        ("label", [1.0] * len(AWKWARD), "row 1: label is 1.0; the labels of sst2 are the integers"),
        ("label", [[1]] * len(AWKWARD), "row 1: label is .*1.*; the labels of sst2 are the integers"),
        ("label", [True] * len(AWKWARD), "row 1: label is True; the labels of sst2 are the integers"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_values_of_another_type_are_refused(tmp_path, column, values, message, suffix):
    data = frame().assign(**{column: values * (len(AWKWARD) // len(values))})
    directory(tmp_path, suffix, test=data)
    with pytest.raises(UsageError, match=rf"sst2/test\.{suffix}: {message}"):
        load(TASKS.get("sst2")(), "directory", tmp_path)


def in_new_process(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_directory_and_builtin_text_need_no_heavy_import(tmp_path):
    directory(tmp_path)
    in_new_process(
        "import sys; from bdbench.registry import TASKS; from bdbench.protocol.sources import load\n"
        f"task = TASKS.get('sst2')(); load(task, 'directory', {str(tmp_path)!r}); load(task, 'builtin')\n"
        "heavy = {'datasets', 'torch', 'ray', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


# the hub


def numbered(rows, start=0, column="sentence"):
    """Rows sorted by label, as IMDB's are on the hub."""
    return pd.DataFrame(
        {column: [f"text {start + i}" for i in range(rows)], "label": np.arange(rows) * 2 // rows, "idx": range(rows)}
    )


def test_hub_validation_is_held_out_of_train(hub):
    train, test = numbered(300), numbered(40, start=300)
    hidden = test.assign(label=-1)
    task = hub("sst2", {"train": train, "validation": test, "test": hidden})
    splits = load(task, "hub")
    assert (splits.source, splits.revision) == ("hub", "main")
    assert [len(data) for data in (splits.train, splits.validation, splits.test)] == [270, 30, 40]
    assert sorted(rows_of(splits.train) + rows_of(splits.validation)) == sorted(
        (text, None, label) for text, label in zip(train["sentence"], train["label"], strict=True)
    )
    assert sorted(rows_of(splits.test)) == [(f"text {300 + i}", None, i // 20) for i in range(40)]
    for data in (splits.train, splits.validation, splits.test):
        assert 0.2 < np.mean(data.labels[: len(data) // 2]) < 0.8  # no longer sorted by label
    sources._from_hub.cache_clear()
    assert load(task, "hub").fingerprint == splits.fingerprint


def test_hub_pairs_keep_together_and_blank_texts_are_left_out(hub):
    pairs = pd.DataFrame({"question1": [f"a{i}" for i in range(50)], "question2": [f"b{i}" for i in range(50)]})
    pairs["label"] = np.arange(50) % 2
    pairs.loc[[3, 4], "question2"] = ["", "  "]
    splits = load(hub("qqp", {"train": pairs, "validation": pairs.iloc[:10]}), "hub")
    rows = rows_of(splits.train) + rows_of(splits.validation)
    assert len(rows) == 48 and len(splits.validation) == 4 and len(splits.test) == 8
    assert all(one[1:] == two[1:] and label == int(one[1:]) % 2 for one, two, label in rows)


def test_hub_titles_are_joined_and_large_splits_cut(hub):
    assert (TASKS.get("amazon").hub.max_train, TASKS.get("amazon").hub.max_test) == (100_000, 20_000)
    reviews = numbered(200, column="content").assign(title=[f"title {i}" for i in range(200)])
    task = hub("amazon", {"train": reviews, "test": reviews}, max_train=100, max_test=20)
    splits = load(task, "hub")
    assert [len(data) for data in (splits.train, splits.validation, splits.test)] == [90, 10, 20]
    for text, _, label in rows_of(splits.train):
        number = int(text.rpartition(" ")[2])
        assert text == f"title {number}: text {number}" and label == number // 100


def test_no_network_is_a_usage_error(tmp_path):
    printed = in_new_process(
        "from bdbench.registry import TASKS; from bdbench.protocol.sources import load\n"
        "from bdbench.errors import UsageError\n"
        "try: load(TASKS.get('sst2')(), 'hub')\n"
        "except UsageError as error: print(error)",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path),
    )
    assert "data set nyu-mll/glue of the task 'sst2' could not be read: the Hugging Face hub could not be reached" in printed
    assert "--data DIR or --data builtin avoids it" in printed


def test_hub_sources_are_pinned_and_hashable():
    sources = [TASKS.get(name).hub for name in TASKS.names()]
    assert len({(source.id, source.config) for source in sources}) == len(set(sources)) == len(sources)
    assert HubSource("a", None, "b") == HubSource("a", None, "b")
