"""The contract of plugins as checks, on tiny real models that are made on the spot: for bdbench's own plugins and for yours.

    from bdbench.testing import check_defense

    def test_contract():
        check_defense(MyDefense)         # or its name; check_attack(MyAttack)

`bdbench check NAME` runs the same from a shell, and `pytest --pyargs bdbench.testing` for every plugin that an installed
library publishes. Nothing is downloaded.
"""

from bdbench.testing.contract import ContractError, check_attack, check_defense

__all__ = ["ContractError", "check_attack", "check_defense"]
