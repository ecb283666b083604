"""The exceptions that end a run with a single line, and the words of such lines."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Bad input, refused before anything is trained, with exit status 2.

    The message says what was typed, what is allowed and what to do.
    """


class StorageError(Exception):
    """A result could not be written: the disk is full, or its folder is gone or read-only. Ends the run with exit status 1.

    The message says what was to be written, where, why it failed, and what to do. What was written before stays.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; nearest: a, b", to end a clause of a message with, or nothing if no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; nearest: {', '.join(near)}" if near else ""
