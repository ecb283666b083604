"""Whatever a name, a value or a message holds: every row keeps its cells, and no text becomes markup."""

from __future__ import annotations

import csv
import io
import re
import string
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import pytest
from boards import latex, long_table, markdown
from latex_parts import columns_of, rows_of, tabulars
from markdown_it import MarkdownIt
from test_tables import TRACEBACK, cell

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.reports.claims_page import text as claims_page
from bdbench.reports.files import write_report
from bdbench.reports.latex import tex
from bdbench.reports.markdown import code, escaped
from bdbench.reports.words import one_line
from bdbench.specs.records import AttackFacts, Record

HOSTILE = (
    "a\nb",
    "a lone \r return",
    "a\r\n| b | c |",
    "\ta\x0b\x0c\x1b[31mb\x00",
    "x | y `z` \\| \\",
    "# head\n## more #",
    "- item",
    "+ item",
    "12. item",
    "3) item",
    "= under",
    "[x](http://e.org) ![i](j) [r][s] [t]: u",
    "[ ] todo",
    "<b>x</b><!-- c --> &lt;&amp;&#35;",
    "*a* **b** _c_ __d__ ~~e~~ ~f~ $g$",
    "`a``b```",
    "\u2028a\u2029b\x85c\u202ed",
    "=SUM(A1) @cmd",
    '"a", "b"; \'c\'',
    "\\input{x} \\\\[1cm] {&%$#_^~}",
    "?`!`''``--- ,, << >>",
    "é 日本 €",
    "half a pair: \ud800",
    string.punctuation,
    "    four",
    "|",
)
PLAIN = tuple(f"x{number}" for number in range(len(HOSTILE)))
PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def hostile(name: str, **changed) -> Record:
    """A record of which every text is `name`, or holds it."""
    params = {"words": name, "more": name + "2"}
    record = cell(
        changed.pop("defense", name),
        f"{name}",
        task=name,
        model=name,
        source=name,
        needs=(name, name + "2"),
        params=params | changed.pop("params", {}),
        attack_params={"text": name},
        source_digest=name + changed.get("status", "ok"),
        weights=changed.pop("weights", name),
        triggered=name,
        precision=name,
        **changed,
    )
    data = replace(record.spec.victim.data, revision=name, fingerprint=name)
    return replace(record, spec=replace(record.spec, victim=replace(record.spec.victim, data=data)))


def records_of(names: Sequence[str]) -> list[Record]:
    """For each name a task of its own, with all that a report shows: variants, a victim that falls short, cells on other bits,
    failed and skipped cells."""
    found = []
    for name in names:
        alone = name.replace("+", "")  # of a defense it joins components
        error = f"{TRACEBACK}ValueError: {name}"
        found += [
            hostile(name, defense="none"),
            hostile(name, defense=alone, params={"ratio": name + "3"}),
            hostile(name, defense=alone, weights="z" + name),
            hostile(name, defense="e-pur+" + alone, status="failed", error=error),
            hostile(name, defense="onion", status="skipped", error=name),
            hostile(name, defense="none", seed=1, asr=0.2),
        ]
    return found


def claims_of(names: Sequence[str]) -> list[Record]:
    return [
        hostile(name, defense=defense, asr=asr)
        for name in names
        for defense, asr in (("none", 1.0), ("fine-tuning", 0.9), ("fine-mixing", 0.1))
    ]


def attacked_of(names: Sequence[str]) -> list[Record]:
    """For some names an ordinary and an adaptive attack on a task of its own, with all that is known of such; and `none`."""
    found = []
    for name in names[::3]:
        alone = name.replace("+", "")
        facts = {"settled": {name: name}, "notes": {name: name}, "stealth": {"ftr": 0.1, name: 0.2}}
        for defense, asr in (("none", 1.0), (alone, 0.9)):
            record = hostile(name, defense=defense, asr=asr)
            found.append(replace(record, attack=AttackFacts(**facts)))
            adaptive = replace(record.spec.victim.attack, name=name + "2")
            spec = replace(record.spec, victim=replace(record.spec.victim, attack=adaptive))
            found.append(replace(record, spec=spec, attack=AttackFacts(against=(alone,), **facts)))
            clean = replace(record.spec.victim.attack, name="none")
            spec = replace(record.spec, victim=replace(record.spec.victim, attack=clean))
            found.append(replace(record, spec=spec, metrics={"cacc": record.metrics["cacc"]}))
    return found


