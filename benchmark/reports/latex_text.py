"""Plain text in LaTeX: escaped, how wide it is, and where it may break, so that a table fits before it is compiled."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

import jinja2

from bdbench.analysis.standing import Shortfall
from bdbench.analysis.tables import ADAPTIVE_MARK, MARKS
from bdbench.reports.words import one_line

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "'": "{'}",  # two, or one after a question mark, would become another character; so would backticks
    "`": "{`}",
    "[": "{[}",  # after a line break it would open an optional argument
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "–": r"\textendash{}",
    "…": r"\dots{}",
    "→": r"$\rightarrow$",
    MARKS[Shortfall.ASR]: r"$^{\dagger}$",
    MARKS[Shortfall.UNKNOWN]: r"$^{\ddagger}$",
    MARKS[Shortfall.BASE]: r"$^{\S}$",
    MARKS[Shortfall.FLOOR]: r"$^{\P}$",
    MARKS[Shortfall.ACCURACY]: r"$^{\|}$",
    ADAPTIVE_MARK: r"$^{\diamond}$",
}
# Of Computer Modern Roman, in em (Times is narrower): digits and most letters have half an em.
_WIDTHS = {
    **dict.fromkeys("ijl.,:;!|'", 0.28),
    **dict.fromkeys("frst-()[]/ I", 0.39),
    **dict.fromkeys("cez", 0.45),
    **dict.fromkeys("bdhnpu", 0.56),
    **dict.fromkeys("EFJLPRSTZ_", 0.69),
    **dict.fromkeys("wACDGHKNOQUVXY=+<>±", 0.78),
    "m": 0.84,
    **dict.fromkeys("MW%&@#→…", 1.03),
}
_OTHER = 0.53
_WORDS = re.compile(r"\[[^\[\]]*\]\S*\s*|\([^()]*\)\S*\s*|\S*\s*")
_INNER_PIECES = re.compile(r"[^-+_=,/\]]*[-+_=,/\]]*")  # of a word; a line may break after each


def tex(text: str) -> str:
    """`text` in one line for LaTeX, ASCII only; a character that pdflatex may lack becomes a question mark."""
    escaped = "".join(_TEX.get(char, char if char.isascii() else "?") for char in one_line(text))
    return re.sub("-(?=-)", "-{}", escaped)  # two hyphens would become a dash


def template_of(name: str) -> jinja2.Template:
    """One of the templates for LaTeX, whose marks are ((* *)) and ((( ))): Jinja2's own braces mean something in LaTeX."""
    environment = jinja2.Environment(
        block_start_string="((*",
        block_end_string="*))",
        variable_start_string="(((",
        variable_end_string=")))",
        comment_start_string="((=",
        comment_end_string="=))",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
    )
    source = (files("bdbench.reports") / "templates" / name).read_text(encoding="utf-8")
    return environment.from_string(source)


def width(text: str) -> float:
    """Of plain text in one line, in em, rather too much than too little."""
    return sum(_WIDTHS.get(char, _OTHER) for char in text)


def broken(text: str, widest: float) -> list[str]:
    """`text`, one printable line, as lines of at most `widest` em, which is some characters at least.

    It breaks at spaces, those in brackets only if it has to; within what is wider than a line after a punctuation mark, or else
    anywhere.
    """
    lines = [""]
    for piece in _pieces(one_line(text), widest):
        if lines[-1] and width((lines[-1] + piece).rstrip()) > widest:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines if line.strip()] or [""]


def _pieces(text: str, widest: float) -> Iterable[str]:
    words = [part for part in _WORDS.findall(text) if part]
    words = [part for word in words for part in ([word] if width(word.rstrip()) <= widest else re.findall(r"\S*\s*", word))]
    for word in words:
        inner = [word] if width(word.rstrip()) <= widest else _INNER_PIECES.findall(word)
        for piece in inner:
            while width(piece.rstrip()) > widest:
                length = next(length for length in range(1, len(piece)) if width(piece[: length + 1]) > widest)
                yield piece[:length]
                piece = piece[length:]
            yield piece
