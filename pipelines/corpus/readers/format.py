"""What the corpus stage must know about an input format: the interface that every file of this folder fills.

A source is read in three steps. The driver finds its files (`Format.find`) and cuts each of them into byte
ranges (`Format.cut`). Tasks on the executors turn ranges into records (`Format.read`). A record holds values
by field name; `mapping.py` turns them into the columns of a document, in the same way for every format.

The interface asks for bytes and values, not for lines, so that it also fits formats without lines. A Parquet
row group belongs to the range that holds its first byte, a WARC record to the range with the first byte of
its gzip member. HTML, Markdown and PDF are one record per file (`whole.py`). A Delta table is a `find` that
returns the live files of a version; a Kafka topic and the change feed of a table are ones that return the
files in which records were kept.

A new format is one file here and one line in `table.py`. This module and the files of the formats import
only the standard library and orjson at the top, because `distributary config` checks sources without Arrow
and Spark.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file of a source at the time it was listed."""

    path: str
    """As the file system of the source knows it."""
    relative: str
    """Below the root of the source, names joined by '/'."""
    size: int
    """Bytes as stored (compressed for .gz)."""
    modified_ns: int
    """Nanoseconds since 1970; 0 if the store keeps no time."""


class Slice(NamedTuple):
    """Bytes [start, stop) of a file, as stored."""

    path: str
    start: int
    stop: int | None
    """None = to the end of the file."""
    base: int = 0
    """Of a slice of a gzip file: decompressed bytes before it; 0 until `settle.py` knows it."""


class Extent(NamedTuple):
    """What a reader found of its slice, besides records."""

    num_lines: int = 0
    """So that the lines of the next slice can be numbered; 0 if the format has no lines."""
    num_bytes: int | None = None
    """Of a slice of a cut gzip file: decompressed bytes, 0 if the offsets of records do not need them. None =
    any other slice."""
    first_member: int | None = None
    """Of such a slice: byte of the file where its first member starts; None = no member starts in it."""
    next_member: int | None = None
    """Byte of the file where the member behind its last one starts; None = the file ends before."""


class Request(NamedTuple):
    """What a source asks of its format."""

    names: tuple[str, ...]
    """Fields that the source maps, without repeats. A format may return more."""
    max_record_bytes: int
    """Bytes of the longest record that is kept, without its line ending."""
    options: Any
    """An instance of `Format.options`."""


class Record(NamedTuple):
    """One record of a file. Exactly one of `values` and `reason` is set."""

    offset: int
    """Position in the file, unique and stable: byte of the decompressed file; Parquet: row, from 0."""
    line: int | None
    """Line on which the record starts, from 1 for the first line that starts in the slice; None = the format
    has no lines."""
    num_bytes: int
    """Bytes that the record covers, line ending included."""
    raw: bytes
    """Those bytes; only the first of them if the record is longer than the limit."""
    values: Mapping[str, object] | None
    """Field name -> value, of the kinds that `values.py` names."""
    reason: str | None
    """Why the record is broken, as 'kind: detail'."""


class MalformedError(ValueError):
    """The bytes are not a record of the format; the message is the reason."""


def keep_whole(file: SourceFile, slice_bytes: int, options: Any) -> Iterator[tuple[int, int | None]]:
    """One range: the whole file."""
    yield 0, None


def cut_by_size(file: SourceFile, slice_bytes: int, options: Any) -> Iterator[tuple[int, int | None]]:
    """Ranges of `slice_bytes`; the last one has no end, so that a file that has grown is read completely."""
    for start in range(0, max(file.size, 1), slice_bytes):
        yield start, start + slice_bytes if start + slice_bytes < file.size else None


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The format has nothing to choose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One input format. Its defaults are those of a file that is read in one piece."""

    read: Callable[[BinaryIO, Slice, Request], Generator[Record, None, Extent]]
    """Records that start in the slice, in the order of the file. The stream is the open file, as stored, at
    byte 0, and can seek. A slice is read twice, with the same records both times.

    A record that cannot be read becomes a Record with a reason, and so does content that breaks off. An
    OSError of the stream passes through: it stops the stage."""
    cut: Callable[[SourceFile, int, Any], Iterator[tuple[int, int | None]]] = keep_whole
    """Byte ranges [start, stop) that cover the file without overlap, each of about as many bytes as given.
    The last argument is an instance of `options`. Runs on the driver, opens nothing. If a gzip file is cut,
    `settle.py` moves the cuts to its members."""
    find: Callable[[str, Any], list[SourceFile]] | None = None
    """The files of a path, for pinned options; None = the file, folder or glob that the path names
    (`listing.py`)."""
    pin: Callable[[str, Any], Any] | None = None
    """The options with the version that the path holds now; None = the format has no versions."""
    options: type = NoOptions
    """Frozen dataclass of the format's own options; it checks its values and raises ValueError."""
    field_names: tuple[str, ...] | None = None
    """Fields of every record: 'text', and others that become metadata. None = the source must map them."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Key in the metadata -> field, of a source that maps no metadata."""
    name_file: Callable[[str], str] | None = None
    """The name of a file in documents and their ids; None = its own. Files that get the same name have
    records with different offsets."""
    when_empty: str = "correct the path or bring files there"
    """What to do if a source names no file."""
