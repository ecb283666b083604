"""What a defender may be given beside the victim. Each resource is defined here, once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """`says` is what tables call it. `fields` are those of a `CellSpec` that it decides, and so what of it enters the key.

    How it is loaded is in `bdbench.protocol.resources`.
    """

    name: str
    says: str
    fields: tuple[str, ...] = ()


RESOURCES = {
    resource.name: resource
    for resource in (
        Resource("clean", "a small labelled clean set", ("clean_rows", "even_classes")),
        Resource("validation", "labelled clean validation rows", ("validation_rows",)),
        Resource("unlabelled", "clean texts without labels", ("unlabelled_rows",)),
        Resource("pretrained", "the pre-trained weights"),
        Resource("peers", "other fine-tuned models", ("peers",)),
        Resource("training-set", "the training set, poison included"),
        Resource("training-control", "control of the training"),
    )
}
