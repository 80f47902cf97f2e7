"""Whether a table has the fields that its source maps, so that a wrong name costs no run."""

import json

from pipelines.corpus.readers.delta_changes import VERSION
from pipelines.corpus.source import Source

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
