"""The columns of a table: whether it has those that its source maps, so that a wrong name costs no run, and
what tells them from others of the same name."""

import json
from typing import Any

from pipelines.corpus.readers.delta_changes import VERSION
from pipelines.corpus.source import Source

_PHYSICAL_NAME = "delta.columnMapping.physicalName"
_SHOWN = 30
"""Columns that a message names."""


def require_fields(source: Source, schema_json: str) -> None:
    """Raises ValueError if a mapped field is no column, or one without text. `schema_json`: the columns as
    Spark writes them."""
    types = {column["name"]: column["type"] for column in json.loads(schema_json)["fields"]}
    for name in source.request.names:
        if name == VERSION:
            continue
        if name not in types:
            known = ", ".join(list(types)[:_SHOWN])
            raise ValueError(
                f"there is no column {name!r}; correct the fields of the source: {known}, {VERSION}"
            )
        if types[name] == "binary":
            raise ValueError(
                f"column {name!r} is binary, not text; cast it to string in the table, or map another"
            )


def describe_columns(schema_json: str) -> dict[str, str]:
    """Column -> its type, and its name in the files if that is another one (column mapping). Fields inside
    columns are named by their path.

    If a column is renamed, its name is gone. If it is dropped and added again, its name in the files is
    another one; a catalog does not show those names.
    """
    found: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", json.loads(schema_json))]
    while waiting:
        path, kind = waiting.pop()
        for name, inner, physical in _list_inside(kind):
            inner_kind = inner if isinstance(inner, str) else inner["type"]
            found[path + name] = inner_kind if physical == name else f"{inner_kind} {physical}"
            waiting.append((f"{path}{name}.", inner))
    return found


def _list_inside(kind: Any) -> list[tuple[str, Any, str]]:
    """(name, type, name in the files) of what a type has inside."""
    if isinstance(kind, str):
        return []
    if kind["type"] == "struct":
        return [
            (column["name"], column["type"], column.get("metadata", {}).get(_PHYSICAL_NAME, column["name"]))
            for column in kind["fields"]
        ]
    return [(name, kind[name], name) for name in ("elementType", "keyType", "valueType") if name in kind]
