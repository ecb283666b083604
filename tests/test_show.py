"""`bdbench show DIRECTORY KEY`: one cell for people. (`show NAME` is tested with the plugins.)"""

import json
from dataclasses import replace

import pytest
from test_compare import ended_well, undefended, with_ratio, write_run
from test_protocol import old_record
from test_tables import TRACEBACK

from bdbench.specs.records import Example, Record, VictimDigests


@pytest.fixture
def run(tmp_path):
    whole = ended_well(with_ratio(0.3), wrong=[0], to_target=[0, 1], victim=VictimDigests("a" * 64, "b" * 64))
    record = replace(
        whole[0],
        needs=("clean", "pretrained"),
        notes={"fine-mixing": {"ratio": 0.3, "trials": [{"ratio": 0.3}], "odd": "two\nlines"}},
        seconds={"defense": 1.25},
        cost={"trained_rows": 6400, "slowdown": 1.345},
        env={"threads": 1, "victim": {"threads": 2}},
    )
    failed = Record(undefended(1), "failed", TRACEBACK)
    return write_run(tmp_path / "run", (record, whole[1]), ended_well(with_ratio(0.5)), (failed, None))


def shown(in_process, run, key):
    ended = in_process("show", run, key)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_a_cell_is_shown_with_all_that_is_on_record(run, in_process):
    key = with_ratio(0.3).key()
    lines = shown(in_process, run, key[:9])
    assert lines == shown(in_process, run, key)
    assert lines[0] == "sst2 / badnets-word / fine-mixing [ratio=0.3] / seed 0"
    assert lines[1].startswith("ok; repair, needs clean, pretrained; key ")
    assert lines[1].endswith(f"key {key}, records/{key}.json, predictions/{key}.npz")
    # Wilson: of 2 of 10, (0.2 + z²/20 ± z sqrt(0.016 + z²/400)) / (1 + z²/10) with z = 1.96: 5.7 to 51.0
    assert "  asr: 20.0 % (2 of 10), 5.7 to 51.0; attack success rate" in lines
    assert "  majority: 50.0 % (10 of 20); the most frequent label of the test rows" in lines  # no sample, no interval
    assert "  defense: fine-mixing (version 1): ratio=0.3" in lines
    assert "  attack: badnets-word (version 1): rate=0.1, target=1" in lines
    assert '    trials: [{"ratio": 0.3}]' in lines and "    odd: two\\nlines" in lines
    assert "  defense: 1.2" in lines and "  trained_rows: 6,400" in lines and "  slowdown: 1.34" in lines
    assert lines[lines.index("environment of the victim") + 1] == "  threads: 2"
    assert lines[lines.index("environment") + 1] == "  threads: 1"
    assert f"  weights: {'a' * 64}" in lines and "error" not in lines


def test_the_triggered_texts_of_a_cell_are_shown_with_their_classes(tmp_path, in_process):
    victim = VictimDigests("a" * 64, "b" * 64)
    examples = (Example(0, ("one cf",)), Example(3, ("<b>two\x1b cf",), ("<b>two",)))
    before, after = (
        ended_well(spec, to_target=rows, victim=victim) for spec, rows in ((undefended(), [0, 3]), (with_ratio(0.3), [3]))
    )
    shown_cell = replace(after[0], examples=examples)
    run = write_run(tmp_path / "run", (replace(before[0], examples=examples), before[1]), (shown_cell, after[1]))
    lines = shown(in_process, run, shown_cell.key)
    first = lines.index("triggered texts") + 1
    assert lines[first : first + 5] == [
        "  row 0: gold 0 (negative), before the defense 1 (positive), after it 0 (negative)",
        "    one cf",
        "  row 3: gold 0 (negative), before the defense 1 (positive), after it 1 (positive)",
        "    <b>two\\x1b cf",
        "    purified: <b>two",
    ]
    (run / shown_cell.predictions).unlink()
    ended = in_process("show", run, shown_cell.key)
    assert ended.returncode == 0 and "warning: " in ended.stderr
    assert "  row 0: gold 0 (negative), before the defense 1 (positive)" in ended.stdout.splitlines()


def test_a_failed_cell_is_shown_with_its_traceback(run, in_process):
    lines = shown(in_process, run, undefended(1).key())
    assert lines[1].startswith("failed; ")
    first = lines.index("error") + 1
    assert [line.removeprefix("  ") for line in lines[first : first + 5]] == TRACEBACK.strip().splitlines()


def test_an_unknown_an_ambiguous_and_a_damaged_key_are_one_line(run, in_process):
    keys = sorted([with_ratio(0.3).key(), with_ratio(0.5).key(), undefended(1).key()])
    (run / "records" / f"{undefended(1).key()}.json").write_text("{")
    for key, says in (
        ("x", "no key of its 3 cells begins with 'x'"),
        ("", f"3 keys begin with '' ({', '.join(keys)}); give more digits"),
        (undefended(1).key(), "no record that this version reads"),
    ):
        ended = in_process("show", run, key)
        assert ended.returncode == 2 and says in ended.stderr and len(ended.stderr.splitlines()) == 1
    ended = in_process("show", run)
    assert ended.returncode == 2 and "give the key of a cell as well" in ended.stderr


def test_an_older_record_goes_by_the_name_of_its_file_and_by_its_new_key(tmp_path, in_process):
    old = old_record()
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{old['key']}.json").write_text(json.dumps(old))
    new_key = Record.from_json(old).key
    assert new_key != old["key"] and shown(in_process, tmp_path, old["key"]) == shown(in_process, tmp_path, new_key)


def test_a_plugin_is_shown_as_before(in_process):
    ended = in_process("show", "e-pur")
    assert ended.returncode == 0 and "e-pur.words=200" in ended.stdout
