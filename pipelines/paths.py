"""Paths and URIs as text: the path that every process of a cluster sees, and the part that may be shown.

No file system is accessed.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/.*)", re.DOTALL)  # at least two letters: C:/ is not a scheme
_OPTIONS = re.compile(r"\?\w+=.*", re.DOTALL)
# A password may hold a slash that should have been %2F. A port is not a password.
_PASSWORD = re.compile(r"://[^/@:\s]*:(?!\d+(/|$))[^@\s]*@")
_NAME = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*){1,2}", re.ASCII)
# Each character was tried on local tables with deltalake 1.6: empty history, a panic, or another folder.
_NOT_IN_TABLES = re.compile(r"[#?\[\]^|\\\x00-\x1f]|%[0-9A-Fa-f]{2}")


def absolute(path: str) -> str:
    """The path of a table or folder as every process of the cluster must see it.

    A local path (file: too) becomes absolute, a URI stays as it is; a second call changes nothing.
    Raises ValueError for a password in the path, and for characters that Delta does not escape everywhere.
    """
    if _PASSWORD.search(path):
        raise ValueError(
            f"path {without_credentials(path)!r} holds a password, which would be written into tables and "
            "runs; give it in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    scheme, rest = split_scheme(path)
    local = local_path(scheme, rest) if scheme in ("", "file") else None
    unfit = _NOT_IN_TABLES.search(local) if local else re.search(r"[#?]", split_options(rest)[0])
    if unfit:
        raise ValueError(
            f"path {without_credentials(path)!r}: {unfit[0]!r} cannot stand in the path of a table or "
            "folder, because Delta reads the path as a URL; choose a path without it"
        )
    return local or path


def is_table_name(place: str) -> bool:
    """True for the name of a table in a catalog: schema.table or catalog.schema.table. What has a slash or a
    scheme is a path, and so is a word without a dot."""
    return _NAME.fullmatch(place) is not None


def spark_path(path: str) -> str:
    """The path as Spark must be given it: local paths as file: URIs (Spark's default file system may be
    HDFS), on Databricks /dbfs paths as dbfs: URIs."""
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return re.sub(r"^/dbfs/", "dbfs:/", path)
    # file:/a and not file:///a: Delta compares the text with its own form.
    return f"file:{path}" if path.startswith("/") else path


def without_credentials(text: str) -> str:
    """The text without the user and password that a URI in it may carry."""
    return re.sub(r"://[^/@\s]*@", "://***@", _PASSWORD.sub("://***@", text))


def split_scheme(path: str) -> tuple[str, str]:
    """The scheme in lower case and the text after its colon; for a local path "" and the path."""
    found = _URI.fullmatch(path)
    return (found[1].lower(), found[2]) if found else ("", path)


def split_options(uri: str) -> tuple[str, str]:
    """The URI without its options, and the options (?name=value...), empty if it has none."""
    found = _OPTIONS.search(uri)
    return (uri[: found.start()], found[0]) if found else (uri, "")


def is_remote(path: str) -> bool:
    """Whether a path is a URI of a store that is reached by a network, and not a folder or its mount."""
    return split_scheme(path)[0] not in ("", "file", "dbfs")


def local_path(scheme: str, rest: str) -> str:
    """The absolute local path behind a plain path (empty scheme) or a file: URI."""
    if not scheme:
        # Links are not resolved: the path keeps the name that the user gave.
        return str(Path(rest).expanduser().absolute())
    host, _, below = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest[1:])
    if host not in ("", "localhost"):
        raise ValueError(
            f"path 'file:{rest}' names the machine {host!r}; write file:///PATH, on storage that every "
            "machine sees"
        )
    return str(Path("/" + unquote(below).lstrip("/")))
