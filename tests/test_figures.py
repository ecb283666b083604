"""The figures: what they are drawn from by hand, the same bytes every time, names as they are, nothing cut off."""

from __future__ import annotations

import io
import itertools
import math
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from extras import reason
from test_tables import cell

from bdbench.analysis.bootstrap import Estimate
from bdbench.analysis.figure_data import cliques, heat_map, pareto_front, spread, win_matrix
from bdbench.analysis.labels import Label
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.ranking import Rules
from bdbench.analysis.short_names import short_names
from bdbench.cli.app import main
from bdbench.matrix.results import Results
from bdbench.specs.records import Record

pytest.importorskip("matplotlib", reason=reason("matplotlib"))

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from bdbench.reports import figure_canvas
from bdbench.reports.figure_canvas import COLUMN, TEXT, fitted, fitted_apart, style, text_width
from bdbench.reports.figure_points import cost_page, plane_page
from bdbench.reports.figures import _pages, figure_files, file_suffixes

FIGURES = ["plane", "cost", "heat-map", "critical-difference", "win-rates"]
HOSTILE = ["$x$", "a_b^{c}", "50 %", "<script>&", "a\nb\u202ec\ufffe", "\\frac{1}{2}", "日本", 60 * "long and ", "q\"'"]


def timed(record: Record, seconds: float) -> Record:
    return replace(record, seconds={"defense": seconds, "evaluation": 1.0})


def board_of_many(defenses: int, attacks: int, name: str = "a-defense-of-some-length+{}") -> Leaderboard:
    """ASRs and accuracies close together, so that names have to make room for each other."""
    numbers = random.Random(0)
    names = ["none", *(name.format(number) for number in range(defenses))]
    return Leaderboard(
        timed(
            cell(defense, f"attack-{attack}", 0.9 - number % 5 / 100, 1.0 if number == 0 else numbers.random() / 4), 2.0**number
        )
        for number, defense in enumerate(names)
        for attack in range(attacks)
    )


def board_of_names(names: list[str]) -> Leaderboard:
    cells = [("none", 1.0), *((name, place / 20) for place, name in enumerate(names))]
    return Leaderboard(timed(cell(defense, attack, 0.9, asr), 9.0) for defense, asr in cells for attack in names[:6])


# what is drawn


def test_the_pareto_front_by_hand():
    points = [(0.9, 0.5), (0.8, 0.1), (0.85, 0.5), (0.8, 0.1), (0.7, 0.1), (0.95, 0.9), (0.94, 0.95)]
    assert pareto_front(points) == [1, 3, 0, 5]  # equal points do not beat each other
    assert pareto_front([]) == [] and pareto_front([(0.5, 0.5)]) == [0]


def test_the_cells_of_the_heat_map_are_means_over_the_blocks_of_an_attack():
    records = [cell("none", attack, task=task) for attack in ("word", "style") for task in ("sst2", "imdb")]
    records += [cell("a", "word", asr=0.2), cell("a", "word", asr=0.6, task="imdb")]
    records += [cell("a", "style", asr=0.3), cell("a", "style", asr=0.3, task="imdb")]
    records += [cell("b", "word", asr=0.9), cell("b", "word", asr=0.8, task="imdb")]
    records += [cell("b", "style", asr=0.5), cell("b", "style", task="imdb", status="failed", error="no")]
    records += [cell(name, "weak", asr=0.5) for name in ("none", "a", "b")]  # does not work, so that it is no block
    board = Leaderboard(records)
    shown = heat_map(board.rankings[0], board.summaries)
    assert [label.name for label in shown.defenses] == ["a", "b", "none"]
    assert [label.name for label in shown.attacks] == ["style", "word"]
    assert shown.asr == pytest.approx(np.array([[0.3, 0.4], [np.nan, 0.85], [1.0, 1.0]]), nan_ok=True)


@pytest.mark.parametrize(
    ("ranks", "difference", "joined"),
    [
        ([1.0, 1.5, 2.5, 3.0], 1.0, [(0, 1), (1, 2), (2, 3)]),
        ([1.0, 1.2, 1.4, 3.0], 0.5, [(0, 2)]),  # no run within another
        ([1.0, 2.0, 3.0], 0.9, []),
        ([2.0, 2.0, 2.0], 0.5, [(0, 2)]),
    ],
)
def test_the_bars_of_the_diagram_join_what_differs_by_no_more_than_the_difference(ranks, difference, joined):
    assert cliques(ranks, difference) == joined


