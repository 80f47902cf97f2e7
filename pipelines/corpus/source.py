"""What to read: a `Source` names files of one format; `list_files` finds them on any file system that pyarrow.fs knows.

File names in tables are relative to the root of the source (the folder, the folder of the file, or the folder above
the first wildcard), so that ids stay the same when the data moves to another place.
"""

import math
import os
import re
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

SPLITS = ("train", "validation", "test")
FORMATS = ("csv", "jsonl", "text")
COLUMNS = ("text", "label", "key", "split")
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Files of one format and origin; its name is part of the id of every document read from it."""

    name: str
    """Letters, digits, '_', '-' and '.'; unique among the sources of a corpus. Renaming changes every doc_id."""
    path: str
    """Local path or URI of a file, a folder (with all below it; names starting with '_' or '.' are passed over) or a glob
    (*, ?, [..], **/; in a URI '?' begins the options instead)."""
    format: Literal["csv", "jsonl", "text"]
    """csv: RFC 4180 with a header line; jsonl: one object a line; text: one document a file. '.gz' is decompressed."""
    fields: dict[str, str] = field(default_factory=dict)
    """Column of the document (text, label, key, split) -> field of the record. csv and jsonl need text."""
    splits: dict[str, float] = field(default_factory=lambda: {"train": 1.0})
    """Share of each split, by hash of the content; sums to 1. A row whose split field is filled keeps that instead."""
    delimiter: str = ","
    """Between the fields of a csv record; one character."""
    max_record_bytes: int = 16 * 2**20
    """Bytes of the longest record that is kept, without its line ending."""

    def __post_init__(self) -> None:
        at = f"source {self.name!r}"
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
            raise ValueError(f"{at}: a name has one or more of letters, digits, '_', '-', '.'")
        if not self.path:
            raise ValueError(f"{at}: path is empty; give a file, a folder or a glob")
        if self.format not in FORMATS:
            raise ValueError(f"{at}: format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.max_record_bytes < 1:
            raise ValueError(f"{at}: max_record_bytes must be at least 1, got {self.max_record_bytes}")
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n\0':
            raise ValueError(f"{at}: delimiter must be one character, no quote or line break, got {self.delimiter!r}")
        self._check_fields(at)
        self._check_splits(at)

    def _check_fields(self, at: str) -> None:
        if unknown := sorted(set(self.fields) - set(COLUMNS)):
            raise ValueError(f"{at}: fields maps {', '.join(COLUMNS)}; got {', '.join(unknown)}")
        if self.format == "text" and self.fields:
            raise ValueError(f"{at}: a text file has no fields; remove fields or choose csv or jsonl")
        if self.format != "text" and "text" not in self.fields:
            raise ValueError(f"{at}: {self.format} needs fields.text, the field that holds the text")

    def _check_splits(self, at: str) -> None:
        if unknown := sorted(set(self.splits) - set(SPLITS)):
            raise ValueError(f"{at}: splits must be among {', '.join(SPLITS)}, got {', '.join(unknown)}")
        # math.isfinite: a nan share would pass every comparison and send all documents to the last split
        if any(not math.isfinite(share) or share < 0 for share in self.splits.values()):
            raise ValueError(f"{at}: shares of splits must be 0 or more, got {self.splits}")
        if not math.isclose(total := math.fsum(self.splits.values()), 1.0, abs_tol=1e-9):
            raise ValueError(f"{at}: shares of splits must sum to 1, got {total:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file of a source as it stood when it was listed."""

    path: str
    """As the file system of the source knows it."""
    relative: str
    """Below the root of the source, parts joined by '/'."""
    size: int
    """Bytes as stored (compressed for .gz)."""
    modified_ns: int
    """Nanoseconds since 1970; 0 where the store keeps none."""


def filesystem(path: str) -> tuple[FileSystem, str]:
    """The file system of a path or URI, and the path as that file system knows it."""
    if "://" in path:
        return FileSystem.from_uri(quote(path, safe=string.punctuation))
    # not Path.resolve: a link in the path names its folder as the user does
    return LocalFileSystem(), os.path.abspath(Path(path).expanduser())  # noqa: PTH100


def list_files(source: Source) -> list[SourceFile]:
    """The files of a source, sorted by relative name.

    Raises FileNotFoundError where nothing matches: an empty source is a mistake in the path, not an empty corpus.
    """
    files, path = filesystem(source.path)
    path = path.rstrip("/") or "/"
    found = files.get_file_info(path)
    if found.type == FileType.File:
        return [_source_file(found, found.base_name)]
    if found.type == FileType.Directory:
        listed = _below(files, path, pattern=None)
    elif _WILDCARD.search(path):
        root, pattern = _root_and_pattern(path)
        listed = _below(files, root, pattern=pattern)
    else:
        listed = []
    if not listed:
        raise FileNotFoundError(f"source {source.name!r}: no file at {_shown(source.path)}; correct path or bring files there")
    return listed


def _below(files: FileSystem, root: str, *, pattern: re.Pattern[str] | None) -> list[SourceFile]:
    selector = FileSelector(root, allow_not_found=True, recursive=True)
    prefix = root.rstrip("/") + "/"
    listed = []
    for info in files.get_file_info(selector):
        relative = info.path.removeprefix(prefix)
        chosen = pattern.fullmatch(relative) if pattern else not _hidden(relative)
        if info.type == FileType.File and chosen:
            listed.append(_source_file(info, relative))
    return sorted(listed, key=lambda file: file.relative)


def _hidden(relative: str) -> bool:
    """Spark's and Hive's convention: _SUCCESS, _delta_log, .crc are no data."""
    return any(part.startswith(("_", ".")) for part in relative.split("/"))


def _source_file(info: FileInfo, relative: str) -> SourceFile:
    return SourceFile(path=info.path, relative=relative, size=info.size, modified_ns=info.mtime_ns or 0)


def _root_and_pattern(path: str) -> tuple[str, re.Pattern[str]]:
    """Split a glob at the last '/' before its first wildcard; '*' stays within a folder, '**/' spans any number of them."""
    wildcard = _WILDCARD.search(path)
    assert wildcard
    cut = path.rfind("/", 0, wildcard.start()) + 1
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", path[cut:], flags=re.DOTALL)
    meanings = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pattern = "".join(meanings.get(token) or _literal_or_set(token) for token in tokens)
    return path[: max(cut - 1, 1)], re.compile(pattern, re.DOTALL)


def _literal_or_set(token: str) -> str:
    if len(token) == 1:
        return re.escape(token)
    inside = re.sub(r"([\\\[&~|^])", r"\\\1", token[1:-1])
    return f"[^{inside[1:]}]" if inside[0] == "!" else f"[{inside}]"


def _shown(path: str) -> str:
    """The path without the user and password that a URI may carry."""
    return re.sub(r"://[^/@]*@", "://***@", path)
