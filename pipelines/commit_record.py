"""What a commit of ours says about itself, in the user metadata of the commit."""

import json
from collections.abc import Mapping
from typing import Any

_KEY = "distributary"


def encode_record(record: Mapping[str, Any]) -> str:
    """The user metadata of a commit with this record."""
    return json.dumps({_KEY: record}, ensure_ascii=False)


def read_record(commit: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a commit, as `LogSource.history` gives commits; None if another program made it."""
    try:
        found = json.loads(commit.get("userMetadata") or "null")
    except json.JSONDecodeError:
        return None
    return found[_KEY] if isinstance(found, dict) and _KEY in found else None
