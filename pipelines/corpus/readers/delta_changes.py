"""The change feed of a Delta table: one record per row that its versions inserted, read from the table of
landed rows that `corpus/feed/` keeps at the path of the source.

A landed row has the row of the table as a JSON object, so its fields are read as in JSON Lines: numbers and
decimals keep their spelling, timestamps are ISO 8601 in UTC, and columns may be added to the table. The field
delta.version is the version that inserted the row (of a snapshot: the version that was read). Only the mapped
fields count for max_record_bytes.

File and offset of a document are those of the landed row. A snapshot lands rows again, elsewhere: map
fields.key, and ids stay what they were.
"""

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from pipelines.corpus.readers import delta
from pipelines.corpus.readers.format import (
    Extent,
    Format,
    MalformedError,
    Record,
    Request,
    Slice,
    SourceFile,
    cut_by_size,
)
from pipelines.corpus.readers.jsonl import parse_object
from pipelines.corpus.readers.lines import too_long
from pipelines.corpus.readers.parquet import read_groups
from pipelines.corpus.readers.values import Number
from pipelines.paths import absolute, is_table_name

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "delta.version"
"""The only field that is not a column of the table."""
_COLUMNS = ("version", "record")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    table: str = ""
    """Path, URI or name in a catalog of a Delta table with delta.enableChangeDataFeed."""
    starting_version: int | None = None
    """Only rows that this version and later ones inserted; null = the whole table."""
    land: bool = True
    """False: the table is not looked at; the source has the rows that were landed before."""

    def __post_init__(self) -> None:
        if not isinstance(self.table, str) or not self.table:
            raise ValueError(f"table must be the path or the name of a Delta table, got {self.table!r}")
        known = self.starting_version is None or (
            type(self.starting_version) is int and self.starting_version >= 0
        )
        if not known:
            raise ValueError(
                f"starting_version must be null or a number from 0 on, got {self.starting_version!r}"
            )
        if not isinstance(self.land, bool):
            raise ValueError(f"land must be true or false, got {self.land!r}")

    @property
    def place(self) -> str:
        """The table, as every process sees it."""
        return self.table if is_table_name(self.table) else absolute(self.table)


def pin(path: str, options: Options) -> delta.Options:
    """The version of the landed rows as it is now; null = nothing was landed yet."""
    from pipelines.pin import open_log

    log = open_log(absolute(path))
    return delta.Options(version=None if log is None else log.version)


def find(path: str, options: Options | delta.Options) -> list[SourceFile]:
    """The files of the landed rows; `options` as `pin` gives them."""
    pinned = pin(path, options) if isinstance(options, Options) else options
    return [] if pinned.version is None else delta.find(absolute(path), pinned)


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The rows of the row groups that start in the slice."""
    names = tuple(name for name in request.names if name != VERSION)

    def make(batch: "pa.RecordBatch", row: int) -> Iterator[Record]:
        import pyarrow as pa

        versions, records = (batch.column(name) for name in _COLUMNS)
        contents = records.cast(pa.large_binary()).to_pylist()
        for index, (version, content) in enumerate(zip(versions.to_pylist(), contents, strict=True)):
            yield _make_record(row + index, version, content, names, request.max_record_bytes)

    return (yield from read_groups(stream, part, _COLUMNS, make))


def _make_record(
    offset: int, version: int, content: bytes, names: tuple[str, ...], max_record_bytes: int
) -> Record:
    values: dict[str, Any] | None = None
    reason = None
    try:
        values = parse_object(content, names)
        # As for Parquet, columns that the source does not map may have any length.
        if len(content) > max_record_bytes and _measure(values, names) > max_record_bytes:
            raise MalformedError(too_long(max_record_bytes))
        values[VERSION] = Number(version)
    except MalformedError as error:
        values, reason = None, str(error)
    return Record(offset, None, len(content), content, values, reason)


def _measure(values: Mapping[str, object], names: tuple[str, ...]) -> int:
    """Bytes of the mapped fields as a JSON object."""
    mapped = {name: values.get(name) for name in names}
    return len(json.dumps(mapped, ensure_ascii=False).encode("utf-8", "surrogatepass"))


FORMAT = Format(
    read=read,
    cut=cut_by_size,
    find=find,
    pin=pin,
    options=Options,
    when_empty="no row was landed there yet: a run without --dry-run and with options.land: true reads the "
    "table (for corpus.sources, not for evaluation sets); or the table has no rows",
)
