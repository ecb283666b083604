"""Texts for records, without the folders and the user's name of the machine they come from."""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import PurePath

CUT = "…"
LONGEST_PATH = 1024  # so far does every path look for its end
WORDS_IN_A_NAME = 8  # so many blanks may a folder's name have where no quotation mark says where the path ends

_IN_TRACEBACK = re.compile(r'File "((?:/|~|[A-Za-z]:|\\\\|…).{0,1024}?)", line (?=\d)', re.DOTALL)
# Where an absolute path begins, or a URL: not within a word, but after an escaped line end ("\n/home") or a flag ("-I/home").
_START = re.compile(
    r"""
    (?P<url> \b(?!file:)[a-zA-Z][a-zA-Z0-9+.-]+://[^\s'"]* )
    | (?: (?<=\\[nrt]) | (?<=\s-\w) | (?<![\w.…/\\<~]) )
      (?: file:/+ | (?:…|~(?:[^\W\d][\w.-]*)?)?/+(?=[^\s/]) | …\\+ | [A-Za-z]:[\\/]+ | \\{2,4}(?=[^\s\\]+\\) )
    """,
    re.VERBOSE,
)
_SEPARATOR = re.compile(r"[\\/]")
_WORD = re.compile(r"\S+|\n")
# A path without quotation marks ends before a line end, a quotation mark that is no apostrophe, a colon before a blank.
_END = re.compile(r"""[\n"`]|(?<!\w)'|'(?!\w)|:(?=\s|$)""")
# It ends after a file's name, and before words with a slash that are no part of it: 3/4, and/or, batch/sec, -L/home/jane.
_FILE = re.compile(
    r"\.(?:py|pyc|ipynb|so|json|jsonl|csv|tsv|txt|md|tex|log|ya?ml|toml|parquet|arrow|npz?|pt|bin|safetensors|gguf|gz|zip)\W*$"
)
_NO_PATH = re.compile(
    r"\W*(?:[\d.,]+(?:/[\d.,]+)+|and/or|either/or|n/a|\w+/(?:s|sec|second|min|minute|h|hour|step|epoch|core))\W*|-\w…?/.*"
)
# The last part of the path, which stays, and the words of a name that may follow it.
_LAST_PART = re.compile(r"[^\s,;:)\]}]*(?:[ ][A-Z][\w.-]*)*")
# What holds the home folders: the next part is a user's name.
_HOMES = re.compile(r"(?:file:/+)?(?:[A-Za-z]:)?[\\/]+(?:home|Users|Documents and Settings)[\\/]+", re.IGNORECASE)


def without_folders(text: str, folders: Iterable[str | PurePath] = (), user: str | None = None) -> str:
    """`text` with every absolute path cut to "…/" and the file's name, since no record may name a folder of a machine.

    `folders`, absolute ones, are cut exactly, whatever signs their names hold, and the word `user` goes, too. Of other paths
    everything up to the last separator goes: POSIX or Windows, with blanks or not, in quotation marks or not. Where one without
    quotation marks ends is a guess that rather cuts too much. URLs and relative paths stay.
    """
    for folder in sorted({str(folder) for folder in folders}, key=len, reverse=True):
        if PurePath(folder).is_absolute() and len(PurePath(folder).parts) > 1:
            for spelling in _spellings(folder):
                text = re.sub(rf"(?<![\w.]){re.escape(spelling)}(?![\w-])", CUT, text)
    text = _IN_TRACEBACK.sub(lambda match: f'File "{_cut(match[1])}", line ', text)
    pieces, position = [], 0
    while start := _START.search(text, position):
        end = start.end() if start["url"] else _end_of_path(text, start)
        path = text[start.start() : end]
        pieces += [text[position : start.start()], path if start["url"] else _cut(path)]
        position = end
    text = "".join([*pieces, text[position:]])
    return re.sub(rf"(?<!\w){re.escape(user)}(?!\w)", CUT, text) if user else text


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can hold the text: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encodable(text: str) -> str:
    """`text` with an escape for what UTF-8 cannot hold: half a surrogate pair, as in the name of a file that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def last_part(path: str) -> str:
    """The last part of a path as it was typed, POSIX or Windows, unless it is the name of a user: of a home folder."""
    path = path.rstrip("\\/")
    last = max(path.rfind("/"), path.rfind("\\")) + 1
    is_home = _HOMES.fullmatch(path[:last]) or path[last:].startswith("~")
    return CUT if is_home else path[last:]


def _spellings(folder: str) -> list[str]:
    """A folder's name as it may stand in a text: as it is, as Python or JSON quote it, in a URL."""
    spellings = {folder, repr(folder)[1:-1], json.dumps(folder)[1:-1], urllib.parse.quote(os.fsencode(folder))}
    return sorted(spellings, key=len, reverse=True)


def _end_of_path(text: str, start: re.Match[str]) -> int:
    """Where the path ends that begins with `start`."""
    quote = text[start.start() - 1 : start.start()]
    if quote and quote in "'\"`":
        # a quotation mark with more of a word after it is a sign of the path
        closing = re.compile(rf"(?<!\\){quote}(?=[,;:.)\]}}>!?]*(?:\s|$|['\"`]))|\n")
        closed = closing.search(text, start.end(), start.end() + LONGEST_PATH)
        if closed and closed[0] == quote:
            return closed.start()
    last_separator = end = start.end()
    words_since = 0
    for word in _WORD.finditer(text, start.start(), start.end() + LONGEST_PATH):
        is_first = word.start() == start.start()
        if not is_first and (word[0] == "\n" or _START.match(text, word.start()) or _NO_PATH.fullmatch(word[0])):
            break
        stop = _END.search(text, max(start.end(), word.start()), word.end())
        end = stop.start() if stop else word.end()
        separators = list(_SEPARATOR.finditer(text, word.start(), end))
        words_since = 0 if separators else words_since + 1
        if words_since > WORDS_IN_A_NAME:
            break
        if separators:
            last_separator = max(last_separator, separators[-1].end())
        if stop or _FILE.search(text, word.start(), end) or (is_first and start[0] == "/" and len(separators) == 1):
            break
    return _LAST_PART.match(text, last_separator, max(end, last_separator)).end()


def _cut(path: str) -> str:
    """An absolute path without its folders. One directly below the root has none; of a home folder nothing is left."""
    *_, last = _SEPARATOR.finditer(path)
    folders, name = path[: last.end()], path[last.end() :]
    if _HOMES.fullmatch(folders):
        return CUT
    return path if folders == "/" else f"{CUT}/{name}"
