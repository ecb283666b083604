"""`bdbench new`: a package with a plugin of one's own that works as it is, and its tests."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from bdbench.errors import UsageError, nearest
from bdbench.registry import ATTACKS, DEFENSES, Registry

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("bdbench.api"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
)


@dataclass(frozen=True)
class Example:
    """What the example of a kind is: its name for people, its function, and how that is tested."""

    kind_words: str
    function: str
    test_imports: str
    test: str


KINDS: Mapping[str, Mapping[str, Example]] = {
    "defense": {
        "repair": Example(
            "repair of weights",
            "pulled_back",
            "import torch",
            "def test_half_of_the_change_stays():\n"
            "    weight, pretrained = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0])\n"
            "    assert pulled_back(weight, pretrained, 0.5).tolist() == [2.0, 1.0]\n"
            "    assert pulled_back(weight, pretrained, 1.0).tolist() == weight.tolist()",
        ),
        "detector": Example(
            "detector of triggered texts",
            "confidence",
            "import pytest\nimport torch",
            "def test_equal_logits_are_least_certain():\n"
            "    scores = confidence(torch.tensor([[0.0, 0.0], [0.0, 40.0]]), temperature=1.0)\n"
            "    assert scores.tolist() == pytest.approx([0.5, 1.0])",
        ),
        "purifier": Example(
            "purifier of texts",
            "without_rare_words",
            "",
            "def test_rare_words_go_and_no_text_becomes_empty():\n"
            '    assert without_rare_words("the qxzv film", least=3.0) == "the film"\n'
            '    assert without_rare_words("qxzv", least=3.0) == "qxzv"',
        ),
        "filter": Example(
            "filter of training rows",
            "all_but_the_lowest",
            "import numpy as np",
            "def test_the_lowest_losses_go():\n"
            "    assert all_but_the_lowest(np.array([0.3, 0.1, 0.2, 0.1]), 0.5).tolist() == [True, False, True, False]",
        ),
        "training": Example(
            "training on poisoned rows",
            "smoothed_loss",
            "import math\n\nimport pytest\nimport torch",
            "def test_equal_logits_cost_the_same_for_every_label():\n"
            "    loss = smoothed_loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]), smoothing=0.2)\n"
            "    assert loss.item() == pytest.approx(math.log(2))",
        ),
    },
    "attack": {
        "data": Example(
            "data-poisoning attack",
            "shortest",
            "",
            "def test_the_shortest_texts_are_chosen():\n"
            '    assert shortest(("a b c", "a", "a b", "b"), 2).tolist() == [False, True, False, True]',
        ),
        "weights": Example(
            "weight-poisoning attack",
            "every_so_often",
            "",
            "def test_the_share_is_met_evenly():\n"
            "    assert every_so_often(6, 0.5).tolist() == [False, True, False, True, False, True]\n"
            "    assert every_so_often(4, 1.0).all() and not every_so_often(4, 0.0).any()",
        ),
    },
}
DEFAULT_KINDS = {"defense": "repair", "attack": "data"}
REGISTRIES: Mapping[str, Registry] = {"defense": DEFENSES, "attack": ATTACKS}


def new_plugin(what: str, name: str, kind: str | None, folder: Path) -> list[Path]:
    """Write a package for a new "defense" or "attack" into `folder`/`name`, which is made; the files.

    Raises UsageError for a `what` or `kind` that there is not, for a name that is none or that is taken, and if anything lies
    at `folder`/`name` already: nothing is overwritten.
    """
    if what not in KINDS:
        raise UsageError(f"new {what}{nearest(what, KINDS)}: one of {', '.join(KINDS)}")
    kind = kind or DEFAULT_KINDS[what]
    if kind not in KINDS[what]:
        raise UsageError(f"--kind {kind}{nearest(kind, KINDS[what])}: of a new {what} one of {', '.join(KINDS[what])}")
    module = _checked_name(what, name)
    home = folder / name
    if home.exists() or home.is_symlink():
        raise UsageError(f"{home} is there already, and nothing is overwritten; move it away, or choose another name")
    texts = _texts(what, name, kind, module)
    written = []
    for file, text in texts.items():
        path = home / file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}); choose another folder with --in") from error
        written.append(path)
    return written


def _checked_name(what: str, name: str) -> str:
    """The name of the plugin's module."""
    if not NAME.fullmatch(name):
        raise UsageError(f"new {what} {name}: give small letters and digits, words joined by '-', such as my-{what}")
    if name in REGISTRIES[what].names():
        raise UsageError(f"new {what} {name}: there is one of this name (bdbench show {name}); choose another")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise UsageError(f"new {what} {name}: Python has something called '{module}' already; choose a longer name")
    return module


def _texts(what: str, name: str, kind: str, module: str) -> dict[str, str]:
    example = KINDS[what][kind]
    words = name.split("-")
    tried = f"-d none,{name}" if what == "defense" else f"-a {name} -d none,fine-tuning"
    values = {
        "what": what,
        "group": f"{what}s",
        "name": name,
        "module": module,
        "project": f"bdbench-{name}",
        "class": "".join(word.capitalize() for word in words),
        "summary": " ".join(words).capitalize(),
        "kind_words": example.kind_words,
        "function": example.function,
        "test_imports": example.test_imports,
        "test": example.test,
        "run": f"bdbench run --preset quick -T sst2 {tried} --out results/{name}",
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}.py": f"{kind}.py",
        f"tests/test_{module}.py": "test.py",
    }
    return {file: TEMPLATES.get_template(f"{template}.jinja").render(values) for file, template in files.items()}
