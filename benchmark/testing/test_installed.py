"""The contract of every plugin that an installed library publishes: `pytest --pyargs bdbench.testing`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bdbench.registry import ATTACKS, DEFENSES
from bdbench.testing.contract import Check, NotApplicable, checks_of_attack, checks_of_defense
from bdbench.testing.tiny_models import FAMILIES, save_tiny_model

KINDS = ((ATTACKS, checks_of_attack), (DEFENSES, checks_of_defense))


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: save_tiny_model(family, root / family) for family in FAMILIES}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each clause; one that fails if a plugin cannot be imported."""
    cases = []
    for registry, checks_of in KINDS:
        for name in registry.installed():
            fault = registry.fault(name)
            checks = [_broken(fault)] if fault else checks_of(registry.get(name))
            cases += [pytest.param(check, id=f"{name}: {check}") for check in checks]
    metafunc.parametrize("check", cases)


def _broken(fault: str) -> Check:
    def fail(folders: object) -> None:
        raise ImportError(fault)

    return Check("can be imported", "", fail)


def test_an_installed_plugin_keeps_its_contract(check: Check, tiny_folders: dict[str, Path]) -> None:
    try:
        check.run(tiny_folders)
    except NotApplicable as reason:
        pytest.skip(str(reason))
