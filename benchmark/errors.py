"""The exceptions that end a run, or a part of it, with a single line, and the words of such lines."""

import difflib
from collections.abc import Iterable

LONGEST_LINE = 400
GIST = 120  # characters of another library's message, inside one of ours


class UsageError(Exception):
    """Bad input, refused before anything is trained, with exit status 2.

    The message says what was typed, what is allowed and what to do.
    """


class StorageError(Exception):
    """A result could not be written: the disk is full, or its folder is gone or read-only. Ends the run with exit status 1.

    The message says what was to be written, where, why it failed, and what to do. What was written before stays.
    """


class WorkersLost(Exception):
    """No process is left that could do the work. Ends the run with exit status 1. What was written before stays."""


class OutOfTime(BaseException):
    """A victim or cell took too long. Not an Exception, so that a plugin's `except Exception` lets it through."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; nearest: a, b", to end a clause of a message with, or nothing if no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; nearest: {', '.join(near)}" if near else ""


def in_one_line(text: str) -> str:
    """`text` in one printable line of at most `LONGEST_LINE` characters: what is longer loses its middle."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2 - 2
    return f"{line[:half]} … {line[-half:]}"


def first_line(error: BaseException) -> str:
    """The type of an exception and the first line of its message, at most `GIST` characters of both.

    Many a library's message has dozens of lines.
    """
    message = str(error).strip().partition("\n")[0]
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if len(text) <= GIST else text[: GIST - 1] + "…"
