"""A long text in segments, each tokenized by itself: the word pieces of the text are those of its segments, one after another.

Tokenizing takes some hundred bytes of memory for each character, so a text of 50 MB would take 5 GB at once. A text is cut only
where the parts of its tokenizer show that the cut changes no piece. Any other text is one segment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer

SEGMENT = 2**16  # characters; a shorter text is never cut
METASPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # stands for a blank in sentencepiece's tokenizers

# A blank between two ASCII letters or digits: no normalizer below joins or moves characters across the cut, and a pre-tokenizer
# that marks blanks begins a new word there.
BETWEEN_WORDS = re.compile(r"(?<=[0-9A-Za-z])(?= [0-9A-Za-z])")
# For a pre-tokenizer that drops blanks. A normalizer may take "\r\n" for one character.
BEFORE_BLANKS = re.compile(r"(?<!\r)(?=[ \n])")

# Each character by itself, or together with the accents behind it.
BY_CHARACTER = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "StripAccents"}
NORMALIZERS = BY_CHARACTER | {"Precompiled", "Replace", "Strip"}
SEVERAL_BLANKS = " {2,}"  # the regular expression that sentencepiece's tokenizers replace
DROP_BLANKS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
LEAVE_BLANKS = {"Digits", "Punctuation"}
MARK_BLANKS = {"ByteLevel", "Metaspace"}


@dataclass(frozen=True)
class Segment:
    """A part of a text: the number of its first character, its own text, and whether it is the last part."""

    start: int
    text: str
    is_last: bool


def segments(backend: Tokenizer, text: str) -> Iterator[Segment]:
    """One after another they are `text`."""
    boundary = _boundary(backend) if len(text) > SEGMENT else None
    start = 0
    while boundary and (cut := boundary.search(text, start + SEGMENT)):
        yield Segment(start, text[start : cut.start()], is_last=False)
        start = cut.start()
    yield Segment(start, text[start:], is_last=True)


def _boundary(backend: Tokenizer) -> re.Pattern[str] | None:
    """Where texts can be cut for this tokenizer; None if one of its parts is not known to allow it."""
    normalizers, splitters = _parts(backend.normalizer), _parts(backend.pre_tokenizer)
    if not (
        {part["type"] for part in splitters} <= DROP_BLANKS | LEAVE_BLANKS | MARK_BLANKS
        and all(map(_is_apart, backend.get_added_tokens_decoder().values()))
        and (first := next((part for part in splitters if part["type"] not in LEAVE_BLANKS), None))
        and all(_keeps_blanks_apart(part, first) for part in normalizers)
        # Such a post-processor says of a blank at the front of a text that it is none of the text's own.
        and not any(part.get("add_prefix_space") for part in _parts(backend.post_processor))
    ):
        return None
    if first["type"] in DROP_BLANKS:
        return BEFORE_BLANKS if {part["type"] for part in normalizers} <= BY_CHARACTER else BETWEEN_WORDS
    return BETWEEN_WORDS if _begins_word(first) else None


def _parts(component: Any) -> list[dict[str, Any]]:
    """The settings of a component of a tokenizer, or of the components of a sequence."""
    return [] if component is None else _flat(json.loads(component.__getstate__()))


def _flat(settings: dict[str, Any]) -> list[dict[str, Any]]:
    if settings["type"] != "Sequence":
        return [settings]
    (parts,) = (value for name, value in settings.items() if name != "type")
    return [part for inner in parts for part in _flat(inner)]


def _keeps_blanks_apart(part: dict[str, Any], first: dict[str, Any]) -> bool:
    """Whether a normalizer leaves a blank between two words to `first`, the first pre-tokenizer that deals with blanks."""
    if part["type"] == "Strip":  # takes the blank from the front of a segment: `first` must not miss it, or put one there
        return first["type"] in DROP_BLANKS or first.get("prepend_scheme") == "always" or first.get("add_prefix_space") is True
    if part["type"] != "Replace":
        return part["type"] in NORMALIZERS
    pattern = part["pattern"]
    if "Regex" in pattern:
        return pattern["Regex"] == SEVERAL_BLANKS
    if pattern["String"] == " ":
        return part["content"] == METASPACE and first["type"] == "Metaspace"
    return not re.search(rf"[0-9A-Za-z\s{METASPACE}]", pattern["String"])


def _begins_word(first: dict[str, Any]) -> bool:
    """Whether this pre-tokenizer begins a new word at every blank that follows a letter or digit."""
    if first["type"] == "Metaspace":
        return first["split"] and first["replacement"] == METASPACE
    return first["use_regex"]


def _is_apart(token: AddedToken) -> bool:
    """Whether an added token, which is found before the text is split, neither lies across a cut nor takes a blank there."""
    takes_blank = (token.lstrip and token.content[:1].isalnum()) or (token.rstrip and token.content[-1:].isalnum())
    return not takes_blank and not re.search(rf"[\s{METASPACE}]", token.content)
