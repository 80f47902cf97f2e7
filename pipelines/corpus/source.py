"""What to read: a `Source` names files of one format and says which of their fields become which columns.

Imports neither Spark nor Arrow, so that a configuration is checked in milliseconds. `listing.py` finds the
files.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from typing import Any, Literal

from pipelines.corpus.cleaning import Cleaning
from pipelines.corpus.readers.format import Format, Request
from pipelines.corpus.readers.table import FORMATS

SPLITS = ("train", "validation", "test")
COLUMNS = ("text", "label", "labels", "key", "split")
ChangedFiles = Literal["rebuild", "keep", "stop"]
"""What to do about files that changed or disappeared since their documents were made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Files of one format and origin. Its name is part of the id of every document that is read from it."""

    name: str
    """Letters, digits, '_', '-' and '.'; unique in a corpus. It is part of the doc_id of each document."""
    path: str
    """Local path or URI of a file, a folder (with everything below it) or a glob: *, ? and [..] match within
    a name, ** as a whole name matches any number of folders. In the URI of a store, ?name=value starts its
    options. Names that begin with '_' or '.' are skipped unless the name in the glob begins so too."""
    format: str
    """A name in `readers/table.py`."""
    fields: dict[str, str] = field(default_factory=dict)
    """Column of the document (text, label, key, split) -> field of the record. `labels` instead of `label`:
    the field holds any number of them, see readers/labels.py."""
    label_separator: str | None = None
    """What stands between the labels in a text field, such as "|"; None = the field is an array."""
    parts: dict[str, str] = field(default_factory=dict)
    """Name of the part -> field of the record, in order. An array of strings becomes several parts."""
    messages: str | None = None
    """Field with a dialogue, [{role, content}, ...] or [{from, value}, ...]: its turns become the parts."""
    ignored_turn_fields: tuple[str, ...] = ()
    """Fields of turns that may be lost, such as id or timestamp; a turn with another one, such as tool_calls,
    goes to quarantine unless it is empty."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Key in the document's metadata -> field of the record."""
    splits: dict[str, float] = field(default_factory=lambda: {"train": 1.0})
    """Share of each split, by hash of the content; sum 1. A record whose split field is filled keeps that."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the format."""
    cleaning: Cleaning = field(default_factory=Cleaning)
    """Optional steps between a record and its document."""
    max_record_bytes: int = 16 * 2**20
    """Bytes of the longest record that is kept, without its line ending."""

    def __post_init__(self) -> None:
        at = f"source {self.name!r}"
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
            raise ValueError(f"{at}: a name consists of letters, digits, '_', '-', '.'")
        if not self.path:
            raise ValueError(f"{at}: path is empty; give a file, a folder or a glob")
        if self.format not in FORMATS:
            raise ValueError(f"{at}: format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.max_record_bytes < 1:
            raise ValueError(f"{at}: max_record_bytes must be at least 1, got {self.max_record_bytes}")
        _build_options(at, self.format, self.options)
        self._check_mapping(at)
        _check_splits(at, self.splits)

    def _check_mapping(self, at: str) -> None:
        if unknown := sorted(set(self.fields) - set(COLUMNS)):
            raise ValueError(f"{at}: fields maps {', '.join(COLUMNS)}; got {', '.join(unknown)}")
        if self.cleaning.c4_lines and (self.parts or self.messages):
            raise ValueError(
                f"{at}: cleaning.c4_lines is for web pages, and would take short turns out of a dialogue; "
                "remove it, or parts and messages"
            )
        if self.ignored_turn_fields and not self.messages:
            raise ValueError(f"{at}: ignored_turn_fields are fields of messages; map messages, or remove it")
        if "label" in self.fields and "labels" in self.fields:
            raise ValueError(
                f"{at}: fields.label is one label and fields.labels any number; a document has one of them, "
                "remove the other"
            )
        if self.label_separator is not None and not (self.label_separator and "labels" in self.fields):
            raise ValueError(
                f"{at}: label_separator stands between the labels of fields.labels and is at least one "
                f"character, got {self.label_separator!r}; map fields.labels, or remove it"
            )
        if self.parts and self.messages:
            raise ValueError(f"{at}: parts and messages both say what the parts are; remove one of them")
        known = self.reader.field_names
        if known is None:
            if not (self.fields.get("text") or self.parts or self.messages):
                raise ValueError(
                    f"{at}: {self.format} needs fields.text, the field that holds the text; "
                    "or parts, or messages"
                )
        elif unknown := [name for name in self._mapped() if name not in known]:
            raise ValueError(
                f"{at}: a {self.format} record has only the field {', '.join(known)}; "
                f"remove {', '.join(unknown)} or choose another format"
            )

    @property
    def reader(self) -> Format:
        return FORMATS[self.format]

    @property
    def request(self) -> Request:
        """What the source asks of its format."""
        options = _build_options(f"source {self.name!r}", self.format, self.options)
        return Request(tuple(dict.fromkeys(self._mapped())), self.max_record_bytes, options)

    def _mapped(self) -> list[str]:
        messages = [self.messages] if self.messages else []
        return [*self.fields.values(), *self.parts.values(), *messages, *self.metadata.values()]


def check_names(sources: Sequence[Source]) -> None:
    """Raises ValueError if two sources have the same name: their documents would get the same ids."""
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"names of sources must be unique, repeated: {', '.join(repeated)}; rename all but one"
        )


def _build_options(at: str, name: str, options: Mapping[str, Any]) -> Any:
    """The options of a format as its own value type, which checks the values."""
    kind = FORMATS[name].options
    known = [option.name for option in fields_of(kind)]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"{at}: {name} has no option {', '.join(unknown)}; "
            f"options of {name}: {', '.join(known) or 'none'}"
        )
    try:
        return kind(**options)
    except ValueError as error:
        raise ValueError(f"{at}: options.{error}") from None


def _check_splits(at: str, splits: Mapping[str, float]) -> None:
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise ValueError(f"{at}: splits must be among {', '.join(SPLITS)}, got {', '.join(unknown)}")
    # math.isfinite: a nan share would pass every comparison and send all documents to the last split
    if any(not math.isfinite(share) or share < 0 for share in splits.values()):
        raise ValueError(f"{at}: shares of splits must be 0 or more, got {dict(splits)}")
    if not math.isclose(total := math.fsum(splits.values()), 1.0, abs_tol=1e-9):
        raise ValueError(f"{at}: shares of splits must sum to 1, got {total:g}")


def require_sources(sources: Sequence[Source]) -> Sequence[Source]:
    """The sources. Raises ValueError if there are none."""
    if not sources:
        raise ValueError(
            "corpus.sources is empty: name the files to read (conf/base.yaml shows how) or choose a --recipe"
        )
    return sources
