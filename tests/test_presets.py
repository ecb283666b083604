"""What the presets cross."""

from collections import Counter

from bdbench.matrix.presets import PRESETS
from bdbench.matrix.selection import attacks_of, defenses_of


def test_at_the_papers_size_each_search_runs_with_two_tolerances_and_once_with_a_fixed_ratio():
    selection = PRESETS["paper-base"].select({"data": "somewhere"})
    assert len(attacks_of(selection)) == 6 and selection.tasks == ("sst2", "qqp")
    rules: Counter = Counter()
    for defense in defenses_of(selection):
        values = defense[-1].values()
        name = "+".join(part.name for part in defense) + (" (Sel)" if values.get("select") == "activation" else "")
        rules[name, values.get("search"), values.get("tolerance")] += 1
    searched = ("fine-pruning", "fine-mixing", "fine-mixing (Sel)", "e-pur+fine-mixing")
    expected = {
        (name, search, tolerance) for name in searched for search, tolerance in ((True, 0.05), (True, 0.02), (False, 0.05))
    }
    expected |= {(name, None, None) for name in ("none", "fine-tuning", "e-pur")}
    assert rules == dict.fromkeys(expected, 1)
