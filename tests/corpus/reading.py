"""Read bytes as a source does, in plain Python without Spark."""

import io
from typing import NamedTuple

from pipelines.corpus.readers.format import MalformedError, Slice
from pipelines.corpus.readers.mapping import Columns, Mapper
from pipelines.corpus.source import Source


class Read(NamedTuple):
    """A record, with the columns that its values map to or the reason why it is broken."""

    offset: int
    line: int | None
    num_bytes: int
    raw: bytes
    values: dict | None
    columns: Columns | None
    reason: str | None


def make_source(**knobs) -> Source:
    return Source(**{"name": "s", "path": "s", "format": "text", **knobs})


def read_bytes(data: bytes, source: Source, *, path="s", start=0, stop=None) -> list[Read]:
    """The records that start in bytes [start, stop) of a file."""
    part = Slice(0, path, path, start, stop, 1 + data[:start].count(b"\n"))
    records = source.reader.read(io.BytesIO(data), part, source.request)
    return [_map_record(record, source) for record in records]


def _map_record(record, source: Source) -> Read:
    position = record[:5]
    try:
        columns = None if record.values is None else Mapper(source).map_values(record.values)
        return Read(*position, columns, record.reason)
    except MalformedError as error:
        return Read(*position, None, str(error))


def texts(records: list[Read]) -> list[str]:
    return [record.columns.text for record in records if record.columns]


def kinds(records: list[Read]) -> dict:
    """Line -> kind of the reason, of the broken records."""
    return {record.line: record.reason.split(":")[0] for record in records if record.reason}
