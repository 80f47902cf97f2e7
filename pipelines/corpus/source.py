"""What to read: a `Source` names files of one format; `list_files` finds them on any storage that Arrow reaches.

File names in tables are relative to the root of the source (the folder, the folder of the file, or the folder above
the first wildcard), so that ids stay the same when the data moves to another place.
"""

import math
import os
import re
from dataclasses import dataclass, field
from typing import Literal

from pipelines.corpus.listing import Entry, find_files, relative_to
from pipelines.paths import without_credentials
from pipelines.storage import locate

SPLITS = ("train", "validation", "test")
FORMATS = ("csv", "jsonl", "text")
COLUMNS = ("text", "label", "key", "split")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Files of one format and origin; its name is part of the id of every document read from it."""

    name: str
    """Letters, digits, '_', '-' and '.'; unique among the sources of a corpus. Renaming changes every doc_id."""
    path: str
    """Local path or URI of a file, a folder (with all below it) or a glob: *, ? and [..] stay within a name, ** as a name spans
    folders; in the URI of a store ?name=value begins its options. Names that begin with '_' or '.' are passed over, unless the
    name in the glob does too."""
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
            raise ValueError(
                f"{at}: delimiter must be one character, no quote or line break, got {self.delimiter!r}"
            )
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


def list_files(source: Source) -> list[SourceFile]:
    """The files of a source, sorted by relative name; links and hidden names as `listing` has it.

    Raises FileNotFoundError where nothing matches (an empty source is a mistake in the path, not an empty corpus) and for a link
    that leads nowhere, PermissionError for a folder that may not be listed, ValueError for a name that is not UTF-8.
    """
    at = f"source {source.name!r}"
    try:
        root, found = find_files(*locate(source.path))
    except (FileNotFoundError, PermissionError, ValueError) as error:
        raise type(error)(f"{at}: {error}") from None
    if not found:
        raise FileNotFoundError(
            f"{at}: no file at {without_credentials(source.path)}; correct path or bring files there"
        )
    return sorted((_source_file(entry, root, at) for entry in found), key=lambda file: file.relative)


def _source_file(entry: Entry, root: str, at: str) -> SourceFile:
    relative = relative_to(root, entry.path)
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{at}: in {root} the name {os.fsencode(relative)!r} is not UTF-8; rename it (convmv does it)"
        ) from None
    return SourceFile(path=entry.path, relative=relative, size=entry.size, modified_ns=entry.modified_ns)