def test_wins_are_in_the_order_of_average_ranks():
    records = [
        cell(name, f"attack{n}", asr=asr) for name, asr in {"none": 1.0, "z": 0.1, "b": 0.3, "c": 0.3}.items() for n in range(6)
    ]
    matrix = win_matrix(Leaderboard(records).rankings[0].block_ranks)
    assert matrix == pytest.approx(np.array([[np.nan, 1, 1], [0, np.nan, 0.5], [0, 0.5, np.nan]]), nan_ok=True)


def test_names_are_as_near_to_their_points_as_there_is_room():
    assert spread([1.0, 5.0], 1.0, 0.0, 9.0) == [1.0, 5.0]
    assert spread([4.0, 4.0, 4.0], 1.0, 0.0, 9.0) == pytest.approx([3.0, 4.0, 5.0])
    assert spread([0.0, 0.2, 9.0, 9.0], 1.0, 0.0, 9.0) == pytest.approx([0.0, 1.0, 8.0, 9.0])
    assert spread([3.0, 3.0, 3.0], 1.0, 0.0, 2.0) == pytest.approx([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="no room for 3"):
        spread([0.0, 0.0, 0.0], 1.0, 0.0, 1.5)


def test_names_have_the_fields_that_tell_them_apart():
    def label(name: str, **fields) -> Label:
        return Label(name, tuple((field.replace("__", "."), value) for field, value in fields.items()))

    labels = [
        label("mix", rows=200, search=True, select="random"),
        label("mix", rows=200, search=True, select="all"),
        label("mix", rows=0, search=False, select="all"),
        label("x+mix", mix__rows=1, mix__search=True),
        label("x+mix", mix__rows=2, mix__search=True),
        label("alone", rows=3),
        label("same", one="v"),
        label("same", two="v"),
        label("same"),
    ]
    names = short_names(labels)
    assert [names.of(str(label)) for label in labels] == [
        "mix [rows=200, random]",
        "mix [rows=200, all]",
        "mix [rows=0, all]",
        "x+mix [rows=1]",
        "x+mix [rows=2]",
        "alone",
        "same [one=v]",
        "same [two=v]",
        "same",
    ]


def test_a_name_that_is_too_long_loses_its_middle_and_stays_one_of_its_own():
    long = "beginning" + 200 * "x" + "end"
    assert fitted("short", 1.0) == "short"
    shown = fitted(long, 1.0)
    assert shown.startswith("begin") and shown.endswith("end") and "…" in shown and 0.9 < text_width(shown) <= 1.0
    first, second = fitted_apart([long, long.replace("xxxy", "y")], 1.0)
    assert second.endswith("(2)") and text_width(second) <= 1.0 and first == shown


def test_settings_are_told_apart_in_the_names_of_files():
    one, two = Label("", (("model", "Mini LM"),)), Label("", (("model", "mini/lm"),))
    assert file_suffixes([one, one]) == {one: ""}
    assert file_suffixes([one, two, one]) == {one: "-model-mini-lm", two: "-model-mini-lm-2"}
    records = [cell(name, model=model) for name in ("none", "a") for model in ("x", "y")]
    names = {name.rpartition(".")[0] for name in figure_files(Leaderboard(records))}
    assert names == {f"{figure}-repairs-model-{model}" for figure in ("plane", "heat-map") for model in "xy"}


# files


def test_five_figures_in_three_formats_that_are_what_they_say():
    files = figure_files(board_of_many(4, 6))
    assert list(files) == [f"{figure}-repairs.{ending}" for figure in FIGURES for ending in ("pdf", "png", "svg")]
    for name, content in files.items():
        if name.endswith(".pdf"):
            assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
            assert b"/CIDFontType2" in content and b"/Type3" not in content  # TrueType
            assert b"/CreationDate" not in content
        elif name.endswith(".png"):
            image = Image.open(io.BytesIO(content))
            image.load()
            assert image.size[0] in (int(300 * COLUMN), int(300 * TEXT)) and "Software" not in image.info
        else:
            root = ElementTree.fromstring(content)
            assert root.tag.endswith("svg") and b"<dc:date>" not in content


def test_the_same_records_give_the_same_bytes_in_any_order_and_process():
    board = board_of_many(4, 6)
    records = list(board.records)
    random.Random(1).shuffle(records)
    files = figure_files(board)
    assert figure_files(Leaderboard(records)) == files
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]); from test_figures import board_of_many\n"
        "from bdbench.reports.figures import figure_files\n"
        "print(hashlib.sha256(repr(figure_files(board_of_many(4, 6))).encode()).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    digests = {
        subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "TZ": zone}).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    }
    assert len(digests) == 1


