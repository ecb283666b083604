"""The files of a data directory: what is read exactly as it stands, and what is refused in one short line."""

import gzip
import io
import json
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from bdbench.errors import UsageError
from bdbench.protocol.row_checks import class_words
from bdbench.protocol.sources import load
from bdbench.registry import TASKS
from bdbench.suspects.reading import read_labelled
from bdbench.tasks.base import Task

SST2 = TASKS.get("sst2")()
QQP = TASKS.get("qqp")()
ROWS = [("a fine film", 1), ("a dull – 漢字 – plot", 0), ("NA", 1), (" 12", 0)]
LONGEST = 250  # of a message, without the path of the file


def as_csv(rows=ROWS, header="sentence,label"):
    return header + "\n" + "".join(f"{text},{label}\n" for text, label in rows)


@pytest.fixture
def folder(tmp_path):
    """The folder of sst2, with two good splits; a test adds the train split."""
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    for split in ("validation", "test"):
        (folder / f"{split}.csv").write_text(as_csv())
    return folder


def train(folder, task=SST2):
    data = load(task, "directory", folder.parent).train
    return list(zip(data.first, *([] if data.second is None else [data.second]), data.labels.tolist(), strict=True))


def refusal(folder, task=SST2):
    """What `load` says, without the path in front. Fails unless it is one short line."""
    with pytest.raises(UsageError) as refused:
        load(task, "directory", folder.parent)
    message = str(refused.value).replace(str(folder.parent), "DIR")
    assert "\n" not in message and message.isprintable() and len(message) <= LONGEST, message
    return message


def put(folder, name, content):
    content = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)


def parquet(table):
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


# what the field publishes

