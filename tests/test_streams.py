"""When the reader of a stream goes away, the display stops and the work goes on."""

import os
import subprocess
import sys

import pytest

from bdbench.cli.streams import Unread, UnreadDisplay
from bdbench.errors import StorageError


def stream_into_a_pipe(kind) -> tuple[Unread, int]:
    """A stream, and the number of the file that its reader reads."""
    reader, writer = os.pipe()
    return kind(open(writer, "wb"), encoding="utf-8", line_buffering=True), reader


@pytest.mark.parametrize("kind", [Unread, UnreadDisplay])
def test_what_is_read_arrives_and_what_nobody_reads_goes_nowhere(kind):
    stream, reader = stream_into_a_pipe(kind)
    print("one", file=stream)
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    for _ in range(3):
        assert stream.write("two\n" * 10_000) == 40_000
        stream.flush()
    stream.close()


def test_a_full_disk_ends_the_display_but_not_the_data():
    with open("/dev/full", "wb") as full:
        print("one", file=UnreadDisplay(full, encoding="utf-8", line_buffering=True))
    with (
        open("/dev/full", "wb", buffering=0) as full,
        pytest.raises(StorageError, match="cannot be written to .No space left"),
    ):
        print("one", file=Unread(full, encoding="utf-8", write_through=True))


@pytest.mark.parametrize(("word", "status"), [("defenses", 0), ("nonsense", 2)])
def test_the_exit_status_is_that_of_the_work_whoever_reads(word, status):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bdbench", "list", word]
    assert subprocess.run(command, stdout=writer, stderr=writer).returncode == status
    os.close(writer)
