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
    """The records that start in bytes [start, stop) of a file; lines are counted from `start`."""
    return _read_part(data, source, Slice(path, start, stop))[0]


def read_in_slices(data: bytes, source: Source, size: int, *, path="s") -> list[Read]:
    """The records of a file that is read in slices of `size` bytes, lines numbered as the stage does it."""
    found, lines_before = [], 0
    for start in range(0, max(len(data), 1), size):
        stop = start + size if start + size < len(data) else None
        records, num_lines = _read_part(data, source, Slice(path, start, stop))
        found += [
            record if record.line is None else record._replace(line=record.line + lines_before)
            for record in records
        ]
        lines_before += num_lines
    return found


def _read_part(data: bytes, source: Source, part: Slice) -> tuple[list[Read], int]:
    records, found = source.reader.read(io.BytesIO(data), part, source.request), []
    while True:
        try:
            found.append(_map_record(next(records), source))
        except StopIteration as end:
            return found, end.value.num_lines


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
