"""What is cut from a text so that no record names a folder or a user of a machine, and what stays."""

import os
import random
import string
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from bdbench.api.execution import typed_values
from bdbench.errors import UsageError
from bdbench.portable import encodable, without_folders
from bdbench.protocol.environment import portable_traceback


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("cannot open /home/Jane Doe/x y/run.py", "cannot open …/run.py"),
        ("/home/Jane Doe/x y/run.py: no such file", "…/run.py: no such file"),
        ("No such file: '/home/Jane Doe/x y/run.py' (2)", "No such file: '…/run.py' (2)"),
        ("\"/srv/Jane's files/x.py\" and '/srv/Jane's files/x.py'", "\"…/x.py\" and '…/x.py'"),
        ("/srv/Jane's files/x.py is bad", "…/x.py is bad"),
        (r"C:\Users\Jane Doe\x.py is bad", "…/x.py is bad"),
        (r"'C:\\Users\\Jane Doe\\x.py'", "'…/x.py'"),
        ("D:/work/Jane/x.py", "…/x.py"),
        (r"on \\server\Jane\x.py", "on …/x.py"),
        ("file:///home/Jane%20Doe/x.py", "…/x.py"),
        ("~jane/deep/x.py and ~/x/y.txt", "…/x.py and …/y.txt"),
        ("PosixPath('/home/Jane Doe/x')", "PosixPath('…/x')"),
        (r"b'first\n/home/jane/x.py: line\n'", r"b'first\n…/x.py: line\n'"),
        ("gcc -I/home/jane/include -L/home/jane/lib", "gcc -I…/include -L…/lib"),
        ("PYTHONPATH=/home/jane/a:/home/jane/b", "PYTHONPATH=…/b"),
        ("moved /srv/a b/c.txt to /srv/d e/f", "moved …/c.txt to …/f"),
        ("denied: /home/jane", "denied: …"),
        ("denied: '/Users/Jane Doe'", "denied: '…'"),
        ("denied: C:\\Users\\Jane Doe", "denied: …"),
        ("in /data/jane/", "in …/"),
        ("/srv/jane/x.txt\n/srv/jane/y.txt\n", "…/x.txt\n…/y.txt\n"),
        ('  File "/home/a "b" c/x.py", line 3, in f', '  File "…/x.py", line 3, in f'),
        ("…/x.py", "…/x.py"),
    ],
)
def test_folders_are_cut_from_every_kind_of_path(text, cut):
    assert without_folders(text) == cut
    assert without_folders(cut) == cut


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/google-bert/bert-base-uncased is down",
        "s3://bucket/key/x",
        "on 12/2026, 3/4 of it, and/or 45 batch/sec",
        "records/0123.json, ./a/b.py and ../c/d.py",
        "</s> <s/> [/INST] 3 / 4 a//b //",
        "/dev is a folder; TCP/IP is none",
        "google-bert/bert-base-uncased@main",
        "ratio: 1/2: C: and D:",
        'File "benchmark/protocol/cells.py", line 3',
        "expected shape (3, 4)\\n but got \\d+",
    ],
)
def test_what_is_no_absolute_path_stays(text):
    assert without_folders(text) == text


def test_words_with_a_slash_beside_a_path_stay():
    text = "/srv/jane/model at 12 batch/sec, 3/4 of /srv/jane/x.txt and/or a/b"
    assert without_folders(text) == "…/model at 12 batch/sec, 3/4 of …/x.txt and/or a/b"


def test_known_folders_and_the_user_are_cut_whatever_signs_they_hold():
    folder = "/srv/odd: 'name' \"x\"\tü,(1)"
    text = f"at {folder}/sub folder/x.py: {folder!r} by jane, not janet: {folder}"
    assert without_folders(text, [PurePosixPath(folder), "/"], "jane") == "at …/x.py: '…' by …, not janet: …"


SIGNS = string.ascii_letters + string.digits + " _-.+@#()[]{},;=&$%!üéßжλ漢字🙂'"


def test_a_folder_whose_name_is_not_utf_8_is_cut_too():
    folder = os.fsdecode(b"/srv/caf\xe9/data")
    text = without_folders(f"no file {folder}/x.txt", [folder])
    assert text == "no file …/x.txt"
    assert encodable(os.fsdecode(b"caf\xe9")) == "caf\\udce9"


@pytest.mark.parametrize("seed", range(60))
def test_no_part_of_a_random_folder_is_left_in_a_traceback(seed, tmp_path):
    draw = random.Random(seed)
    parts = [f"q{''.join(draw.choices(SIGNS, k=draw.randint(3, 20)))}z" for _ in range(draw.randint(2, 5))]
    windows = PureWindowsPath("C:\\", *parts)
    posix = PurePosixPath("/srv", *parts)
    try:
        exec(
            compile("raise OSError(2, 'No such file', given)", str(posix / "run.py"), "exec"), {"given": str(windows / "x.txt")}
        )
    except OSError as error:
        try:
            plain = posix / "y.txt" if "'" not in str(posix) else "y.txt"  # where a quotation mark would end it
            raise UsageError(f"--data {plain}: not a folder, nor {str(posix / 'z.txt')!r}") from error
        except UsageError as shown:
            text = portable_traceback(shown)
    assert "run.py" in text and "x.txt" in text and "z.txt" in text
    assert not [part for part in parts if part in text or repr(part)[1:-1] in text], text


def test_the_traceback_of_a_run_names_none_of_its_folders_nor_its_user(monkeypatch, tmp_path):
    monkeypatch.setenv("USER", "jane.doe")
    monkeypatch.setenv("LOGNAME", "jane.doe")
    monkeypatch.setenv("HOME", "/srv/people/Jane: Doe")
    text = portable_traceback(ValueError(f"jane.doe has no /srv/people/Jane: Doe/models nor {tmp_path}: a, b/w"), [tmp_path])
    assert text == "ValueError: … has no …/models nor …: a, b/w\n"


@pytest.mark.parametrize(
    "typed", ["/home/Jane Doe/data", "/home/Jane Doe/data/", r"C:\Users\Jane\data", r"C:\Users\Jane\data" + "\\", "data"]
)
def test_of_a_typed_folder_the_last_part_is_recorded(typed):
    assert typed_values("laptop", {"data": typed}) == {"preset": "laptop", "data": "data"}


@pytest.mark.parametrize("typed", ["/home/jane", "/home/jane/", r"C:\Users\Jane Doe", "~jane", "~"])
def test_of_a_typed_home_folder_not_even_the_last_part_is_recorded(typed):
    assert typed_values("laptop", {"model": typed}) == {"preset": "laptop", "model": "…"}
