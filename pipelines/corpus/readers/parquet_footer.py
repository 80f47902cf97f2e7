"""What the footer of a Parquet file says of its row groups, and whether that can be true.

The footer is read in the guard process (`guard.py`), because one flipped bit in it can end the process: Arrow
checks statistics of a column when somebody asks for the column, and no one catches its error. What Arrow does
not check is checked here: numbers of rows give the records their places.
"""

import io
import json
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.guard import extract

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

_MAGIC, _TAIL_BYTES = b"PAR1", 8
_MAX_FOOTER_BYTES = 2**28
_MAX_EXPANSION, _FREE_BYTES = 500, 2**28
"""A column that expands more, beyond 256 MiB, is a bomb. Pages are decompressed as a whole, up to 2 GiB."""


class RowGroup(NamedTuple):
    num_rows: int
    first_byte: int
    num_bytes: int
    """Of all columns, before compression."""
    dictionaries: list[int]
    """Where the pages with the repeated values of the mapped columns start in the file."""
    problem: str | None
    """Why the row group is not read."""


class Footer(NamedTuple):
    names: list[str]
    """Of the columns."""
    groups: list[RowGroup]


def read_footer(stream: BinaryIO, names: tuple[str, ...]) -> Footer:
    """What the footer says of the row groups and of the mapped columns `names`. Raises MalformedError."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(size - _TAIL_BYTES, 0))
    tail = stream.read(_TAIL_BYTES)
    num_bytes = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or num_bytes > min(size - _TAIL_BYTES, _MAX_FOOTER_BYTES):
        raise MalformedError("parquet: the file cannot be read: it does not end with a footer")
    stream.seek(size - _TAIL_BYTES - num_bytes)
    footer = stream.read(num_bytes)
    (found,) = extract("parquet", _MAGIC + footer + tail, str(size), *names)
    columns, groups = json.loads(found or "")
    return Footer(columns, [RowGroup(*group) for group in groups])


def describe_footer(data: bytes, size: int, names: tuple[str, ...]) -> str:
    """The fields of `Footer` as JSON. Raises MalformedError. Runs in the guard process."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(io.BytesIO(data))
        columns, metadata = file.schema_arrow.names, file.metadata
        groups = [_describe_group(metadata, group, names) for group in range(metadata.num_row_groups)]
    except (ArrowException, OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise MalformedError(f"parquet: the file cannot be read: {first_line}") from None
    num_rows = sum(group.num_rows for group in groups)
    if num_rows != metadata.num_rows or any(group.num_rows < 0 for group in groups):
        raise MalformedError(
            f"parquet: the file cannot be read: its footer says {metadata.num_rows:,} rows, but its row "
            f"groups have {num_rows:,}"
        )
    if any(not 0 <= place <= size for group in groups for place in (group.first_byte, *group.dictionaries)):
        raise MalformedError("parquet: the file cannot be read: its footer names places behind its end")
    return json.dumps([columns, groups])


def _describe_group(metadata: "FileMetaData", number: int, names: tuple[str, ...]) -> RowGroup:
    group, prefixes = metadata.row_group(number), tuple(f"{name}." for name in names)
    columns = [group.column(index) for index in range(group.num_columns)]
    # Files may leave `file_offset` at 0, so it is taken from the pages.
    starts = [column.dictionary_page_offset or column.data_page_offset for column in columns]
    mapped = [column for column in columns if f"{column.path_in_schema}.".startswith(prefixes)]
    problem = None
    for column in mapped:
        expanded, stored = column.total_uncompressed_size, column.total_compressed_size
        if expanded > max(_FREE_BYTES, _MAX_EXPANSION * stored):
            problem = (
                f"parquet: row group {number} cannot be read: {column.path_in_schema!r} expands from "
                f"{stored:,} to {expanded:,} bytes"
            )
    return RowGroup(
        num_rows=group.num_rows,
        first_byte=max(min(starts, default=0), 0),
        num_bytes=max(group.total_byte_size, 0),
        dictionaries=[column.dictionary_page_offset for column in mapped if column.dictionary_page_offset],
        problem=problem,
    )


def measure_dictionary(stream: BinaryIO, place: int) -> int:
    """Bytes of the values that a dictionary page holds, decompressed; 0 if no such page starts there.

    The header of a page is a Thrift struct in the compact protocol; its first fields are the kind of the page
    and the size of its decompressed values.
    """
    stream.seek(place)
    header = stream.read(16)
    kind, behind = _read_integer(header, 0)
    size, _ = _read_integer(header, behind)
    return size if kind == _DICTIONARY_PAGE else 0


_DICTIONARY_PAGE, _NEXT_INTEGER = 2, 0x15


def _read_integer(header: bytes, position: int) -> tuple[int, int]:
    """The value of the next field of 32 bits, and where it ends; -1 if there is none."""
    if header[position : position + 1] != bytes([_NEXT_INTEGER]):
        return -1, position
    value = shift = 0
    for at in range(position + 1, min(position + 6, len(header))):
        value |= (header[at] & 0x7F) << shift
        shift += 7
        if not header[at] & 0x80:
            return (value >> 1) ^ -(value & 1), at + 1
    return -1, position
