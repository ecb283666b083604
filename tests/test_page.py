"""The page of a report as a file: its numbers, its texts, what it may load (nothing), and what it says of triggered rows."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from boards import long_table
from pages import many_cells
from test_hostile_names import HOSTILE, PLAIN, records_of
from test_tables import TRACEBACK, cell, sample

from bdbench.analysis.examples import NotedPredictions, shown_examples
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.printed import percent, points
from bdbench.registry import TASKS
from bdbench.reports.cell_page import cell_lines
from bdbench.reports.html_page import as_json, html
from bdbench.reports.page_data import page_data, page_details
from bdbench.reports.ranking_page import ranking_tables
from bdbench.reports.words import one_line
from bdbench.specs.metrics import Metric
from bdbench.specs.predictions import metrics_of
from bdbench.specs.records import CLASS_TYPE, Example, Record

VOID = {"meta", "link", "input", "br"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


class Page(HTMLParser):
    """The elements of a page in order, each with all the text in it. Raises AssertionError if tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.opened: list[Element] = []
        self.feed(text)
        self.close()
        assert not self.opened

    def handle_starttag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.opened.pop().tag == tag

    def handle_data(self, data):
        for element in self.opened:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def json(self, name: str):
        (element,) = (element for element in self.elements if element.attributes.get("id") == name)
        return json.loads(element.text)


def page_of(records: list[Record], **more) -> Page:
    return Page(html(Leaderboard(records, **more)))


def test_the_numbers_are_those_of_the_csv():
    data, frame = page_of(sample()).json("data"), long_table(sample())
    rows, labels = data["rows"], data["labels"]
    assert [labels["defense"][place][1] for place in rows["defense"]] == list(frame.defense)
    assert [labels["attack"][place][1] for place in rows["attack"]] == list(frame.attack)
    assert [labels["task"][place][1] for place in rows["task"]] == list(frame.task)
    assert [data["kinds"][place] for place in rows["kind"]] == list(frame.kind)
    needs = ["; ".join(data["resources"][resource] for resource in data["needs"][place]) for place in rows["needs"]]
    assert needs == list(frame.needs)
    for name, column in (("ok", "seeds"), ("failed", "failed"), ("skipped", "skipped")):
        assert rows[name] == list(frame[column])
    for name in ("cacc", "asr", "base", "floor", "frr"):
        assert rows[name] == [None if pd.isna(rate) else float(percent(rate)) for rate in frame[f"{name}_mean"]], name
    for name in ("cacc", "asr"):
        assert rows[f"{name}_std"] == [None if pd.isna(rate) else float(percent(rate)) for rate in frame[f"{name}_std"]]
    added = frame.asr_mean - frame.base_mean
    assert rows["added"] == [None if pd.isna(rate) else float(points(rate)) for rate in added]


def test_a_cell_has_its_own_line_with_its_own_numbers():
    records = [cell(cacc=0.9, seed=0), cell(cacc=0.8, asr=0.5, seed=1), cell("a", status="failed", error="no")]
    data = page_of(records).json("data")
    cells = data["cells"]
    keys = [data["keys"][place] for place in cells["record"]]
    assert keys == [record.key for record in records]
    assert (cells["row"], cells["seed"], cells["cacc"]) == ([0, 0, 1], [0, 1, 0], [90.0, 80.0, None])
    assert (cells["asr"], cells["added"]) == ([100.0, 50.0, None], [90.0, 40.0, None])
    assert [data["statuses"][status] for status in cells["status"]] == ["ok", "ok", "failed"]
    assert (data["rows"]["cacc"], data["rows"]["cacc_std"]) == ([85.0, None], [7.1, None])


