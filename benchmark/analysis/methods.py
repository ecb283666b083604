"""The methods that the seed paper compares, each recognized by the components and a hyperparameter of a defense."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bdbench.params import Value
from bdbench.specs.records import Record

Hyperparameter = tuple[str, Value]


@dataclass(frozen=True)
class Method:
    """A defense of the seed paper: its components, and the hyperparameter that tells its variants apart.

    A cell is of the method if one of its components has the hyperparameter `requires` and none has the one it `excludes`.
    """

    name: str
    components: tuple[str, ...]
    requires: Hyperparameter | None = None
    excludes: Hyperparameter | None = None

    def fits(self, record: Record) -> bool:
        """Whether the record is of a cell of this method."""
        if tuple(part.name for part in record.spec.defense) != self.components:
            return False
        hyperparameters = {item for part in record.spec.defense for item in part.params.items()}
        has_required = self.requires is None or self.requires in hyperparameters
        return has_required and self.excludes not in hyperparameters

    def after_e_pur(self) -> Method:
        """The composition of E-PUR with this method."""
        if self == NO_DEFENSE:
            return Method("E-PUR", ("e-pur",))
        return replace(self, name=f"E-PUR + {self.name}", components=("e-pur", *self.components))


NO_DEFENSE = Method("no defense", ("none",))
FINE_TUNING = Method("fine-tuning", ("fine-tuning",))
FINE_PRUNING = Method("fine-pruning", ("fine-pruning",), excludes=("frozen", True))
FINE_PRUNING_F = Method("fine-pruning (F)", ("fine-pruning",), requires=("frozen", True))
FINE_MIXING = Method("Fine-mixing", ("fine-mixing",), excludes=("select", "activation"))
FINE_MIXING_SEL = Method("Fine-mixing (Sel)", ("fine-mixing",), requires=("select", "activation"))

REPAIRS = (FINE_TUNING, FINE_PRUNING, FINE_PRUNING_F, FINE_MIXING_SEL, FINE_MIXING)
METHODS = (NO_DEFENSE, *REPAIRS, *(method.after_e_pur() for method in (NO_DEFENSE, *REPAIRS)))
