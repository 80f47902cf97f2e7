"""Settings as MLflow params: flat names, and texts within MLflow's limit."""

from collections.abc import Mapping
from typing import Any

MAX_PARAM_CHARS = 6000
"""MLflow's limit on the value of a param."""


def flatten_params(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names with their values. An empty mapping stays as a value, so that no setting is lost."""
    flat: list[tuple[str, Any]] = []
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat += flatten_params(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat


def format_param(value: Any) -> str:
    """The value as text; a text that is too long is cut, with a note that gives its length."""
    text = str(value)
    note = f"... ({len(text):,} characters, whole in config.yaml)"
    return text if len(text) <= MAX_PARAM_CHARS else text[: MAX_PARAM_CHARS - len(note)] + note
