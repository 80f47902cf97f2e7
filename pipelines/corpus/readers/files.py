"""A source -> rows, one per record, read on the executors.

The driver lists the files and cuts them into slices; Python tasks on the executors stream them (mapInArrow).
Memory per task: one record, one batch and one buffer. If a file has several slices and its format needs line
numbers, one more job first counts the line feeds of the slices, with many tasks and at the speed of the
store.
"""

import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce

import pyarrow as pa
from pyarrow import NativeFile
from pyarrow.fs import FileSystem
from pyspark.sql import DataFrame, SparkSession

from pipelines.corpus.readers.format import MalformedError, Record, Slice, SourceFile
from pipelines.corpus.readers.mapping import Mapper
from pipelines.corpus.readers.slices import cut_files, number_lines, read_scattered, scatter
from pipelines.corpus.source import Source
from pipelines.schema import arrow_schema
from pipelines.storage import locate
from pipelines.stores import carry

MAX_RAW_BYTES = 64 * 2**10
"""Of a broken record, kept in quarantine."""
_BUFFER_BYTES = 2**20
_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 10_000
_REMEDIES: dict[type[OSError], str] = {
    FileNotFoundError: "bring it back, or put the files where every machine of the cluster sees them",
    PermissionError: "let the user of the executors read it",
    OSError: "correct the cause and run again",
}

RECORDS = """source STRING, file STRING, offset BIGINT, line BIGINT,
             key STRING, text STRING, label STRING, split STRING,
             parts ARRAY<STRUCT<name: STRING, text: STRING>>, metadata MAP<STRING, STRING>,
             reason STRING, raw BINARY"""


def read_sources(
    spark: SparkSession, sources: Sequence[Source], listed: Sequence[list[SourceFile]]
) -> DataFrame:
    """The rows of all sources, each with its listed files; see `read_source`."""
    read = [read_source(spark, source, files) for source, files in zip(sources, listed, strict=True)]
    return reduce(lambda above, below: above.unionByName(below), read)


def read_source(spark: SparkSession, source: Source, files: list[SourceFile]) -> DataFrame:
    """The rows of a source (RECORDS): a broken record has `reason` and the first 64 KiB of `raw`, a good one
    has neither.

    Text, label and parts are normalised. Runs a job at once if lines have to be counted. Raises
    FileNotFoundError if the source has no file. A file that a task cannot read (gone, forbidden, store down)
    fails the task: a quarantine row would mark the file as processed, and it would never be retried. Broken
    content becomes rows with a reason.
    """
    slices = cut_files(files, source)
    if source.reader.count_lines:
        slices = number_lines(spark, slices, partial(_count_lines, source=source))
    schema = arrow_schema(RECORDS)
    read = carry(partial(_read_slices, source=source, schema=schema))
    return scatter(spark, slices).mapInArrow(read, RECORDS)


def read_slice(files: FileSystem, source: Source, part: Slice) -> Iterator[Record]:
    """The records of a slice. Raises OSError as `_open` does."""
    with _open(files, source, part) as stream:
        yield from source.reader.read(stream, part, source.request)


@contextmanager
def _open(files: FileSystem, source: Source, part: Slice) -> Iterator[NativeFile]:
    """The open file. An error of opening or reading names source, file, machine, cause and remedy."""
    try:
        with files.open_input_file(part.path) as opened:
            yield opened
    except OSError as error:
        kind = next(kind for kind in _REMEDIES if isinstance(error, kind))
        at, cause = f"source {source.name!r}: {part.path}", str(error).partition("\n")[0]
        raise kind(f"{at} cannot be read on {platform.node()}: {cause}; {_REMEDIES[kind]}") from None


def _count_lines(batches: Iterable[pa.RecordBatch], source: Source) -> Iterator[pa.RecordBatch]:
    files, _ = locate(source.path)
    for part in read_scattered(batches):
        num_lines = count_line_feeds(files, source, part)
        yield pa.RecordBatch.from_pylist([{"path": part.path, "start": part.start, "num_lines": num_lines}])


def count_line_feeds(files: FileSystem, source: Source, part: Slice) -> int:
    """LF bytes of a slice that another one follows. Raises OSError as `_open` does."""
    assert part.stop is not None, "only slices that another one follows are counted"
    left, num_lines = part.stop - part.start, 0
    with _open(files, source, part) as opened:
        opened.seek(part.start)
        while left and (piece := opened.read(min(left, _BUFFER_BYTES))):
            left -= len(piece)
            num_lines += piece.count(b"\n")
    return num_lines


def _read_slices(
    batches: Iterable[pa.RecordBatch], source: Source, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    files, _ = locate(source.path)
    mapper, rows = Mapper(source), list[tuple]()
    num_bytes = 0
    for part in read_scattered(batches):
        for record in read_slice(files, source, part):
            rows.append(make_row(record, mapper, source.name, part.relative))
            num_bytes += len(record.raw)
            # bounded by bytes too: 10,000 rows of 16 MiB would be 160 GB
            if num_bytes >= _BATCH_BYTES or len(rows) >= _BATCH_ROWS:
                yield _make_batch(rows, schema)
                rows, num_bytes = [], 0
    if rows:
        yield _make_batch(rows, schema)


def make_row(record: Record, mapper: Mapper, source: str, relative: str) -> tuple:
    """The row of a record, in the order of RECORDS. Values that do not fit the mapping break it."""
    position, reason = (source, relative, record.offset, record.line), record.reason
    if record.values is not None:
        try:
            key, text, label, split, parts, metadata = mapper.map_values(record.values)
            return (
                *position,
                key,
                text,
                label,
                split,
                parts,
                list(metadata.items()) if metadata else None,
                None,
                None,
            )
        except MalformedError as error:
            reason = str(error)
    return (*position, None, None, None, None, None, None, reason, record.raw[:MAX_RAW_BYTES])


def _make_batch(rows: list[tuple], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