def test_names_are_drawn_as_they_are():
    files = figure_files(board_of_names(HOSTILE))
    assert list(files) == [f"{figure}-repairs.{ending}" for figure in FIGURES for ending in ("pdf", "png", "svg")]
    for figure in FIGURES:
        root = ElementTree.fromstring(files[f"{figure}-repairs.svg"])
        texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
        for name in ["$x$", "a_b^{c}", "50 %", "<script>&", "a\\nb\\u202ec\\ufffe", "\\frac{1}{2}", "日本", "q\"'"]:
            assert any(name in text for text in texts), (figure, name, texts)
        assert any("…" in text and text.startswith("long and") or "  long and" in text for text in texts)
        assert not list(root.iter("script"))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    "board",
    [
        board_of_many(25, 14),
        board_of_many(3, 6, "d{}"),
        board_of_names(HOSTILE),
        board_of_many(1, 1),
        board_of_many(13, 6, "x" * 70 + "{}"),
    ],
    ids=["many", "short", "hostile", "one", "long"],
)
def test_nothing_is_cut_off_and_no_two_texts_overlap(board):
    with style():
        for name, page in itertools.chain.from_iterable(_pages(board, ranking) for ranking in board.rankings):
            figure = page.figure
            FigureCanvasAgg(figure).draw()
            shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
            boxes = [text.get_window_extent() for text in shown if _is_within_axis(text)]
            for box in boxes:
                assert box.x0 >= -0.5 and box.y0 >= -0.5, (name, box)
                assert box.x1 <= figure.bbox.x1 + 0.5 and box.y1 <= figure.bbox.y1 + 0.5, (name, box)
            for one, other in itertools.combinations(boxes, 2):
                width = min(one.x1, other.x1) - max(one.x0, other.x0)
                height = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert width <= 0.5 or height <= 0.5, (name, one, other)
            assert page.width in (COLUMN, TEXT) or (name == "win-rates" and len(shown) > 25 * 25)


def _is_within_axis(text: Text) -> bool:
    """Matplotlib keeps the labels of ticks beyond the limits of an axis, and draws none of them."""
    axis = next((axis for axes in text.figure.axes for axis in (axes.xaxis, axes.yaxis) if text in axis.get_ticklabels()), None)
    if axis is None:
        return True
    low, high = sorted(axis.get_view_interval())
    place = text.get_position()[0 if axis.axis_name == "x" else 1]
    return low <= place <= high


# what there is too little of


def test_without_a_ranking_there_is_no_figure():
    assert figure_files(Leaderboard([])) == {}
    assert figure_files(Leaderboard([cell()])) == {}
    assert figure_files(Leaderboard([cell(asr=0.5), cell("a")])) == {}  # the attack does not work
    failed = [cell(), cell("a", status="failed", error="no")]
    assert {name.rpartition("-")[0] for name in figure_files(Leaderboard(failed))} == {"heat-map"}


def test_a_defense_without_seconds_is_not_in_the_figure_of_costs():
    records = [cell(), timed(cell("a", asr=0.2), 3.0), cell("b", asr=0.3)]
    ranking = Leaderboard(records).rankings[0]
    assert [math.isnan(place.seconds) for place in ranking.places] == [False, True]
    with style():
        texts = {text.get_text() for text in cost_page(ranking).figure.findobj(Text)}
    assert {"a", "undefended", "seconds per cell"} <= texts and "b" not in texts
    assert cost_page(Leaderboard([cell(), cell("a")]).rankings[0]) is None