@pytest.fixture(scope="module")
def hostile_records():
    return records_of(HOSTILE)


def tables_of(page: str) -> list[list[list[str]]]:
    """The tables of a Markdown page as a reader sees them: rows of cells, without markup."""
    tables, rows = [], []
    tokens = PARSER.parse(page)
    for token, before in zip(tokens, [None, *tokens], strict=False):
        if token.type == "table_open":
            rows = []
            tables.append(rows)
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and before.type in ("th_open", "td_open"):
            rows[-1].append("".join(child.content for child in token.children))
    return tables


def kinds_of(page: str) -> set[str]:
    tokens = PARSER.parse(page)
    return {t.type for t in tokens} | {child.type for t in tokens for child in t.children or ()}


@pytest.mark.parametrize(("make", "records"), [(markdown, records_of), (markdown, attacked_of), (claims_page, claims_of)])
def test_a_page_keeps_its_shape(make, records):
    page, plain = make(records(HOSTILE)), make(records(PLAIN))
    assert kinds_of(page) == kinds_of(plain)  # no link, image, HTML, emphasis or code that other names do not have
    assert not re.search(r"[^\n -~–±†‡§¶‖◊…é日本€]", page)
    assert len(page.splitlines()) == len(plain.splitlines())
    tables = tables_of(page)
    for rows in tables:
        assert len({len(row) for row in rows}) == 1
    raw = [line for line in page.splitlines() if line.startswith("|")]
    assert len(raw) == sum(len(rows) + 1 for rows in tables)  # none broke off, none grew
    assert sorted(map(len, tables)) == sorted(map(len, tables_of(plain)))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_reader_sees_the_name_itself(name):
    (rows,) = tables_of(f"| {escaped(name)} | b |\n|---|---|\n| c | {escaped(name)} |\n")
    expected = one_line(name).strip()
    assert rows == [[expected, "b"], ["c", expected]]
    for block in ("{}\n", "## {}\n", "- {}\n", "words: {}\n"):
        tokens = PARSER.parse(block.format(escaped(name)))
        (inline,) = (token for token in tokens if token.type == "inline")
        shown = "".join(child.content for child in inline.children)
        assert {child.type for child in inline.children} <= {"text", "text_special"} and shown.removeprefix(
            "words: "
        ) == expected
    (inline,) = (token for token in PARSER.parse(f"- {code(name)}") if token.type == "inline")
    assert [child.type for child in inline.children] == ["code_inline"]
    assert inline.children[0].content.strip(" ") == one_line(name).strip(" ")


@pytest.mark.parametrize("name", HOSTILE)
def test_tex_has_no_special_character_and_no_ligature(name):
    escaped_name = tex(name)
    assert escaped_name.isascii() and escaped_name.isprintable()
    commands = r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|textendash|dots)\{\}"
    rest = re.sub(r"\\[{}$&#%_]", "", re.sub(commands, "", escaped_name)).replace("{''}", "")
    assert not re.search(r"[\\$&#%_^~<>|\"]", rest), rest
    assert not re.search(r"--|''|``|[?!]`|(?<!\{)[\[\]*]", rest)
    assert rest.count("{") == rest.count("}")


@pytest.mark.parametrize("records_of_names", [records_of, attacked_of])
def test_latex_keeps_its_shape(records_of_names):
    text, plain = (latex(records_of_names(names))[0] for names in (HOSTILE, PLAIN))
    assert text.isascii()
    for columns, body in tabulars(text):
        assert {len(row) for row in rows_of(body)} == {columns_of(columns)}
    captions = [len(re.findall(r"\\label\{", each)) for each in (text, plain)]
    assert captions[0] == captions[1]
    without = re.sub(r"\\[\\{}]", "", text)
    assert without.count("{") == without.count("}")


def test_the_csv_is_read_back_as_it_was(hostile_records, tmp_path):
    write_report(tmp_path, Leaderboard(hostile_records))
    frame = long_table(hostile_records)
    bytes_as_read = (tmp_path / "leaderboard.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(bytes_as_read, newline="")))
    assert len(rows) == len(frame) == len(pd.read_csv(tmp_path / "leaderboard.csv"))
    for column in ("task", "attack", "defense", "needs", "model", "source", "not_averaged"):
        assert [row[column] for row in rows] == list(frame[column])
    assert {row["source"] for row in rows} == {name.replace("\ud800", "\\ud800") for name in HOSTILE}
