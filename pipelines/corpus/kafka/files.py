"""Records of a partition as files: PARTITION/FIRST.parquet, where FIRST is the first offset that the file
covers, as Kafka names its own segments.

A file covers the offsets FIRST to LAST, which its metadata has; the next one begins behind LAST. It is
created on the condition that there is none of its name. So the files of a partition follow each other without
gap and overlap also if two tasks write the same ones and end them at different offsets: the slower task takes
the end of the file that is there, and goes on behind it.

Offsets that a file covers may have no record: compaction removed it, its transaction was aborted, or it is a
mark of a transaction.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipelines.corpus.kafka.ranges import Range
from pipelines.storage import Folder, locate

if TYPE_CHECKING:
    import pyarrow as pa

FILE_BYTES = 64 * 2**20
"""Compressed; a file of this size is ended. It is kept in memory until it is written."""
GROUP_BYTES = 8 * 2**20
"""Of a row group, uncompressed."""
GROUP_ROWS = 10_000
_LAST = b"last"
_NAME = re.compile(r"\d{20}\.parquet")


class Message(NamedTuple):
    """A record of a partition."""

    offset: int
    timestamp_ms: int | None
    """Since 1970, by the producer or the broker, as the topic is set; None = it has none."""
    key: bytes | None
    value: bytes | None
    """None = a tombstone."""
    headers: list[tuple[str, bytes | None]]

    @property
    def num_bytes(self) -> int:
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + 16


class Segment(NamedTuple):
    """The content of a file."""

    content: memoryview
    stop: int
    """Offset behind the last one that it covers."""
    num_records: int


def name_file(partition: int, first: int) -> str:
    """Names sort as offsets do. The reader looks for such names (`readers/kafka.py`)."""
    return f"{partition}/{first:020}.parquet"


def schema() -> "pa.Schema":
    """Columns of a file."""
    import pyarrow as pa

    header = pa.struct([("name", pa.string()), ("value", pa.binary())])
    return pa.schema(
        [
            pa.field("offset", pa.int64(), nullable=False),
            ("timestamp", pa.timestamp("ms", "UTC")),
            ("key", pa.binary()),
            ("value", pa.binary()),
            ("headers", pa.list_(header)),
        ]
    )


def fill_segment(messages: Iterator[Message], stop: int, *, file_bytes: int = FILE_BYTES) -> Segment:
    """A file of the next messages, up to `file_bytes`. The messages are those of a range that ends before
    `stop`: if they are at their end, the file covers the rest of the range."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    sink, rows, num_bytes, num_records = pa.BufferOutputStream(), list[Message](), 0, 0
    # With checksums, because Kafka may have deleted the records when a damage shows.
    with ParquetWriter(sink, schema(), compression="zstd", write_page_checksum=True) as writer:
        for message in messages:
            rows.append(message)
            num_bytes += message.num_bytes
            if num_bytes < GROUP_BYTES and len(rows) < GROUP_ROWS:
                continue
            writer.write_table(_make_table(rows))
            num_records += len(rows)
            rows, num_bytes = [], 0
            if sink.tell() >= file_bytes:
                stop = message.offset + 1
                break
        if rows:
            writer.write_table(_make_table(rows))
        writer.add_key_value_metadata({_LAST: str(stop - 1).encode()})
    return Segment(memoryview(sink.getvalue()).cast("B"), stop, num_records + len(rows))


def _make_table(rows: list[Message]) -> "pa.Table":
    import pyarrow as pa

    *columns, headers = zip(*rows, strict=True)
    nested = [[{"name": name, "value": value} for name, value in each] or None for each in headers]
    arrays = [pa.array(column, kind.type) for column, kind in zip([*columns, nested], schema(), strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema())


def create_files(
    folder: Folder, part: Range, read: Callable[[Range], Iterator[Message]], *, file_bytes: int = FILE_BYTES
) -> int:
    """Create the files of a range that are not there; returns the number of records in those that this call
    created. `read` gives the records of a range, by offset."""
    num_records = 0
    while part.first < part.stop:
        segment = fill_segment(read(part), part.stop, file_bytes=file_bytes)
        stop = segment.stop
        if folder.create(name_file(part.partition, part.first), segment.content):
            num_records += segment.num_records
        else:
            stop = read_stop(folder, part.partition, part.first)
        part = part._replace(first=stop)
    return num_records


def read_stop(folder: Folder, partition: int, first: int) -> int:
    """The offset behind those that a file covers. Raises ValueError if it cannot be read."""
    import pyarrow as pa
    from pyarrow.parquet import read_metadata

    files, root = locate(folder.path)
    path = f"{root.rstrip('/')}/{name_file(partition, first)}"
    try:
        with files.open_input_file(path) as stream:
            return 1 + int(read_metadata(stream).metadata[_LAST])
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} has no record of its last offset ({error!r}); bring back the file as it was"
        ) from None


def list_firsts(folder: Folder, partition: int) -> list[int]:
    """The first offsets of the files of a partition, in order."""
    names = (folder / str(partition)).names()
    return sorted(int(name.partition(".")[0]) for name in names if _NAME.fullmatch(name))


def find_rest(folder: Folder, part: Range, firsts: Sequence[int]) -> Range:
    """What of a range is in no file yet; `firsts` as `list_firsts` gives them."""
    behind = bisect_left(firsts, part.stop)
    if not behind or firsts[behind - 1] < part.first:
        return part
    return part._replace(first=read_stop(folder, part.partition, firsts[behind - 1]))
