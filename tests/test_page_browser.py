"""The page in a browser, as a reader uses it: it sorts, filters, opens cells, has a dark side, and fits a phone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from pages import chromium, many_cells, why_no_browser

from bdbench.analysis.leaderboard import Leaderboard
from bdbench.reports.html_page import html
from bdbench.specs.records import Example

if not why_no_browser():
    from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())

HOSTILE = "a_b%&<script>window.hacked = 1</script>|$x$"
PAGE_CELLS = 300
PHONE, DESK = (380, 800), (1280, 900)


@pytest.fixture(scope="module")
def driver():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def cells():
    """Cells by their keys, with predictions; the texts and the names of one attack are hostile."""
    found = {}
    for record, saved in many_cells(PAGE_CELLS):
        if record.spec.victim.attack.name == "attack-0":
            attack = replace(record.spec.victim.attack, name=HOSTILE)
            victim = replace(record.spec.victim, attack=attack)
            record = replace(record, spec=replace(record.spec, victim=victim))
            record.examples = tuple(Example(example.row, (HOSTILE,)) for example in record.examples)
        if saved is not None:
            record.predictions = f"predictions/{record.key}.npz"
        found[record.key] = record, saved
    return found


@pytest.fixture(scope="module")
def file(cells, tmp_path_factory) -> Path:
    board = Leaderboard([record for record, _ in cells.values()], predictions_of=lambda record: cells[record.key][1])
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(html(board))
    return path


@pytest.fixture
def page(driver, file):
    """A function that opens the page anew, at an address and a size; afterwards the console has to be empty."""

    def opened(address: str = "", size: tuple[int, int] = DESK, theme: str = "light"):
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        preference = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": preference})
        driver.get("about:blank")
        driver.get(file.as_uri() + address)
        return driver

    yield opened
    assert driver.get_log("browser") == []
    assert driver.execute_script("return window.hacked") is None


def all_of(driver, selector: str) -> list:
    return driver.find_elements("css selector", selector)


def one(driver, selector: str):
    (element,) = all_of(driver, selector)
    return element


def column(driver, name: str) -> list[str]:
    """The texts of a column of the list of cells."""
    heads = [head.text.split("\n")[0] for head in all_of(driver, "#list thead th")]
    place = heads.index(name) + 1
    return texts_of(driver, f"#list tbody td:nth-child({place})")


def texts_of(driver, selector: str) -> list[str]:
    return driver.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)


def choose(driver, name: str, value: str) -> None:
    script = "const box = document.querySelector(`#filters [name='${arguments[0]}']`); box.value = arguments[1];"
    driver.execute_script(script + "box.dispatchEvent(new Event('input', {bubbles: true}))", name, value)


def test_the_list_is_sorted_by_any_column(page):
    driver = page()
    ascending = one(driver, "#list [data-column='asr'] button")
    ascending.click()
    head = one(driver, "#list [data-column='asr']")
    numbers = [float(text.split(" ±")[0]) for text in column(driver, "ASR")]
    assert head.get_attribute("aria-sort") == "ascending" and numbers == sorted(numbers) and numbers[0] < numbers[-1]
    assert driver.execute_script("return document.activeElement.textContent") == "ASR"
    one(driver, "#list [data-column='asr'] button").send_keys("\n")  # by keyboard
    numbers = [float(text.split(" ±")[0]) for text in column(driver, "ASR")]
    assert numbers == sorted(numbers, reverse=True) and numbers[0] == 100.0
    assert "sort=-asr" in driver.current_url


def test_a_table_of_the_report_is_sorted_too(page):
    driver = page()
    table = "#section-ranking div:nth-of-type(1) table"
    heads = all_of(driver, f"{table} thead button")
    place = [head.text for head in heads].index("ASR")
    heads[place].click()
    heads[place].click()
    texts = texts_of(driver, f"{table} tbody td:nth-child({place + 1})")
    numbers = [float(text.split()[0]) for text in texts if text != "–"]
    assert len(numbers) > 2 and numbers == sorted(numbers, reverse=True)


def test_filters_hold_for_list_and_matrix_and_are_kept_in_the_address(page, cells):
    driver = page()
    choose(driver, "seeds", "each")
    assert one(driver, "#shown").text == f"{PAGE_CELLS} cells of {PAGE_CELLS} shown"
    choose(driver, "task", "imdb")
    choose(driver, "text", "DEFENSE-1")
    expected = [
        record
        for record, _ in cells.values()
        if record.spec.victim.task == "imdb" and record.spec.defense_name.startswith("defense-1")
    ]
    assert one(driver, "#shown").text == f"{len(expected)} cells of {PAGE_CELLS} shown" and len(expected) > 10
    assert set(column(driver, "Task")) == {"imdb"} and all(text.startswith("defense-1") for text in column(driver, "Defense"))
    assert len([section for section in all_of(driver, ".task") if section.is_displayed()]) == 1
    one(driver, "#filters [value='validation']").click()  # a defender without validation rows
    without = [record for record in expected if "validation" not in record.needs]
    assert one(driver, "#shown").text == f"{len(without)} cells of {PAGE_CELLS} shown" and 0 < len(without) < len(expected)
    one(driver, "#filters [data-box='kind'][value='purifier']").click()
    assert "purifier" not in column(driver, "Kind") and "repair" in column(driver, "Kind")
    shown = column(driver, "Defense")
    address = driver.current_url.partition("#")[2]
    again = page("#" + address)
    assert column(again, "Defense") == shown and not one(again, "#filters [value='validation']").is_selected()
    one(again, "#clear").click()
    assert one(again, "#shown").text == "75 means of 75 shown"
    choose(again, "status", "failed")
    assert one(again, "#shown").text == "3 means of 75 shown"


def test_pages_are_turned(page):
    driver = page()
    first = column(driver, "Defense")
    assert one(driver, "#page").text == "1 to 50 of 75" and not one(driver, "#previous").is_enabled()
    one(driver, "#next").click()
    assert one(driver, "#page").text == "51 to 75 of 75" and not one(driver, "#next").is_enabled()
    assert (len(first), len(column(driver, "Defense"))) == (50, 25)


def test_an_entry_of_the_matrix_opens_its_cells_with_texts_and_classes(page, cells):
    driver = page()
    entry = driver.execute_script("return document.querySelector('[data-task=\"0\"] tbody tr:nth-child(2) button')")
    of_entry = [
        (record, saved)
        for record, saved in cells.values()
        if (record.spec.victim.task, record.spec.defense_name) == ("amazon", "defense-1")
    ]
    of_entry.sort(key=lambda cell: cell[0].spec.victim.seed)
    assert [record.spec.victim.seed for record, _ in of_entry] == [0, 1, 2, 3]
    means = [100 * fmean(record.metrics[name].value for record, _ in of_entry) for name in ("cacc", "asr")]
    entry.send_keys("\n")
    for button, (record, saved) in enumerate(of_entry):
        all_of(driver, ".seeds button")[button].click()
        assert driver.execute_script("return document.activeElement.textContent") == f"seed {button}"
        body = one(driver, "#cell-body").text
        assert f"amazon / {HOSTILE} / defense-1 / seed {button}" in one(driver, "#cell-title").text
        assert record.key in body and f"asr {100 * record.metrics['asr'].value:.1f}" in body.replace("\t", " ")
        undefended = next(
            saved
            for other, saved in cells.values()
            if other.spec.defense_name == "none" and other.spec.victim.key() == record.spec.victim.key()
        )
        names = {0: "0 (negative)", 1: "1 (positive)"}
        classes = [names[of[row]] for row in range(3) for of in ([0] * 3, undefended["triggered"], saved["triggered"])]
        assert [element.text for element in all_of(driver, ".texts dd")] == classes
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert one(driver, "#cell").get_attribute("open") is None and "cell=" not in driver.current_url
    assert entry.text == " / ".join(f"{mean:.1f}" for mean in means)


def test_a_link_opens_a_cell_and_a_failed_one_says_why(page, cells):
    failed = next(record for record, _ in cells.values() if record.status == "failed")
    driver = page(f"#cell={failed.key}")
    body = one(driver, "#cell-body").text
    assert failed.key in body and "ValueError: it went wrong" in body and "did not end well" in body
    driver = page("#cell=none-of-this-page&task=unknown&seeds=77")
    assert one(driver, "#cell").get_attribute("open") is None
    assert one(driver, "#shown").text == "75 means of 75 shown"


def test_names_and_texts_come_out_as_they_are(page, cells):
    hostile = next(record for record, _ in cells.values() if record.examples and record.spec.victim.attack.name == HOSTILE)
    driver = page(f"#cell={hostile.key}")
    assert HOSTILE in one(driver, "#cell-title").text
    assert {element.text for element in all_of(driver, ".texts p")} >= {HOSTILE}
    one(driver, ".cell-head button").click()
    assert HOSTILE in column(driver, "Attack")
    assert HOSTILE in [option.text for option in all_of(driver, "#filters [name='attack'] option")]
    heads = "const head = document.querySelector('.task:not([hidden]) thead'); head.scrollIntoView(); return head.innerText"
    assert HOSTILE in driver.execute_script(heads)


def color(driver, of: str = "body") -> int:
    """How bright the background is, 0 to 765."""
    script = "const c = document.createElement('canvas').getContext('2d'); c.fillStyle = getComputedStyle(arguments[0])"
    script += ".backgroundColor; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]"
    return sum(driver.execute_script(script, one(driver, of))[:3])


def test_there_is_a_dark_side_by_preference_and_by_button(page):
    assert color(page()) > 700
    driver = page(theme="dark")
    assert color(driver) < 150 and one(driver, "#theme").get_attribute("aria-pressed") == "true"
    one(driver, "#theme").click()
    assert color(driver) > 700 and one(driver, "#theme").get_attribute("aria-pressed") == "false"


def test_numbers_in_the_matrix_stand_out_in_both_themes(page):
    """The contrast of every text with its entry is at least 4.5 to 1, that of WCAG."""
    script = """
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const brightness = (color) => {
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
      const linear = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
      return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    return [...document.querySelectorAll(".matrix td")].map((entry) => {
      const style = getComputedStyle(entry);
      const [dark, light] = [brightness(style.color), brightness(style.backgroundColor)].sort((one, other) => one - other);
      return [(light + 0.05) / (dark + 0.05), entry.innerText];
    });
    """
    for theme in ("light", "dark"):
        contrasts = page(theme=theme).execute_script(script)
        assert len(contrasts) == 75
        assert min(contrasts)[0] >= 4.5, (theme, min(contrasts))


def test_a_phone_shows_it_without_a_scroll_bar_of_its_own(page, cells):
    driver = page(size=PHONE)
    assert driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [380, 380]
    scrolled = "return [...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
    assert driver.execute_script(scrolled)
    driver = page(f"#cell={next(iter(cells))}", size=PHONE)
    box = driver.execute_script("const b = document.getElementById('cell').getBoundingClientRect(); return [b.left, b.right]")
    inner = driver.execute_script("const d = document.getElementById('cell'); return d.scrollWidth - d.clientWidth")
    assert box[0] >= 0 and box[1] <= 380 and inner == 0


def test_a_point_of_the_figure_says_what_it_is(page):
    driver = page()
    point = all_of(driver, "#planes .point")[0]
    says = point.get_attribute("aria-label")
    assert "CACC" in says and "rank 1" in says
    driver.execute_script("arguments[0].focus()", point)
    assert one(driver, "#tip").text == says
    driver.execute_script("document.querySelector('.task:not([hidden]) td button').focus()")
    assert "base" in one(driver, "#tip").text and "seeds: 4 ok" in one(driver, "#tip").text