TABLE = pa.table({"sentence": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
OBJECTS = [{"sentence": text, "label": label, "idx": {"nested": [1]}} for text, label in ROWS]
TSV = as_csv().replace(",", "\t")
LINES = "".join(json.dumps(item) + "\n" for item in OBJECTS)
LAYOUTS = {
    "train.parquet": parquet(TABLE),
    "train-00000-of-00001.parquet": parquet(TABLE),
    "train-00000-of-00001-a09b74b3ef9c3b56.parquet": parquet(TABLE),
    "train.csv": as_csv(),
    "train.csv.gz": as_csv(),
    "TRAIN.CSV": as_csv(),
    "train.CSV.GZ": as_csv(),
    "train.tsv": TSV,
    "train.tsv.gz": TSV,
    "train.jsonl": LINES,
    "train.jsonl.gz": "\ufeff" + LINES,
    "train.json": json.dumps(OBJECTS),
    "train.json.gz": json.dumps(OBJECTS, ensure_ascii=False, indent=1),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_rows(folder, name):
    put(folder, name, LAYOUTS[name])
    splits = load(SST2, "directory", folder.parent)
    assert train(folder) == ROWS
    (folder / name).rename(folder / "away")
    put(folder, "train.parquet", LAYOUTS["train.parquet"])
    assert load(SST2, "directory", folder.parent).fingerprint == splits.fingerprint


def test_labels_may_be_the_names_of_the_classes(folder):
    """As in GLUE's QNLI."""
    words = {0: SST2.label_names[0], 1: SST2.label_names[1]}
    named = pd.DataFrame([(text, words[label]) for text, label in ROWS], columns=["sentence", "label"])
    put(folder, "train.csv", named.to_csv(index=False))
    assert train(folder) == ROWS
    put(folder, "train.csv", named.replace("positive", "Positive").to_csv(index=False))
    with pytest.raises(UsageError, match="label is 'Positive'; the labels of sst2 are the integers 0 .negative., 1 .positive."):
        load(SST2, "directory", folder.parent)


def test_a_label_that_may_be_a_name_or_a_number_is_refused(tmp_path):
    """Classes called by numbers: the text 1 is the name of class 0 and the number of class 1. An integer is a number."""
    stars = ("1", "2", "3")
    of_names = pd.DataFrame([("bad", 3), ("good", 2)], columns=["text", "label"])
    said = r"row 2: label is '2', the name of class 1 and the number of class 2 of this model; write labels as integers"
    of_names.to_csv(tmp_path / "rows.csv", index=False)
    of_names.astype(str).to_json(tmp_path / "words.jsonl", orient="records", lines=True)
    for name in ("rows.csv", "words.jsonl"):
        with pytest.raises(UsageError, match=said):
            read_labelled(tmp_path / name, stars, "--clean")
    of_names.assign(label=[1, 2]).to_json(tmp_path / "numbers.jsonl", orient="records", lines=True)
    assert read_labelled(tmp_path / "numbers.jsonl", stars, "--clean").labels.tolist() == [1, 2]
    of_names.assign(label=[0, 1]).to_csv(tmp_path / "own.csv", index=False)
    assert read_labelled(tmp_path / "own.csv", ("0", "1"), "--clean").labels.tolist() == [0, 1]
    assert class_words(stars) == {"3": 2, "0": 0} and class_words(("no", "1")) == {"no": 0, "0": 0, "1": 1}


BOM = "\ufeff"
CONTENTS = {
    "JSON lines under .json": ("train.json", LINES),
    "a JSON array under .jsonl": ("train.jsonl", json.dumps(OBJECTS)),
    "an array on many lines": ("train.jsonl", "\n" + json.dumps(OBJECTS, indent=2)),
    "a byte order mark before CSV": ("train.csv", BOM + as_csv()),
    "a byte order mark before TSV": ("train.tsv", BOM + TSV),
    "a byte order mark before JSON lines": ("train.jsonl", BOM + LINES),
    "a byte order mark before a JSON array": ("train.json", BOM + json.dumps(OBJECTS)),
    "CRLF": ("train.csv", as_csv().replace("\n", "\r\n")),
    "CRLF in TSV": ("train.tsv", TSV.replace("\n", "\r\n")),
    "CRLF in JSON lines": ("train.jsonl", LINES.replace("\n", "\r\n")),
    "CR alone": ("train.csv", as_csv().replace("\n", "\r")),
    "no last line end": ("train.csv", as_csv()[:-1]),
    "blank lines": ("train.csv", "\n" + as_csv().replace("\n", "\n\n  \n")),
    "blank lines in JSON lines": ("train.jsonl", "\n" + LINES.replace("\n", "\n \n")),
    "blanks around labels and names": (
        "train.csv",
        as_csv([(text, f" {label}\t") for text, label in ROWS], " sentence, label"),
    ),
    "all in quotes": ("train.csv", '"sentence","label"\n' + "".join(f'"{text}","{label}"\n' for text, label in ROWS)),
    "an index without a name": ("train.csv", ",sentence,label\n" + "".join(f"{i},{t},{y}\n" for i, (t, y) in enumerate(ROWS))),
    "a comma at every line's end": ("train.csv", as_csv([(text, f"{label},") for text, label in ROWS], "sentence,label,")),
    "a dictionary of texts": ("train.parquet", parquet(TABLE.set_column(0, "sentence", TABLE["sentence"].dictionary_encode()))),
    "an index made of the texts": ("train.parquet", pd.DataFrame(OBJECTS).set_index("sentence").to_parquet()),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_these_contents_give_the_same_rows(folder, case):
    put(folder, *CONTENTS[case])
    assert train(folder) == ROWS


QUOTED = [
    ('say "no", twice', 1),
    ("two\nlines, and\r\none more", 0),
    ('"', 1),
    ('""quoted""', 0),
    ("a list: 1, 2\nand 3, 4", 1),
    ("\n", 0),
    ("10,\n0", 1),
]


def test_quoted_texts_are_read_as_they_were_written(folder):
    rows = [(text + "x", label) for text, label in QUOTED]
    put(folder, "train.csv", pd.DataFrame(rows, columns=["sentence", "label"]).to_csv(index=False))
    assert train(folder) == rows


def test_a_quote_in_tsv_is_a_character(folder):
    rows = [('say "no"', 1), ('"all of it"', 0), ('5" disc', 1), ('"', 0), ('""', 1), ('"he said ""no"""', 0)]
    put(folder, "train.tsv", "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    assert train(folder) == rows


def test_dev_is_the_validation_split(folder):
    put(folder, "train.csv", as_csv())
    (folder / "validation.csv").unlink()
    put(folder, "dev.tsv", TSV[: TSV.index("NA")])
    assert len(load(SST2, "directory", folder.parent).validation) == 2


def test_shards_are_joined_in_order_and_read_again_when_one_changes(folder):
    for shard in (10, *range(10)):  # each of one label, as a sorted data set has them
        put(folder, f"train-{shard}-of-11.csv", as_csv([(f"text {shard}.{row}", shard % 2) for row in range(2)]))
    assert train(folder) == [(f"text {shard}.{row}", shard % 2) for shard in range(11) for row in range(2)]
    first = load(SST2, "directory", folder.parent)
    assert load(SST2, "directory", folder.parent) is first
    put(folder, "train-10-of-11.csv", as_csv([("another text", 0)]))
    assert train(folder)[-2:] == [("text 9.1", 1), ("another text", 0)]


def test_a_link_into_a_cache_is_read_by_its_own_name(folder, tmp_path):
    (tmp_path / "blob").write_bytes(LAYOUTS["train.parquet"])
    (folder / "train-00000-of-00001.parquet").symlink_to(tmp_path / "blob")
    assert train(folder) == ROWS


# which files are a split

BAD_FOLDERS = {
    ("train.csv", "train.csv.gz"): "DIR/sst2: more than one file for the split 'train' (train.csv, train.csv.gz); keep one",
    ("train.csv", "dev.csv"): "more than one file for the split 'validation' (dev.csv, validation.csv); keep one",
    ("train.csv", "Train.csv"): "more than one file for the split 'train' (Train.csv, train.csv); keep one",
    ("train.parquet", "train-00000-of-00001.parquet"): "more than one file for the split 'train'",
    ("train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"): "more than one file for",
    ("train-00000-of-00002.csv", "train-00001-of-00002.tsv"): "more than one file for the split 'train'",
    ("train-00000-of-00001.csv", "train-0-of-1.csv"): "more than one file for the split 'train'",
    ("train-00000-of-00003.csv", "train-00002-of-00003.csv"): "the split 'train' lacks shard 00001 of 3",
    ("train-00000-of-99999999999.csv",): "the split 'train' lacks shard 00001 of 99999999999",
    ("train-00000-of-00001.csv", "train-00001-of-00001.csv"): "train-00001-of-00001.csv: a shard beyond the last of 1",
    (
        "train.parquet.gz",
        "train.txt",
        "xtrain.csv",
        "train.csv.bak",
    ): "no file for the split 'train' (files there: test.csv, tra",
    tuple(f"{'part' * 30}-{i}" for i in range(200)): "and 197 more); add train.parquet, .csv, .tsv, .jsonl, .json",
}


@pytest.mark.parametrize("names", BAD_FOLDERS, ids=lambda names: " ".join(names)[:60])
def test_a_split_is_one_file_or_all_its_shards(folder, names):
    for name in names:
        put(folder, name, as_csv())
    assert BAD_FOLDERS[names] in refusal(folder)


def test_what_is_no_file_is_refused(folder):
    (folder / "train.csv").mkdir()
    assert "sst2/train.csv: not a file but a folder, or a link" in refusal(folder)
    (folder / "train.csv").rmdir()
    (folder / "train.csv").symlink_to("train.csv")
    assert "sst2/train.csv: not a file but a folder, or a link" in refusal(folder)
    (folder / "train.csv").unlink()
    os.mkfifo(folder / "train.csv")
    assert "sst2/train.csv: not a file" in refusal(folder)


def test_what_may_not_be_read_is_refused():
    root = Path(tempfile.mkdtemp())
    folder = root / "sst2"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        put(folder, f"{split}.csv", as_csv())
    root.chmod(0o755)
    user = os.geteuid()
    try:
        for path, said in (
            (folder / "test.csv", "sst2/test.csv: cannot be read (Permission denied)"),
            (folder, "--data DIR: "),
        ):
            path.chmod(0)
            os.seteuid(user or 65534)  # the superuser may read everything
            assert said in refusal(folder)
            os.seteuid(user)
            path.chmod(0o755)
    finally:
        os.seteuid(user)
        shutil.rmtree(root)


# strict tables

STRAY = [("a, b", 0), ("c", 1), ("d", 0), ("e", 1)]
SWALLOWED = "lines in a quoted field look like rows, so a stray quote may have swallowed them"
BAD_TABLES = {
    "an unquoted comma in every row": ("a, b,0\nc, d,1\n", "row 1 (line 2) has 3 fields, the header 2; put a text that"),
    "an unquoted comma in one row": ("a,0\nb,1\n\nc, d,1\n", "row 3 (line 5) has 3 fields"),
    "a row too short": ("a,0\nb\nc,1\n", "row 2 (line 3) has 1 field, the header 2"),
    "a row without commas, with tabs": ("a\t0\nb\t1\n", "row 1 (line 2) has 1 field, the header 2; it is separated by tabs"),
    "a comma at the end of the rows": ("a,0,\nb,1,\n", "has 3 fields, the header 2; remove the comma at its end, or put"),
    "an index that the header lacks": ("0,a,0\n1,b,1\n", "row 1 (line 2) has 3 fields, the header 2"),
    "rows between two stray quotes": ('a,0\n"b,1\nc,0\nd",1\n', f"row 2 (line 3): {SWALLOWED}"),
    "two rows between stray quotes": ('"a,0\nb",1\nc,0\n', f"row 1 (line 2): {SWALLOWED}"),
    "swallowed rows with a blank before the label": ('"a, 0 \nb",1\nc,0\n', SWALLOWED),
    "swallowed rows with an unquoted comma": ('"a, a,0\nb",1\nc,0\n', SWALLOWED),
    "swallowed rows with CRLF": ('"a,0\r\nb",1\r\nc,0\r\n', SWALLOWED),
    "swallowed rows with CR": ('"a,0\rb",1\rc,0\r', SWALLOWED),
    "a quote that nothing closes": ('a,0\n"b,1\nc,0\n', "row 2 (line 3): a quote opens a field and no later one closes it"),
    "a quote that another field's closes": (
        'a,0\n"b,1\nc,0\n"d, e",1\n',
        "row 2 (line 3): quotes do not match up to line 5",
    ),
    "text after a closing quote": ('a,0\n"b" c,1\n', "row 2 (line 3): a quote where none may be; put a field"),
    "a quote in a field without quotes": ('a,0\nthe 5" disc,1\n', "row 2 (line 3): a quote where none may be"),
    "an opening quote lost": ('a,0\nhe said ""no"" twice",1\n', "row 2 (line 3): a quote where none may be"),
    "a quote of one row that opens no field": ('a,0\nb",1\n"c, d",1\n', "row 2 (line 3): a quote where none may be"),
    "a closing quote lost": ('"a","0"\n"b,"1"\n"c","0"\n', "row 2 (line 3): a quote where none may be"),
    "blanks before a quote": ('a,0\n "b, c",1\n', "row 2 (line 3): a quote where none may be"),
    "a NUL byte": ("a,0\nb\0c,1\n", "line 3: a NUL byte"),
    "a label with a point": ("a,0.0\nb,1.0\n", "row 1: label is '0.0'; the labels of sst2 are the integers 0 (negative)"),
    "a label with a sign": ("a,0\nb,+1\n", "row 2: label is '+1'"),
    "a label in other digits": ("a,0\nb,１\n", "row 2: label is '１'"),
    "a label of blanks": ("a,0\nb, \n", "row 2: label is missing"),
    "a header in the middle": ("a,0\nb,1\nsentence,label\n", "row 3: label is 'label'"),
    "no rows": ("", "no rows"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_is_not_strict_is_refused(folder, case):
    rows, message = BAD_TABLES[case]
    put(folder, "train.csv", "sentence,label\n" + rows)
    said = refusal(folder)
    assert said.startswith("DIR/sst2/train.csv: ") and message in said


HEADERS = {
    "label first": ("label,sentence", '0,"a\n1,b"\n1,c\n', SWALLOWED),
    "an index first": (",sentence,label", '0,"a,0\n1,b",1\n2,c,0\n', SWALLOWED),
    "a note last": ("sentence,label,note", 'a,0,"x\nb,1,y\nc,1,z"\nd,1,x\n', SWALLOWED),
    "text in a column without a name": (
        "label,sentence,",
        "0,a,\n1,b, c\n",
        "row 2 (line 3): 'c' is in a column without a name",
    ),
    "text in place of an index": (
        ",sentence,label",
        "0,a,0\nwell, b,1\n",
        "row 2 (line 3): 'well' is in a column without a name",
    ),
    "a repeated column": ("sentence,label,sentence", "a,0,b\nb,1,c\n", "two columns are named 'sentence'"),
    "a repeated label": ("sentence,label, label", "a,0,1\nb,1,1\n", "two columns are named 'label'"),
    "a repeated other column": ("sentence,label,idx,idx", "a,0,1,1\nb,1,1,1\n", "two columns are named 'idx'"),
    "semicolons": ("sentence;label", "a, b;0\n", "separated by semicolons, not by commas; write it with commas"),
    "semicolons and quotes": ('"sentence";"label"', '"a, b";"0"\n', "separated by semicolons, not by commas"),
    "tabs": ("sentence\tlabel", "a, b\t0\n", "separated by tabs, not by commas; name it .tsv"),
    "bars": ("text|label", "a|0\n", "separated by vertical bars, not by commas"),
    "no header": (
        "a fine film,1",
        "b,0\n",
        "no column sentence, label; it has a fine film, 1, and the task needs sentence, label",
    ),
    "120 columns": (",".join(f"column {i}" for i in range(120)), "a\n", "column 4, and 115 more, and the task needs"),
    "a stray quote": ('"sentence,label', 'a,0\nb",1\n', "the header (line 1): a line end in a quoted name"),
    "one name": ("sentence", "a\nb\n", "no column label; it has sentence"),
    "nothing": ("", "", "no rows, and no header either; the first line should be sentence,label"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_checked(folder, case):
    header, rows, message = HEADERS[case]
    put(folder, "train.csv", f"{header}\n{rows}")
    assert message in refusal(folder)


PAIRS = {
    "one field of two rows": '"a,b,0\nc,d",1\n',
    "from the first text to the first": '"a,b,0\nc",d,1\n',
    "from the second text to the second": 'a,"b,0\nc,d",1\n',
    "three rows": 'a,"b,0\nc,d,1\ne,f",1\n',
}


@pytest.mark.parametrize("case", PAIRS)
def test_swallowed_pairs_are_refused(folder, case):
    folder = folder.rename(folder.with_name("qqp"))
    put(folder, "train.csv", "question1,question2,label\nx,y,0\n" + PAIRS[case])
    assert f"train.csv: row 2 (line 3): {SWALLOWED}" in refusal(folder, QQP)


BAD_CONTENTS = {
    "UTF-16": ("train.csv", as_csv().encode("utf-16"), "looks like UTF-16 or UTF-32; save the file as UTF-8"),
    "UTF-16 without a mark": ("train.jsonl", LINES.encode("utf-16-be"), "looks like UTF-16"),
    "UTF-32": ("train.tsv", TSV.encode("utf-32"), "looks like UTF-16 or UTF-32"),
    "Latin-1": ("train.csv", b"sentence,label\na,0\ncaf\xe9,1\n", "line 3: the byte 0xe9 is not UTF-8; save the file as UTF-8"),
    "Latin-1 in JSON": ("train.json.gz", b'[{"sentence": "\xff"}]', "line 1: the byte 0xff is not UTF-8"),
    "gzip without .gz": ("train.csv", gzip.compress(as_csv().encode()), "compressed; let its name end in .gz"),
    "nothing": ("train.csv", b"", "no rows"),
    "nothing in gzip": ("train.tsv.gz", b"", "no rows"),
    "nothing in JSON lines": ("train.jsonl", b"", "no rows"),
    "an empty array": ("train.json", b"[]", "no rows"),
    "a parquet without rows": ("train.parquet", parquet(TABLE[:0]), "no rows"),
    "nothing in parquet": ("train.parquet", b"", "not a readable parquet file (ArrowInvalid: "),
    "half a parquet": ("train.parquet", parquet(TABLE)[:300], "not a readable parquet file ("),
    "another kind of file": ("train.parquet", as_csv().encode(), "not a readable parquet file ("),
    "a parquet with two columns of one name": (
        "train.parquet",
        parquet(pa.table([TABLE["sentence"], TABLE["label"], TABLE["label"]], ["sentence", "label", "label"])),
        "two columns are named 'label'; rename or remove one",
    ),
    "commas in .tsv": ("train.tsv", as_csv().encode(), "separated by commas, not by tabs; name it .csv"),
    "a tab in a text": (
        "train.tsv",
        b"sentence\tlabel\na\t0\nb\tc\t1\n",
        "row 2 (line 3) has 3 fields, the header 2; no text may",
    ),
    "a row cut short": ("train.tsv", b"sentence\tlabel\na\t0\nb\n", "row 2 (line 3) has 1 field, the header 2; no text may"),
    "TSV quoted as CSV": (
        "train.tsv",
        b'sentence\tlabel\na\t0\n"say ""no"", twice"\t1\n',
        "row 2 (line 3): quoted as in CSV, but a .tsv has no quoting",
    ),
    "an array of arrays": (
        "train.jsonl",
        json.dumps([list(range(120))] * 9).encode(),
        "row 1 is [0, 1, 2, 3, 4, 5, ...], not an",
    ),
    "an array per line": (
        "train.jsonl",
        b'["a", 0]\n["b", 1]\n',
        "not an array of objects, nor an object per line (JSONDecodeE",
    ),
    "an object on many lines": (
        "train.json",
        b'{\n"sentence": "a"\n}',
        "row 1 (line 1) is not an object of JSON on one line (",
    ),
    "columns in one object": (
        "train.json",
        b'{"sentence": {"0": "a"}, "label": {"0": 1}}',
        "row 1: sentence is {'0': 'a'}, not t",
    ),
    "a line cut short": ("train.jsonl", LINES[:-9].encode(), "row 4 (line 4) is not an object of JSON on one line ("),
    "NaN": ("train.jsonl", b'{"sentence": "a", "label": NaN}', "NaN is not JSON"),
    "a key twice": (
        "train.jsonl",
        b'{"sentence": "a", "sentence": "b", "label": 0}',
        "a key occurs twice in ['sentence', 'sente",
    ),
    "other keys": ("train.jsonl", b'{"text": "a", "label": 0}', "no column sentence; it has text, label, and the task needs"),
    "differing keys": ("train.jsonl", LINES.encode() + b'{"text": "a", "label": 0}', "row 5: sentence is missing; correct"),
    "no label in one row": ("train.json", b'[{"sentence": "a", "label": 0}, {"sentence": "a"}]', "row 2: label is missing"),
    "a null": ("train.jsonl", LINES.encode() + b'{"sentence": null, "label": 0}', "row 5: sentence is missing"),
    "a nested text": ("train.jsonl", b'{"sentence": {"a": "b"}, "label": 0}', "row 1: sentence is {'a': 'b'}, not text"),
    "a list of texts": ("train.jsonl", b'{"sentence": ["a", "b"], "label": 0}', "row 1: sentence is ['a', 'b'], not text"),
    "half a surrogate pair": (
        "train.jsonl",
        LINES.encode() + b'{"sentence": "a\\ud800", "label": 0}',
        "row 5: sentence has half a",
    ),
    "a number with 9000 digits": (
        "train.jsonl",
        b'{"sentence": "a", "label": ' + b"9" * 9000 + b"}",
        "row 1 (line 1) is not an",
    ),
    "a depth of 99999": ("train.json", b"[" * 99999, "not an array of objects, nor an object per line (RecursionError"),
    "a key with a line end": ("train.jsonl", b'{"a\\nb\\u001b[1m\\ud800": 1}', "it has a?b?[1m?, and the task needs"),
}


@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_a_content_that_is_not_what_the_name_says_is_refused(folder, case):
    name, content, message = BAD_CONTENTS[case]
    put(folder, name, content)
    said = refusal(folder)
    assert said.startswith(f"DIR/sst2/{name}: ") and message in said


GZIP = gzip.compress(as_csv().encode())
BROKEN_GZIP = {
    "cut in its rows": GZIP[:-20],
    "cut in its checksum": GZIP[:-4],
    "another checksum": GZIP[:-6] + b"ab" + GZIP[-4:],
    "not UTF-8 and cut": gzip.compress(b"sentence,label\ncaf\xe9,1")[:-4],
    "no gzip": as_csv().encode(),
    "rubbish after the end": GZIP + b"abc",
}


@pytest.mark.parametrize("case", BROKEN_GZIP)
def test_a_broken_gzip_file_is_refused(folder, case):
    (folder / "train.csv.gz").write_bytes(BROKEN_GZIP[case])
    assert "train.csv.gz: not a whole gzip file (" in refusal(folder)


def test_a_bad_row_of_a_shard_is_named_with_its_file(folder):
    put(folder, "train-00000-of-00002.csv", as_csv())
    put(folder, "train-00001-of-00002.csv", as_csv([("a", 0), ("b", 2)]))
    assert "sst2/train-00001-of-00002.csv: row 2: label is '2'" in refusal(folder)
    put(folder, "train-00000-of-00002.csv", as_csv([("a", 0)]))
    put(folder, "train-00001-of-00002.csv", as_csv([("b", 0)]))
    assert "train-00000-of-00002.csv and the other shards: every label is 0 (negative)" in refusal(folder)


def test_a_message_stays_short_whatever_the_classes(folder):
    @dataclass(frozen=True)
    class Intents(Task):
        name = "sst2"
        columns = ("sentence",)
        label_names = tuple(f"an intent with a long name {i}" for i in range(150))

    put(folder, "train.csv", as_csv([("a" * 900, 149), ("b", "c" * 900)]))
    assert "row 2: label is 'ccc" in refusal(folder, Intents())
    put(folder, "train.csv", as_csv([("a", 149), ("b", 149)]))
    assert "every label is 149 (an intent with a long name 149); a split needs" in refusal(folder, Intents())


# damaged files


def test_a_damaged_file_is_refused_or_read_exactly(folder):
    """A row of a damaged CSV file is one that the standard library's strict reader has at the same place."""
    import csv

    rng = random.Random(0)
    rows = [(rng.choice(['a "b" c', "a, b", "two\nlines", "plain", "é"]) + f" {i}", i % 2) for i in range(12)]
    good = pd.DataFrame(rows, columns=["sentence", "label"]).to_csv(index=False)
    accepted = 0
    for _ in range(300):
        at = rng.randrange(len("sentence,label\n"), len(good))
        mutated = good[:at] + rng.choice(['"', ",", "\n", "\r", '""', ",0\n", "", " "]) + good[at + rng.randrange(2) :]
        put(folder, "train.csv", mutated)
        try:
            read = train(folder)
        except UsageError:
            continue
        accepted += 1
        strict = [row for row in csv.reader(io.StringIO(mutated, newline=""), strict=True) if "".join(row).strip()]
        assert read == [(text, int(label)) for text, label in strict[1:]]
    assert 30 < accepted < 270


@pytest.mark.parametrize(
    "header", ["sentence,label", "label,sentence", ",sentence,label", "idx,label,sentence,note", "label,sentence,"]
)
def test_no_two_stray_quotes_swallow_a_row(folder, header):
    """One opens any field of a row and one closes any field of a later row: refused, whichever they are."""
    columns = header.split(",")
    value = {"sentence": "a film {}", "note": "of {}", "idx": "{}", "": "{}" if columns[0] == "" else ""}
    rng = random.Random(header)
    for _ in range(40):
        rows = [[str(rng.randrange(2)) if name == "label" else value[name].format(i) for name in columns] for i in range(6)]
        first, last = sorted(rng.sample(range(6), 2))
        opened, closed = (rng.randrange(len(columns)) for _ in range(2))
        rows[first][opened] = f'"{rows[first][opened]}'
        rows[last][closed] += '"'
        put(folder, "train.csv", "\n".join([header, *map(",".join, rows)]) + "\n")
        assert f"train.csv: row {first + 1}" in refusal(folder)


# the hub's rows are checked by the same rules


def test_hidden_labels_and_missing_texts_of_the_hub_are_refused(hub):
    rows = pd.DataFrame({"sentence": [f"text {i}" for i in range(40)], "label": np.arange(40) % 2})
    missing = rows.copy()
    missing.loc[6, "sentence"] = None
    bad = {
        "sst2": ({"train": missing, "validation": rows}, "^the split 'train' of .*hub-sst2: row 7: sentence is missing"),
        "imdb": (
            {
                "train": rows.rename(columns={"sentence": "text"}),
                "test": rows.rename(columns={"sentence": "text"}).assign(label=-1),
            },
            "^the split 'test' of the data set .*: row 1: label is -1; the labels .*; -1 marks labels that are hidden$",
        ),
        "amazon": ({"train": rows, "test": rows}, "no column title, content; it has sentence, label, and the task needs title"),
        "qnli": ({"train": rows.assign(question=" "), "validation": rows}, "^the split 'train' of .*hub-qnli: no rows"),
    }
    for name, (frames, message) in bad.items():
        with pytest.raises(UsageError, match=message):
            load(hub(name, frames), "hub")
