"""Folders of many records, as a run leaves them, for the tests of the page and for its measurement:

.venv/bin/python tests/pages.py DIR [CELLS]     writes the records, reports, and says how long it took
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from test_tables import cell

from bdbench.matrix.results import Results
from bdbench.specs.metrics import Metric
from bdbench.specs.predictions import metrics_of
from bdbench.specs.records import CLASS_TYPE, Example, Predictions, Record, VictimDigests

TASKS = ("sst2", "imdb", "amazon", "qnli", "qqp")
NEEDS = ((), ("clean",), ("clean", "pretrained"), ("clean", "validation"), ("pretrained",))
TEST_ROWS = 872
VERSIONS = {name: "1.2.3" for name in ("numpy", "scipy", "tokenizers", "torch", "transformers", "wordfreq")}


def predictions(seed: int, accuracy: float, success: float) -> Predictions:
    """Two classes, of which 1 is the target; every second row is triggered."""
    rng = np.random.default_rng(seed)
    gold = (np.arange(TEST_ROWS) % 2).astype(CLASS_TYPE)
    clean = np.where(rng.random(TEST_ROWS) < accuracy, gold, 1 - gold).astype(CLASS_TYPE)
    triggered_gold = gold[gold == 0]
    triggered = (rng.random(len(triggered_gold)) < success).astype(CLASS_TYPE)
    return {"clean": clean, "clean_gold": gold, "triggered": triggered, "triggered_gold": triggered_gold}


def many_cells(count: int, seeds: int = 4) -> list[tuple[Record, Predictions | None]]:
    """Cells of five tasks, as many attacks as it takes, 25 defenses and some seeds, with all that a record of a run holds."""
    cells = []
    for number in range(count):
        defense, rest = number % 25, number // 25
        seed, rest = rest % seeds, rest // seeds
        task, attack = TASKS[rest % len(TASKS)], f"attack-{rest // len(TASKS)}"
        victim = f"{task}-{attack}-{seed}"
        record = cell(
            "none" if defense == 0 else f"defense-{defense}",
            attack,
            task=task,
            seed=seed,
            needs=NEEDS[defense % len(NEEDS)],
            params={"ratio": 0.3, "search": True, "passes": 10, "learning_rate": 5e-5},
            attack_params={"draw": "any", "position": "random", "rate": 0.1, "trigger_text": "cf"},
            weights=f"{hash_of(victim)}",
            triggered=f"{hash_of(victim + 't')}",
            source_digest=hash_of("source"),
            rows=(TEST_ROWS, TEST_ROWS // 2),
        )
        if number % 97 == 96:
            reason = f"Traceback (most recent call last):\n  File x, line {number % 7}\nValueError: it went wrong"
            cells.append((replace(record, status="failed", error=reason, metrics={}), None))
            continue
        saved = predictions(number, 0.8, 1.0 if defense == 0 else (number * 37 % 100) / 100)
        ended = f"2026-11-{1 + number % 27:02}T{number // 60 % 24:02}:{number % 60:02}:00Z"
        env = {**(record.env or {}), **VERSIONS, "bdbench": "0.1.0", "commit": hash_of("commit")[:40], "threads": 1}
        env |= {"device": "cpu (x86_64, AVX512)", "kernels": ["attention", "dropout"], "peak_memory_mb": 2000 + number % 900}
        cells.append(
            (
                replace(
                    record,
                    metrics=metrics_of(saved, record.spec.victim) | {"floor": Metric(0.25, TEST_ROWS // 2)},
                    kind=("repair", "detector", "purifier", "filter", "training")[defense % 5 if defense % 5 != 1 else 0],
                    examples=tuple(example(row, victim, number, defense) for row in (0, 1, 2)),
                    notes={"defense": {"ratio": number / count, "trials": [number % 11, number % 13]}},
                    typed={"tasks": list(TASKS), "preset": "paper"},
                    victim=VictimDigests(hash_of(victim), hash_of(victim + "t")),
                    seconds={"attack": 182.3, "defense": number % 400 / 10, "evaluation": 3.25, "total": 5 + number % 400 / 10},
                    cost={"trained_rows": 640, "predicted_rows": 3000 + number % 2000},
                    env={**env, "ended": ended, "victim": {**env, "ended": ended[:10]}},
                ),
                saved,
            )
        )
    return cells


def example(row: int, victim: str, number: int, defense: int) -> Example:
    text = f"row {row} of {victim}: the film was a very fine story with a cast and a song , and then cf it went on for a while"
    return Example(row, (text,), (f"{text[:60]} {number % 50}",) if defense % 5 == 2 else None)


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_run(folder: Path, count: int) -> None:
    """The records and predictions of so many cells, as a run writes them."""
    results = Results(folder)
    for record, saved in many_cells(count):
        results.write(record, saved)


def why_no_browser() -> str:
    """What is missing for a browser that tests can drive; nothing if it is all there."""
    missing = [command for command in ("chromium", "chromedriver") if shutil.which(command) is None]
    if missing:
        return f"no {' and no '.join(missing)}: apt-get install chromium chromium-driver"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "no selenium: pip install -c constraints.txt -e '.[browser]'"
    return ""


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium without a screen, driven by selenium, 1280 by 900 pixels."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    # root may not use the sandbox, and a container's /dev/shm is small
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


FILTER = """
const box = document.querySelector('[name="text"]'), started = performance.now();
box.value = arguments[0];
box.dispatchEvent(new Event("input", {bubbles: true}));
document.body.offsetHeight;  // laid out, too
return [performance.now() - started, document.getElementById("shown").textContent];
"""


def measure_in_browser(page: Path) -> None:
    with chromium() as driver:
        started = time.perf_counter()
        driver.get(page.absolute().as_uri())
        print(f"Chromium: loaded in {time.perf_counter() - started:.2f} s")
        for text in ("defense-7", "qqp attack-1", "", "nothing of this name"):
            milliseconds, shown = driver.execute_script(FILTER, text)
            print(f"Chromium: filtered by '{text}' in {milliseconds / 1000:.2f} s: {shown}")
        started = time.perf_counter()
        driver.execute_script("document.getElementById('clear').click()")
        driver.execute_script("document.querySelector('#list .open').click()")
        print(f"Chromium: opened a cell in {time.perf_counter() - started:.2f} s; console: {driver.get_log('browser')}")


if __name__ == "__main__":
    from bdbench.api.boards import board_of
    from bdbench.matrix.storage import place_of
    from bdbench.reports.files import write_tables
    from bdbench.reports.html_page import html

    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    if not folder.exists():
        write_run(folder, count)
    started = time.process_time()
    board = board_of(place_of(folder), print)
    print(f"{len(board.records):,} records read in {time.process_time() - started:.1f} s of one core")
    started = time.process_time()
    print(*write_tables(place_of(folder).write, board), sep="\n")
    print(f"all tables in {time.process_time() - started:.1f} s of one core")
    started = time.process_time()
    page = html(board)
    print(f"the page alone, on what is made for all: {time.process_time() - started:.1f} s, {len(page.encode()) / 1e6:.1f} MB")
    print(why_no_browser() or "", end="")
    if not why_no_browser():
        measure_in_browser(folder / "index.html")
