"""Parquet: one record per row, read by row groups.

A row group belongs to the slice that holds its first byte, so a large file is read by many tasks. Only the
columns that the source maps are read. Memory: one batch of rows, about 8 MiB, and the pages that it needs.

Values: strings stay strings. Integers, decimals, floats, bools, dates, times and timestamps become text as
Arrow writes it (the float 1.0 is "1"; a timestamp is ISO 8601, in UTC if it has a time zone). Lists, structs
and maps stay nested: an array of strings can be a part and an array of turns a dialogue, but neither is a
text. Binary columns are not text: cast them to string before you write the file.

A broken row is quarantined with its mapped fields as JSON. Damaged bytes cost the rest of their row group, a
damaged footer costs the file: one quarantine row each. If a mapped field is missing in a file, each of its
rows is quarantined.
"""

import json
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from pipelines.corpus.readers.format import (
    Extent,
    Format,
    MalformedError,
    Record,
    Request,
    Slice,
    cut_by_size,
)
from pipelines.corpus.readers.lines import decode, too_long
from pipelines.corpus.readers.parquet_footer import RowGroup, measure_dictionary, read_footer
from pipelines.corpus.readers.values import Moment, Number, Scalar, check_strings

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 1_000
_REPEATED_BYTES = 64 * 2**20
"""Of a batch whose rows all repeat the longest value that the dictionary can hold."""
_BUFFER_BYTES = 2**20
_Column = tuple[str, list, Callable[[Any], object]]
"""Name, one value per row, and what makes a record's value of it."""


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The rows of the row groups that start in the slice. The offset of a record is its row in the file."""

    def make(batch: "pa.RecordBatch", row: int) -> Iterator[Record]:
        columns = [_read_column(name, batch.column(name)) for name in request.names]
        for index in range(batch.num_rows):
            yield _make_record(row + index, columns, index, request.max_record_bytes)

    return (yield from read_groups(stream, part, request.names, make))


def read_groups(
    stream: BinaryIO,
    part: Slice,
    names: tuple[str, ...],
    make: "Callable[[pa.RecordBatch, int], Iterator[Record]]",
    find_offset: Callable[[Any, int], int] = lambda group, row: row,
) -> Generator[Record, None, Extent]:
    """The records that `make` makes of the columns `names`, a batch at a time, with the number of its first
    row. `find_offset` gives the offset of a row that cannot be read, from the metadata of its row group
    (None = the file has none) and its number."""
    from pyarrow.parquet import ParquetFile

    watched = _WatchedStream(stream)
    try:
        footer = read_footer(stream, names)
    except MalformedError as error:
        if part.start == 0:
            yield _quarantine(find_offset(None, 0), str(error))
        return Extent()
    problem = _find_missing(names, footer.names)
    file = ParquetFile(watched, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
    first_row = 0
    for number, group in enumerate(footer.groups):
        if part.start <= group.first_byte and (part.stop is None or group.first_byte < part.stop):
            find = partial(find_offset, None if problem else file.metadata.row_group(number))
            if problem:
                yield from (_quarantine(find(first_row + row), problem) for row in range(group.num_rows))
            elif group.problem:
                yield _quarantine(find(first_row), group.problem)
            else:
                most_rows = _choose_batch_rows(group, stream)
                batches = file.iter_batches(most_rows, row_groups=[number], columns=list(names))
                rows = range(first_row, first_row + group.num_rows)
                yield from _read_group(batches, number, rows, make, find, watched)
        first_row += group.num_rows
    return Extent()


def _choose_batch_rows(group: RowGroup, stream: BinaryIO) -> int:
    """Rows that are decoded at once, so that memory is bounded: rows of 16 MiB exist, and a row may repeat a
    value of the dictionary, which counts only once in the size of the row group."""
    row_bytes = group.num_bytes // max(group.num_rows, 1) + 1
    if group.num_bytes * _BATCH_ROWS > _REPEATED_BYTES:
        row_bytes = max(row_bytes, *(_share(measure_dictionary(stream, at)) for at in group.dictionaries), 0)
    return min(max(_BATCH_BYTES // row_bytes, 1), _BATCH_ROWS)


def _share(dictionary_bytes: int) -> int:
    """Bytes of a row, so that rows that repeat the whole dictionary need _REPEATED_BYTES."""
    return dictionary_bytes * _BATCH_BYTES // _REPEATED_BYTES


def _read_group(
    batches: Iterator["pa.RecordBatch"],
    group: int,
    rows: range,
    make: "Callable[[pa.RecordBatch, int], Iterator[Record]]",
    find_offset: Callable[[int], int],
    watched: "_WatchedStream",
) -> Iterator[Record]:
    row = rows.start
    while row < rows.stop:
        try:
            batch = next(batches)
        except StopIteration:
            yield _quarantine(find_offset(row), f"parquet: row group {group} ends before row {rows.stop:,}")
            return
        except _damage_errors() as error:
            watched.raise_fault()
            why = f"parquet: rows {row:,} to {rows.stop - 1:,} cannot be read: {_first_line(error)}"
            yield _quarantine(find_offset(row), why)
            return
        yield from make(batch.slice(0, rows.stop - row), row)
        row += batch.num_rows


def _make_record(row: int, columns: list[_Column], index: int, max_record_bytes: int) -> Record:
    values: dict[str, object] = {}
    reason = None
    for name, column, convert in columns:
        try:
            values[name] = convert(column[index])
        except MalformedError as error:
            reason = str(error)
            values[name] = None
    raw = json.dumps(values, ensure_ascii=False, default=repr).encode("utf-8", "surrogatepass")
    if len(raw) > max_record_bytes:
        reason = too_long(max_record_bytes)
    return Record(row, None, len(raw), raw, None if reason else values, reason)


def _read_column(name: str, column: "pa.Array") -> _Column:
    """The values of a column, not decoded yet: a string that is not UTF-8 must cost its row only."""
    import pyarrow as pa

    kinds = pa.types
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind):
        return name, column.cast(pa.large_binary()).to_pylist(), partial(_convert_string, name=name)
    if kinds.is_boolean(kind) or kinds.is_null(kind):
        return name, column.to_pylist(), lambda value: value
    if kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind):
        return name, column.cast(pa.string()).to_pylist(), partial(_convert_number, name=name)
    if kinds.is_timestamp(kind):
        # Arrow keeps UTC; without the zone it prints that, and needs no time zone database.
        text = column.cast(pa.timestamp(kind.unit)).cast(pa.string()).to_pylist()
        zone = "Z" if kind.tz else ""
        return name, text, lambda value: value and Moment(value.replace(" ", "T") + zone)
    if kinds.is_date(kind) or kinds.is_time(kind):
        return name, column.cast(pa.string()).to_pylist(), lambda value: value and Moment(value)
    return name, list(column), partial(_convert_nested, name=name)


def _convert_string(value: bytes | None, name: str) -> str | None:
    try:
        return None if value is None else decode(value)
    except MalformedError as error:
        raise MalformedError(f"{error}, in field {name!r}") from None


def _convert_number(value: str | None, name: str) -> Number | None:
    if value in ("nan", "inf", "-inf"):
        raise MalformedError(f"number: {value} is not a value, in field {name!r}")
    return None if value is None else Number(value)


def _convert_nested(value: "pa.Scalar", name: str) -> object:
    try:
        simple = _simplify(value.as_py())
    except (ValueError, OverflowError) as error:  # a string that is not UTF-8, a time out of range
        raise MalformedError(f"nested value: {_first_line(error)}, in field {name!r}") from None
    check_strings(simple, name)
    return simple


def _simplify(value: object) -> object:
    """Python's value as one of the kinds of `values.py`."""
    if isinstance(value, dict):
        return {name: _simplify(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simplify(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, bytes)):
        return value
    return Number(value) if isinstance(value, (int, float)) else Scalar(value)


def _find_missing(wanted: tuple[str, ...], names: list[str]) -> str | None:
    for name in wanted:
        if names.count(name) != 1:
            known = ", ".join(names)[:200]
            return f"schema: {name!r} appears {names.count(name)} times in {known!r}; correct the mapping"
    return None


def _quarantine(row: int, reason: str) -> Record:
    return Record(row, None, 0, b"", None, reason)


def _damage_errors() -> tuple[type[Exception], ...]:
    """What Arrow raises for damaged bytes: sometimes OSError, which a failing store raises too."""
    from pyarrow import ArrowException

    return ArrowException, OSError, UnicodeError


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class _WatchedStream:
    """Remembers faults of the store behind the file: they stop the stage, damaged bytes do not."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._fault: OSError | None = None

    def raise_fault(self) -> None:
        """Raise what the store raised, if it did."""
        if self._fault:
            raise self._fault

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            self._fault = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        """Leave the file open, because it belongs to the caller."""


FORMAT = Format(read=read, cut=cut_by_size)