def test_all_alike():
    records = [timed(cell(name, f"attack{n}", asr=1.0), 1.0) for name in ("none", "a", "b", "c") for n in range(6)]
    assert len(figure_files(Leaderboard(records))) == 3 * len(FIGURES)


def test_both_intervals_are_drawn_where_there_are_any():
    ranking = Leaderboard([cell(), cell("a", cacc=0.8, asr=0.5)]).rankings[0]

    def lines() -> list[tuple[list[float], list[float]]]:
        with style():
            drawn = plane_page(ranking).figure.axes[0].get_lines()
        return [(list(line.get_xdata()), list(line.get_ydata())) for line in drawn]

    without = lines()
    interval = {"cacc": Estimate(0.8, 0.7, 0.9), "asr": Estimate(0.5, 0.25, 0.75)}
    place = replace(ranking.places[0], estimates=dict(ranking.places[0].estimates) | interval)
    ranking = replace(ranking, places=(place,))
    added = [line for line in lines() if line not in without]
    assert len(added) == 2
    assert added[0] == (pytest.approx([70, 90]), pytest.approx([50, 50]))
    assert added[1] == (pytest.approx([80, 80]), pytest.approx([25, 75]))


def test_the_plane_has_the_tolerated_loss_the_base_rate_and_the_kinds():
    records = [cell(), cell("a", asr=0.5), replace(cell("b", asr=0.4), kind="detector"), replace(cell("c"), kind="purifier")]
    ranking = Leaderboard(records, rules=Rules(tolerance=0.1, together=True)).rankings[0]
    with style():
        figure = plane_page(ranking).figure
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert {"10 points lost", "base rate", "undefended", "repair", "detector", "purifier", "a", "b", "c"} <= set(texts)
    verticals = [line.get_xdata() for line in figure.axes[0].get_lines() if list(line.get_ydata()) == [0, 1]]
    assert verticals == [pytest.approx([80, 80])]


def test_a_users_own_style_changes_nothing():
    import matplotlib

    board = board_of_many(2, 1)
    files = figure_files(board)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "savefig.bbox": "tight"}):
        assert figure_files(board) == files
        assert matplotlib.rcParams["font.size"] == 30
    assert figure_canvas.METADATA.keys() == {"pdf", "png", "svg"}


# the command


@pytest.fixture
def report(monkeypatch, capsys, tmp_path):
    """`bdbench report` of a run with an attack and a defense: exit status, lines of standard output, standard error."""
    for record in (cell(), cell("a", asr=0.2)):
        Results(tmp_path).write(record)

    def call(*flags: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["bdbench", "report", str(tmp_path), *flags])
        with pytest.raises(SystemExit) as ended:
            main()
        out, error = capsys.readouterr()
        # the records have no predictions, of which a warning tells
        return ended.value.code or 0, [Path(line).name for line in out.splitlines()], re.sub("warning: .*\n", "", error)

    return call


TABLES = ["leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard-tables.tex", "index.html"]


def test_a_report_writes_the_figures_into_their_own_folder(report, tmp_path):
    names = [f"{figure}-repairs.{ending}" for figure in ("plane", "heat-map") for ending in ("pdf", "png", "svg")]
    assert report() == report("--figures") == (0, TABLES + names, "")
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == sorted(names)


def test_a_report_without_figures(report, tmp_path):
    assert report("--no-figures") == (0, TABLES, "")
    assert not (tmp_path / "figures").exists()


def test_without_matplotlib_the_tables_are_written_and_a_line_says_what_to_install(report, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    install = "no figures, which need matplotlib: pip install -c constraints.txt -e '.[figures]'\n"
    assert report() == (0, TABLES, install)
    assert report("--figures") == (2, TABLES, f"bdbench: {install}")
    assert not (tmp_path / "figures").exists()


def test_drawing_is_imported_only_where_figures_are_written():
    code = "import sys, bdbench.cli.app, bdbench.cli.report, bdbench.reports.files, bdbench.analysis.figure_data; "
    code += "print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
