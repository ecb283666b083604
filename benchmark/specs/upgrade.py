"""Records of older schemas, brought to the current one, so that reports on them still work."""

from __future__ import annotations

from typing import Any

from bdbench.specs.keys import key_of
from bdbench.specs.work import CellSpec

SCHEMA = 2


def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a record in the current schema. Raises ValueError for an unknown schema, and for an edited file.

    Schema 1 has no protocol in its specs: what it holds was made under protocol 1, and its key, hashed anew with that number,
    is never the key of a cell to be run today. It has one digest for the configuration's and the tokenizer's files, and
    none of a victim; its clean sets were drawn whatever their classes; what the user typed was called "given".
    """
    schema = raw.get("schema")
    # the first records of schema 2 have none, and are of repairs
    raw = {"cost": {}, "kind": "repair", "examples": [], "attack": None, **raw}
    if schema == SCHEMA:
        return raw
    if schema != 1:
        raise ValueError(f"schema {schema}, but this version reads schemas 1 to {SCHEMA}")
    spec, victim = raw["spec"], raw["spec"]["victim"]
    model = dict(victim["model"])
    name = model.pop("name")
    hashed = key_of({**spec, "victim": {**victim, "model": model}})
    if hashed != raw["key"]:
        raise ValueError(f"its key is {raw['key']} but its spec hashes to {hashed}: the file was edited")
    files = model.pop("files")
    upgraded_model = {"name": name, **model, "config": files, "tokenizer": files}
    upgraded_spec = {
        **spec,
        "victim": {**victim, "model": upgraded_model, "task_version": "1", "protocol": 1},
        "even_classes": False,
    }
    return {
        **{field: value for field, value in raw.items() if field != "given"},
        "schema": SCHEMA,
        "key": CellSpec.from_json(upgraded_spec).key(),
        "spec": upgraded_spec,
        "notes": raw.get("notes", {}),  # the very first records have none
        "typed": raw["given"],
        "victim": None,
    }