def test_the_rankings_are_those_of_the_other_reports():
    cells = {record.key: (record, saved) for record, saved in many_cells(100)}
    board = Leaderboard([record for record, _ in cells.values()], predictions_of=lambda record: cells[record.key][1])
    texts = [element.text for element in Page(html(board)).all("td")]
    expected = [text for table in ranking_tables(board) for row in table.rows for text in row]
    assert any(re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", text) for text in expected)
    assert texts[: len(expected)] == expected


def test_what_stands_around_the_numbers_is_on_the_page():
    records = [*sample(), cell("none", source="builtin", dirty=True, task="imdb", attack="weak", asr=0.5)]
    text = html(Leaderboard(records))
    page = Page(text)
    body = page.all("body")[0].text
    for said in ("The text is generated by bdbench", "modified checkout", "Not averaged:", "Failed cells", "Skipped cells"):
        assert said in body
    assert "ONION / seed 1: ValueError: no weights in …/bert.bin" in body and "pairs of texts" in body
    marks = [json.loads(element.attributes["data-marks"]) for element in page.elements if "data-marks" in element.attributes]
    assert {"weak": "†"} in marks and len(marks) == 3


def test_a_folder_without_records_has_a_page():
    page = page_of([])
    assert page.json("data")["keys"] == [] and "0 cells" in page.all("body")[0].text


def test_nothing_is_loaded_and_the_policy_allows_this_script_and_style_alone():
    text = html(Leaderboard(sample()))
    page = Page(text)
    assert not [element for element in page.elements if element.tag in ("img", "iframe", "object", "embed", "base")]
    for element in page.elements:
        assert not {"src", "srcset", "style", "action"} & element.attributes.keys()
        assert not [name for name in element.attributes if name.startswith("on")]
        assert element.attributes.get("href", "#").startswith(("#", "data:,"))
    (style,) = page.all("style")
    assert "url(" not in style.text and "@import" not in style.text
    script = page.all("script")[-1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|import\(", script.text)
    (policy,) = (meta.attributes["content"] for meta in page.all("meta") if "http-equiv" in meta.attributes)
    hashes = [base64.b64encode(hashlib.sha256(each.text.encode()).digest()).decode() for each in (style, script)]
    assert policy == (f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'")


def test_every_link_within_the_page_has_its_target():
    page = page_of(sample())
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    targets = {element.attributes["href"][1:] for element in page.all("a")}
    assert targets and targets <= set(ids)
    assert {element.attributes["aria-labelledby"] for element in page.elements if "aria-labelledby" in element.attributes} <= {
        *ids,
        "cell-title",
    }


def with_examples(record: Record, *texts: str) -> Record:
    return replace(record, examples=(Example(0, texts or ("a text",)),))


def test_no_name_and_no_text_becomes_markup():
    hostile, plain = (
        [with_examples(record, record.spec.victim.task) for record in records_of(names)] for names in (HOSTILE, PLAIN)
    )
    page, of_plain = page_of(hostile), page_of(plain)
    assert [element.tag for element in page.elements] == [element.tag for element in of_plain.elements]
    assert [list(element.attributes) for element in page.elements] == [list(each.attributes) for each in of_plain.elements]
    data, details = page.json("data"), page.json("details")
    assert {names[1] for names in data["labels"]["attack"]} == {one_line(name) for name in HOSTILE}
    assert {one_line(name) for name in HOSTILE} <= set(details["texts"])
    for script in page.all("script")[:2]:
        assert not re.search("[<>&\u2028\u2029]", script.text)


@pytest.mark.parametrize("text", ["</script><script>alert(1)</script>", "<!--", "a\u2028b", "&lt;", 'a"b\\c', "日本"])
def test_json_in_a_script_is_read_back_as_it_was(text):
    written = as_json({text: [text]})
    assert json.loads(written) == {text: [text]} and not re.search("[<>&\u2028\u2029]", written)


def test_the_same_records_give_the_same_bytes_in_any_order():
    pages = set()
    for seed in range(4):
        records = [record for record, _ in many_cells(150)]
        random.Random(seed).shuffle(records)
        pages.add(html(Leaderboard(records)))
    assert len(pages) == 1


def opened(details: dict, place: int) -> tuple[dict, list, list]:
    """Of the record at a place: its metrics, its examples, and the lines of each section, as texts."""
    metrics, error, examples, why, *sections = details["records"][place]
    texts = details["texts"]

    def class_text(number):
        return None if number is None else texts[number]

    shown = []
    for row, after, *purified in examples:
        row_texts, gold, before = details["rows"][row]
        classes = tuple(map(class_text, (gold, before, after)))
        purified_texts = [[texts[text] for text in of_row] for of_row in purified]
        shown.append((tuple(texts[text] for text in row_texts), *classes, *purified_texts))
    lines = {details["sections"][title]: [texts[line] for line in lines] for title, *lines in sections}
    lines["error"] = [texts[line] for line in error]
    return {details["metrics"][name][0]: numbers for name, *numbers in metrics}, shown or why, lines


def test_an_opened_cell_has_all_that_bdbench_show_has():
    cells = [(record, saved) for record, saved in many_cells(120) if record.spec.victim.seed == 0]
    predictions = {record.key: saved for record, saved in cells}
    board = Leaderboard([record for record, _ in cells], predictions_of=lambda record: predictions[record.key])
    details, keys = page_details(board), page_data(board)["keys"]
    for record, _ in cells:
        metrics, _, lines = opened(details, keys.index(record.key))
        shown = cell_lines(record, "", "")
        for title, of_section in lines.items():
            start = shown.index(title) + 1 if of_section else 0
            assert shown[start : start + len(of_section)] == [f"  {line}" for line in of_section]
        assert len([line for line in shown if line.startswith("  ")]) == len(metrics) + sum(map(len, lines.values()))
        for name, (value, hits, rows, *interval) in metrics.items():
            text = f"  {name}: {value:.1f} % ({hits:,} of {rows:,})"
            text += f", {interval[0]:.1f} to {interval[1]:.1f}" if interval else ""
            assert any(line.startswith(text) for line in shown)


def predicted(record: Record, triggered: list[int], **more) -> tuple[Record, dict]:
    """A record of six test rows, of which the three of class 0 are triggered, that says what was predicted for these."""
    saved = {
        "clean": np.array([0, 1, 0, 1, 0, 1], CLASS_TYPE),
        "clean_gold": np.array([0, 1, 0, 1, 0, 1], CLASS_TYPE),
        "triggered": np.array(triggered, CLASS_TYPE),
        "triggered_gold": np.array([0, 0, 0], CLASS_TYPE),
    } | {name: np.array(scores, np.float64) for name, scores in more.items()}
    frr = 0.25 if more else None
    metrics = metrics_of(saved, record.spec.victim, frr) | {"floor": Metric(0.0, 3)}
    record = replace(record, spec=replace(record.spec, frr=frr), metrics=metrics, predictions="predictions/x.npz")
    return replace(record, examples=(Example(0, ("row 0",)), Example(2, ("row 2",)))), saved


def board_of(*cells: tuple[Record, dict | None]) -> Leaderboard:
    by_key = {record.key: saved for record, saved in cells}
    return Leaderboard([record for record, _ in cells], predictions_of=lambda record: by_key[record.key])


def examples_on(board: Leaderboard, record: Record):
    return opened(page_details(board), page_data(board)["keys"].index(record.key))[1]


AT = {"rows": (6, 3), "weights": "w"}


def test_a_triggered_text_has_its_class_before_and_after_the_defense():
    undefended = predicted(cell("none", **AT), [1, 1, 1])
    repaired = predicted(cell("a", **AT), [0, 1, 1])
    board = board_of(undefended, repaired)
    assert TASKS.label_names("sst2") == ("negative", "positive")
    assert examples_on(board, repaired[0]) == [
        (("row 0",), "0 (negative)", "1 (positive)", "0 (negative)"),
        (("row 2",), "0 (negative)", "1 (positive)", "1 (positive)"),
    ]
    assert [after for *_, after in examples_on(board, undefended[0])] == ["1 (positive)", "1 (positive)"]


def test_a_rejected_text_has_no_class():
    scores = {"validation_scores": [0, 1, 2, 3], "clean_scores": [0] * 6, "triggered_scores": [9, 0, 0]}
    guarded = predicted(cell("a", **AT), [1, 1, 1], **scores)
    assert [after for *_, after in examples_on(board_of(guarded), guarded[0])] == ["rejected", "1 (positive)"]


def test_classes_of_a_task_that_is_not_known_here_are_numbers():
    other = predicted(cell("none", task="mine", **AT), [1, 0, 1])
    assert examples_on(board_of(other), other[0]) == [(("row 0",), "0", "1", "1"), (("row 2",), "0", "1", "1")]


def test_without_predictions_classes_are_unknown():
    undefended, repaired = predicted(cell("none", **AT), [1, 1, 1]), predicted(cell("a", **AT), [0, 0, 0])
    board = board_of(undefended, (repaired[0], None))
    assert examples_on(board, repaired[0])[0] == (("row 0",), "0 (negative)", "1 (positive)", None)
    board = board_of((undefended[0], None), repaired)
    assert examples_on(board, repaired[0])[0] == (("row 0",), "0 (negative)", None, "0 (negative)")


def test_the_class_before_is_that_of_the_same_victim_to_the_bit():
    undefended, other = predicted(cell("none", **AT), [1, 1, 1]), predicted(cell("a", **AT | {"weights": "v"}), [0, 0, 0])
    failed = (cell("b", status="failed", error="no", **AT), None)
    board = board_of(undefended, other, failed)
    assert [before for _, _, before, _ in examples_on(board, other[0])] == [None, None]
    assert "did not end well" in examples_on(board, failed[0])


def test_what_a_purifier_made_of_a_text_is_shown():
    record, saved = predicted(cell("a", **AT), [0, 1, 1])
    record = replace(record, examples=(Example(1, ("one", "two"), ("one", "")),))
    assert examples_on(board_of((record, saved)), record)[0][0::4] == (("one", "two"), ["one", ""])


def test_an_example_of_a_row_that_was_not_predicted_has_no_class():
    record, saved = predicted(cell("a", **AT), [0, 1, 1])
    record = replace(record, examples=(Example(3, ("x",)), Example(-1, ("y",))))
    assert examples_on(board_of((record, saved)), record) == [(("x",), None, None, None), (("y",), None, None, None)]


def test_records_without_texts_say_why():
    with_trigger, without = cell("a"), cell("none", "none", asr=None)
    board = Leaderboard([with_trigger, without])
    assert "holds no triggered texts" in examples_on(board, with_trigger)
    assert examples_on(board, without) == "The attack has no trigger."


def test_each_file_of_predictions_is_read_once():
    cells = {record.key: (record, saved) for record, saved in many_cells(60)}
    records = [replace(record, predictions="predictions/x.npz") if saved else record for record, saved in cells.values()]
    reads: list[str] = []

    def read(record: Record):
        reads.append(record.key)
        return cells[record.key][1]

    html(Leaderboard(records, predictions_of=read))
    assert len(reads) == len(set(reads)) == sum(saved is not None for _, saved in cells.values())
    shown = shown_examples([cell("a"), cell("a", status="failed", error=TRACEBACK)], NotedPredictions(read))
    assert len(reads) == len(set(reads)) and set(shown.values()) == {()}
