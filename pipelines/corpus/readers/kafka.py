"""Kafka: one record per record of a topic, read from the files that `corpus/kafka/` has landed.

A record has the fields kafka.key, kafka.timestamp (ISO 8601, UTC), kafka.headers, kafka.partition,
kafka.offset and kafka.value, the text of the value. If the source maps another field, the value is a JSON
object, and its fields are fields of the record, as in JSON Lines. Key, timestamp and headers become metadata
unless the source maps its own. Keys and headers are bytes: what is not UTF-8 is written as 0x and hex digits.

To a document, the file is TOPIC/PARTITION and the offset is that of Kafka, so its id does not depend on how
the records were landed. A record without a value (a tombstone) goes to quarantine.
"""

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

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
from pipelines.corpus.readers.lines import decode, too_long
from pipelines.corpus.readers.parquet import read_groups
from pipelines.corpus.readers.values import Moment, Number

if TYPE_CHECKING:
    import pyarrow as pa

OWN = "kafka."
"""Fields that begin so are not of the value."""
METADATA = {name: f"{OWN}{name}" for name in ("key", "timestamp", "headers")}
_NAME = re.compile(r"\d+/\d{20}\.parquet")
_COLUMNS = ("offset", "timestamp", "key", "value", "headers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    topic: str = ""
    """Name of the topic."""
    land: bool = True
    """False: Kafka is not asked; the source has the records that were landed before."""

    def __post_init__(self) -> None:
        if not isinstance(self.topic, str) or not re.fullmatch(
            r"(?!\.\.?$)[A-Za-z0-9._-]{1,249}", self.topic
        ):
            raise ValueError(f"topic must be the name of a Kafka topic, got {self.topic!r}")
        if not isinstance(self.land, bool):
            raise ValueError(f"land must be true or false, got {self.land!r}")


def find(path: str, options: Options) -> list[SourceFile]:
    """The files of the topic that are there, complete. Others in the same folder are left out."""
    from pyarrow.fs import FileSelector

    from pipelines.storage import locate

    files, root = locate(path)
    folder, found = f"{root.rstrip('/')}/{options.topic}", []
    for info in files.get_file_info(FileSelector(folder, allow_not_found=True, recursive=True)):
        name = info.path.removeprefix(f"{folder}/")
        if _NAME.fullmatch(name):
            file, modified_ns = f"{options.topic}/{name}", info.mtime_ns or 0
            found.append(SourceFile(path=info.path, relative=file, size=info.size, modified_ns=modified_ns))
    return found


def name_partition(file: str) -> str:
    """TOPIC/PARTITION of TOPIC/PARTITION/FIRST.parquet."""
    return file.rpartition("/")[0]


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The records of the row groups that start in the slice, at their offsets in Kafka."""
    folders = part.path.split("/")
    partition, first = folders[-2], int(folders[-1].partition(".")[0])
    maker = _Maker(partition, request)

    def find_offset(group: Any, row: int) -> int:
        """Of a row that cannot be read: at most its own, above those of the rows before."""
        last = maker.last_offset
        if last is None:
            least = None if group is None else _find_least(group)
            last = (first + row if least is None else least) - 1
        maker.last_offset = last + 1
        return last + 1

    return (yield from read_groups(stream, part, _COLUMNS, maker.make_records, find_offset))


class _Maker:
    def __init__(self, partition: str, request: Request) -> None:
        self._partition, self._max_bytes = Number(partition), request.max_record_bytes
        self._names = tuple(name for name in request.names if not name.startswith(OWN))
        self._wants_text = f"{OWN}value" in request.names
        self.last_offset: int | None = None

    def make_records(self, batch: "pa.RecordBatch", row: int) -> Iterator[Record]:
        columns = (batch.column(name) for name in _COLUMNS)
        offsets, times, *others = columns
        rows = zip(offsets.to_pylist(), _read_times(times), *(c.to_pylist() for c in others), strict=True)
        for offset, timestamp, key, value, headers in rows:
            self.last_offset, reason = offset, None
            found: dict[str, object] | None = None
            try:
                found = {
                    **self._read_value(value),
                    f"{OWN}offset": Number(offset),
                    f"{OWN}partition": self._partition,
                    f"{OWN}timestamp": timestamp,
                    f"{OWN}key": None if key is None else _describe_bytes(key),
                    f"{OWN}headers": _describe_headers(headers),
                }
            except MalformedError as error:
                reason = str(error)
            yield Record(offset, None, len(value or b""), value or b"", found, reason)

    def _read_value(self, value: bytes | None) -> dict[str, object]:
        if value is None:
            raise MalformedError("tombstone: the value is null")
        if len(value) > self._max_bytes:
            raise MalformedError(too_long(self._max_bytes))
        given = parse_object(value, self._names) if self._names else {}
        # Of the mapped fields alone it is known that they are text, and none has a name of our own.
        found = {name: given[name] for name in self._names if name in given}
        return {**found, f"{OWN}value": decode(value)} if self._wants_text else found


def _read_times(column: "pa.Array") -> list[Moment | None]:
    import pyarrow as pa

    # Arrow keeps UTC; without the zone it prints that, and needs no time zone database. It prints times after
    # the year 9999 as "<value out of range: ...>".
    texts = column.cast(pa.timestamp("ms")).cast(pa.string()).to_pylist()
    return [Moment(text.replace(" ", "T") + "Z") if text and text[0] != "<" else None for text in texts]


def _describe_bytes(data: bytes) -> str:
    try:
        return decode(data)
    except MalformedError:
        return f"0x{data.hex()}"


def _describe_headers(headers: list[dict[str, Any]] | None) -> str | None:
    """JSON, [[name, value], ...]: names may repeat."""
    if not headers:
        return None
    values = (each["value"] for each in headers)
    texts = [None if value is None else _describe_bytes(value) for value in values]
    return json.dumps(
        [[each["name"], text] for each, text in zip(headers, texts, strict=True)], ensure_ascii=False
    )


def _find_least(group: Any) -> int | None:
    """The smallest offset of a row group, if its statistics have it."""
    found = group.column(0).statistics
    return int(found.min) if found is not None and found.has_min_max else None


FORMAT = Format(
    read=read,
    cut=cut_by_size,
    find=find,
    options=Options,
    name_file=name_partition,
    metadata=METADATA,
    when_empty="nothing was landed there yet: a run without --dry-run and with options.land: true asks Kafka "
    "(for corpus.sources, not for evaluation sets); or the topic has no records that were committed",
)
