"""The names of tasks, attacks and defenses: what differs in a directory is told apart, and nothing else is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from boards import long_table, overall_table, task_tables
from test_tables import cell

from bdbench.analysis.labels import Label, cell_labels, label_cells
from bdbench.analysis.summaries import summarize
from bdbench.registry import DEFENSES
from bdbench.reports.words import caption


def test_labels_print_their_variant():
    assert str(Label("a")) == "a" and str(Label("a", (("x", 1), ("y", "b")))) == "a [x=1, y=b]"


def test_cells_and_victims_are_named_by_their_keys():
    cells = [cell("mix", params={"ratio": ratio}, seed=3).spec for ratio in (0.1, 0.5)]
    labels = cell_labels(cells)
    assert [labels[spec.key()] for spec in cells] == [
        "sst2 / word / mix [ratio=0.1] / seed 3",
        "sst2 / word / mix [ratio=0.5] / seed 3",
    ]
    assert labels[cells[0].victim.key()] == "sst2 / word / seed 3" and len(labels) == 3


def test_variants_are_labeled_not_averaged():
    records = [cell("fine-mixing", cacc=r, params={"ratio": r, "epochs": 10}) for r in (0.5, 0.05)]
    records += [cell("none"), cell("none", attack="ep", attack_params={"target": 0}), cell("none", attack="ep")]
    frame = long_table(records)
    mixing = frame[frame.defense.str.startswith("fine-mixing")]
    assert list(mixing.defense) == ["fine-mixing [ratio=0.05]", "fine-mixing [ratio=0.5]"]
    assert list(mixing.cacc_mean) == [0.05, 0.5]
    assert list(frame[frame.defense == "none"].attack) == ["ep [target=0]", "ep [target=1]", "word"]


def test_texts_brought_for_two_tasks_are_one_attack_and_two_for_one_task_are_two():
    digests = {("sst2", "a" * 64), ("qqp", "b" * 64)}
    cells = [cell("none", task=task, attack="paired", attack_params={"digest": digest}).spec for task, digest in digests]
    assert {str(labels.attack) for (labels,) in label_cells(cells)} == {"paired"}
    cells.append(cell("none", task="qqp", attack="paired", attack_params={"digest": "c" * 64}).spec)
    assert len({labels.attack for (labels,) in label_cells(cells)}) == 3


def test_variants_of_a_composition_name_the_component():
    frame = long_table([cell("e-pur+mix", params={"ratio": r}) for r in (0.1, 0.2)])
    assert list(frame.defense) == ["e-pur+mix [mix.ratio=0.1]", "e-pur+mix [mix.ratio=0.2]"]


def test_numbers_of_variants_sort_as_numbers():
    frame = long_table([cell("x", params={"words": n}) for n in (10, 9, 200)])
    assert list(frame.defense) == ["x [words=9]", "x [words=10]", "x [words=200]"]


@pytest.mark.parametrize(
    ("field", "values", "labels"),
    [
        ("model", ("bert", "minilm"), ["sst2 [model=bert]", "sst2 [model=minilm]"]),
        ("source", ("builtin", "hub"), ["sst2 [source=builtin]", "sst2 [source=hub]"]),
        ("train_rows", (1000, 8000), ["sst2 [train_rows=1000]", "sst2 [train_rows=8000]"]),
        ("epochs", (3, 5), ["sst2 [epochs=3]", "sst2 [epochs=5]"]),
        ("protocol", (1, 2), ["sst2 [protocol=1]", "sst2 [protocol=2]"]),
    ],
)
def test_settings_are_separate_tables(field, values, labels):
    records = [cell(cacc=0.6 + number / 10, **{field: value}) for number, value in enumerate(values)]
    assert [table.title for table in task_tables(records)] == labels
    assert list(long_table(records).cacc_mean) == [0.6, 0.7]


def test_sizes_of_the_clean_set_are_told_apart_at_every_defense_that_has_one():
    records = [
        cell("none", clean_rows=0),
        cell("a", clean_rows=64),
        cell("a", clean_rows=128),
        cell("b", clean_rows=64),
    ]
    assert list(long_table(records).defense) == ["none", "a [clean_rows=64]", "a [clean_rows=128]", "b [clean_rows=64]"]
    assert list(long_table(records[:2]).defense) == ["none", "a"]


def test_how_the_clean_set_was_drawn_is_told_apart_at_every_defense_that_has_one():
    records = [
        cell("none", clean_rows=0),
        cell("a", even_classes=True),
        cell("b"),
        cell("c+d", even_classes=True),
    ]
    labels = ["none", "a [even_classes=True]", "b [even_classes=False]", "c+d [even_classes=True]"]
    assert list(long_table(records).defense) == labels
    # a defense without a clean set differs from none of them
    assert list(long_table([records[0], records[1], records[3]]).defense) == ["none", "a", "c+d"]
    assert list(long_table([records[0], records[2]]).defense) == ["none", "b"]


def test_the_size_of_the_clean_set_comes_before_how_it_was_drawn():
    records = [cell("a", even_classes=True), cell("a", clean_rows=128)]
    labels = ["a [clean_rows=64, even_classes=True]", "a [clean_rows=128, even_classes=False]"]
    assert list(long_table(records).defense) == labels


@pytest.mark.parametrize("file", ["config", "tokenizer"])
def test_models_of_one_name_and_other_files_are_told_apart(file):
    record = cell()
    victim = replace(record.spec.victim, model=replace(record.spec.victim.model, **{file: "other"}))
    other = replace(record, spec=replace(record.spec, victim=victim))
    assert {str(summary.task) for summary in summarize([record, other])} == {
        f"sst2 [{file}={file[:8]}]",
        f"sst2 [{file}=other]",
    }


@pytest.mark.parametrize("file", ["config", "tokenizer"])
def test_tasks_on_models_of_other_files_have_no_common_average(file):
    record, other = cell(task="imdb"), cell(task="sst2")
    victim = replace(other.spec.victim, model=replace(other.spec.victim.model, **{file: "other"}))
    table = overall_table([record, replace(other, spec=replace(other.spec, victim=victim))])
    assert [row.label for row in table.rows] == [f"imdb [{file}={file[:8]}]", f"sst2 [{file}=other]"] and table.averages == ()


@pytest.mark.parametrize("file", ["config", "tokenizer"])
def test_files_are_not_shown_where_the_name_tells_models_apart(file):
    record, other = cell(model="bert"), cell(model="minilm")
    victim = replace(other.spec.victim, model=replace(other.spec.victim.model, **{file: "other"}))
    records = [record, replace(other, spec=replace(other.spec, victim=victim))]
    assert [str(summary.task) for summary in summarize(records)] == ["sst2 [model=bert]", "sst2 [model=minilm]"]


def models_of(*models, **of_all):
    """A cell on each (name, digest of the weights), each of a seed of its own."""
    return [cell(model=name, digest=digest, seed=seed, **of_all) for seed, (name, digest) in enumerate(models)]


def test_one_model_under_two_names_is_one_label_whatever_the_order():
    records = models_of(("b", "same"), ("a", "same"))
    for in_order in (records, records[::-1]):
        (summary,) = summarize(in_order)
        assert (str(summary.task), summary.model, len(summary.records)) == ("sst2", "a", 2)
        (table,) = task_tables(in_order)
        assert "model a;" in caption(table) and list(long_table(in_order).model) == ["a"]


def test_two_models_under_one_name_are_told_apart_by_digits():
    digests = ("12345678aa" + 54 * "0", "12345678ab" + 54 * "0")  # of which the first eight are the same
    records = models_of(*(("model", digest) for digest in digests))
    assert [table.title for table in task_tables(records)] == ["sst2 [digest=12345678aa]", "sst2 [digest=12345678ab]"]
    renamed = [*records, *models_of(("other", digests[0]), attack="ep")]
    titles = ["sst2 [digest=12345678aa]", "sst2 [digest=12345678ab]"]
    assert [table.title for table in task_tables(renamed)] == titles


def test_versions_of_a_task_are_told_apart():
    record = cell(seed=1)
    victim = replace(record.spec.victim, task_version="2")
    records = [cell(), replace(record, spec=replace(record.spec, victim=victim))]
    assert [str(summary.task) for summary in summarize(records)] == ["sst2 [task_version=1]", "sst2 [task_version=2]"]


def test_cells_of_one_setting_have_the_same_in_every_field_that_tells_tasks_apart():
    records = [cell(task="sst2", epochs=3), cell(task="sst2", epochs=5), cell(task="qqp", epochs=3)]
    settings = {str(summary.task): summary.labels.setting.suffix for summary in summarize(records)}
    assert settings == {"qqp": "[epochs=3]", "sst2 [epochs=3]": "[epochs=3]", "sst2 [epochs=5]": "[epochs=5]"}


@pytest.mark.parametrize(
    ("defenses", "names"),
    [
        (
            [("fine-mixing", {"select": "random"}), ("fine-mixing", {"select": "activation"})],
            ["Fine-mixing", "Fine-mixing (Sel)"],
        ),
        ([("fine-pruning", {"frozen": False}), ("fine-pruning", {"frozen": True})], ["fine-pruning", "fine-pruning (F)"]),
        (
            [("fine-mixing", {"ratio": 0.1}), ("fine-mixing", {"ratio": 0.3})],
            ["Fine-mixing [ratio=0.1]", "Fine-mixing [ratio=0.3]"],
        ),
        (
            [("unheard-of", {"ratio": 0.1}), ("unheard-of", {"ratio": 0.3})],
            ["unheard-of [ratio=0.1]", "unheard-of [ratio=0.3]"],
        ),
        (
            [("e-pur+fine-mixing", {"select": "activation"}), ("e-pur+fine-mixing", {"select": "random"})],
            ["E-PUR + Fine-mixing (Sel)", "E-PUR + Fine-mixing"],
        ),
    ],
)
def test_tables_call_a_defense_by_its_title_and_short_forms(defenses, names):
    cells = [cell(name, params=params).spec for name, params in defenses]
    labels = [labels[0].defense for labels in label_cells(cells)]
    assert [str(label) for label in labels] == names
    assert all(label.typed.startswith(name) for label, (name, _) in zip(labels, defenses, strict=True))
    assert len({label.typed for label in labels}) == 2  # what a command line tells apart


def test_an_attack_has_a_title_too_and_the_name_of_a_cell_is_what_was_typed():
    cells = [cell(attack="badnets-word", attack_params={"start": start}).spec for start in ("clean", "scratch")]
    assert [str(labels[0].attack) for labels in label_cells(cells)] == ["trigger word", "trigger word (scratch)"]
    assert cell_labels(cells)[cells[1].key()] == "sst2 / badnets-word [start=scratch] / none / seed 0"


def test_a_plugin_that_derives_from_another_does_not_take_its_title(monkeypatch):
    """A library may also declare a title that another plugin has: then both are called by their names."""
    monkeypatch.setattr(DEFENSES, "_classes", dict(DEFENSES._classes))
    e_pur = DEFENSES.get("e-pur")
    DEFENSES.register("stricter-e-pur", paper="none")(type("Stricter", (e_pur,), {"__module__": "one"}))
    DEFENSES.register("other-e-pur", paper="none")(type("Other", (), {"__module__": "two", "title": e_pur.title}))

    def names(*defenses):
        return [str(labels[0].defense) for labels in label_cells([cell(defense).spec for defense in defenses])]

    assert names("e-pur", "stricter-e-pur") == ["E-PUR", "stricter-e-pur"] and names("stricter-e-pur") == ["stricter-e-pur"]
    assert names("e-pur", "other-e-pur", "fine-tuning") == ["e-pur", "other-e-pur", "fine-tuning"]
    assert names("other-e-pur") == ["E-PUR"]


def test_validation_rows_that_a_search_brings_with_it_go_without_saying():
    def spec(rows, **params):
        return replace(cell("unheard-of", params=params).spec, validation_rows=rows)

    def names(*cells):
        return [str(labels[0].defense) for labels in label_cells(cells)]

    assert names(spec(0, search=False), spec(200, search=True)) == ["unheard-of [search=False]", "unheard-of [search=True]"]
    assert names(spec(100, search=True), spec(200, search=True)) == [
        "unheard-of [validation_rows=100]",
        "unheard-of [validation_rows=200]",
    ]
