"""Paths of SQLite stores, without MLflow."""

from pathlib import Path
from urllib.parse import unquote

SQLITE = "sqlite:///"


def sqlite_path(uri: str) -> Path | None:
    """Absolute path of the database of a SQLite store; None for any other store."""
    return Path(unquote(uri.removeprefix(SQLITE))).resolve() if uri.startswith(SQLITE) else None
