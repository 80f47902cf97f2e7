"""A source -> rows, one a record, read on the executors.

The driver lists the files and cuts what can be cut into byte slices, the executors stream them in Python (mapInArrow):
memory is one record, one batch and one buffer a task. Lines are numbered over the whole file, so a file of several
slices is first counted through (LF bytes only, by many tasks, at the speed of the store).
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from pyarrow import NativeFile
from pyarrow.fs import FileSystem
from pyspark.sql import DataFrame, SparkSession

from pipelines.corpus.clean import normalise
from pipelines.corpus.readers import csv, jsonl, text
from pipelines.corpus.readers.gzip import GzipStream
from pipelines.corpus.readers.records import Bytes, Lines, Record
from pipelines.corpus.source import Source, SourceFile, list_files
from pipelines.storage import locate

READERS: dict[str, Callable[[Lines, Source], Iterator[Record]]] = {
    "csv": csv.records, "jsonl": jsonl.records, "text": text.records,
}  # fmt: skip
MAX_RAW_BYTES = 64 * 2**10
SLICE_BYTES = 128 * 2**20
_TASK_BYTES = 32 * 2**20  # about a second of reading
_FILE_BYTES = (
    256 * 2**10
)  # what opening a file costs, in bytes read meanwhile: at most 128 small files a task
_BUFFER_BYTES = 2**20
_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 10_000
_REMEDIES: dict[type[OSError], str] = {
    FileNotFoundError: "bring it back, or put the files where every machine of the cluster sees them",
    PermissionError: "let the user of the executors read it",
    OSError: "mend what the cause names and run again",
}

RECORDS = """source STRING, file STRING, offset BIGINT, line BIGINT,
             key STRING, text STRING, label STRING, split STRING, reason STRING, raw BINARY"""
_ROWS = pa.schema([
    ("source", pa.string()), ("file", pa.string()), ("offset", pa.int64()), ("line", pa.int64()),
    ("key", pa.string()), ("text", pa.string()), ("label", pa.string()), ("split", pa.string()),
    ("reason", pa.string()), ("raw", pa.binary()),
])  # fmt: skip
_SLICES = "task INT, path STRING, relative STRING, start BIGINT, stop BIGINT, line BIGINT"
_COUNTS = "path STRING, start BIGINT, num_lines BIGINT"


class Slice(NamedTuple):
    """Bytes [start, stop) of a file, read by one task together with the other slices of that task."""

    task: int
    path: str
    relative: str
    start: int
    stop: int | None
    """None = the end of the file."""
    line: int
    """LF bytes in front of start, plus 1."""


def read_source(spark: SparkSession, source: Source) -> DataFrame:
    """The rows of a source (RECORDS), a broken record with `reason` and the first 64 KiB of `raw`, a good one without.

    Text and label are normalised. Runs a job at once where a file has more than one slice, to number its lines.
    Raises FileNotFoundError where the source has no file. A file that a task cannot read (gone, forbidden, store down) fails the
    task: as a row it would be taken for done and never read again. A file of broken content is rows with a reason.
    """
    slices = _numbered(spark, source, _cut(list_files(source), source))
    return _scattered(spark, slices).mapInArrow(partial(_read_slices, source=source), RECORDS)


def read_slice(files: FileSystem, source: Source, part: Slice) -> Iterator[Record]:
    """The records that start in the slice, and one that says where the file broke. Raises OSError as `_opened` does."""
    with _opened(files, source, part) as opened:
        if _is_gzip(part.path):
            lines = Lines(GzipStream(opened))
        else:
            opened.seek(max(part.start - 1, 0))
            lines = Lines(Bytes(opened, _BUFFER_BYTES), start=part.start, stop=part.stop, line=part.line)
        yield from READERS[source.format](lines, source)
        if lines.broken:
            yield Record(lines.offset, lines.line, len(lines.tail), lines.tail, None, lines.broken)


@contextmanager
def _opened(files: FileSystem, source: Source, part: Slice) -> Iterator[NativeFile]:
    """The open file. A fault in opening or reading names source, file, machine, cause and remedy."""
    try:
        with files.open_input_file(part.path) as opened:
            yield opened
    except OSError as error:
        kind = next(kind for kind in _REMEDIES if isinstance(error, kind))
        at, cause = f"source {source.name!r}: {part.path}", str(error).partition("\n")[0]
        raise kind(f"{at} cannot be read on {platform.node()}: {cause}; {_REMEDIES[kind]}") from None


def _is_gzip(path: str) -> bool:
    return path.lower().endswith(".gz")


def _cut(files: list[SourceFile], source: Source) -> list[Slice]:
    """Slices in order of file and offset, lines not yet numbered, dealt out to tasks of about the same cost."""
    slices, task, filled = [], 0, 0
    for file in files:
        cuttable = source.format == "jsonl" and not _is_gzip(file.path)
        step = SLICE_BYTES if cuttable else max(file.size, 1)
        for start in range(0, max(file.size, 1), step):
            cost = _FILE_BYTES + min(step, file.size - start)
            if filled and filled + cost > _TASK_BYTES:
                task, filled = task + 1, 0
            filled += cost
            stop = start + step if start + step < file.size else None
            slices.append(Slice(task, file.path, file.relative, start, stop, 1))
    return slices


def _numbered(spark: SparkSession, source: Source, slices: list[Slice]) -> list[Slice]:
    """The slices with the lines in front of them. A file of one slice is not read for it."""
    followed = [part for part in slices if part.stop is not None]
    if not followed:
        return slices
    counts = _scattered(spark, followed).mapInArrow(partial(_count_lines, source=source), _COUNTS)
    counted = {(row.path, row.start): row.num_lines for row in counts.collect()}
    numbered, line = [], 1
    for part in slices:
        line = 1 if part.start == 0 else line
        numbered.append(part._replace(line=line))
        line += counted.get((part.path, part.start), 0)
    return numbered


def _scattered(spark: SparkSession, slices: list[Slice]) -> DataFrame:
    """One row a slice, one partition a task. By id, not by hash: two big tasks must not meet in one partition."""
    return spark.createDataFrame(slices, _SLICES).repartitionById(slices[-1].task + 1, "task")


def _slices(batches: Iterable[pa.RecordBatch]) -> Iterator[Slice]:
    for batch in batches:
        for row in batch.to_pylist():
            yield Slice(**row)


def _count_lines(batches: Iterable[pa.RecordBatch], source: Source) -> Iterator[pa.RecordBatch]:
    files, _ = locate(source.path)
    for part in _slices(batches):
        num_lines = _num_lines(files, source, part)
        yield pa.RecordBatch.from_pylist([{"path": part.path, "start": part.start, "num_lines": num_lines}])


def _num_lines(files: FileSystem, source: Source, part: Slice) -> int:
    assert part.stop is not None, "only slices that another one follows are counted"
    left, num_lines = part.stop - part.start, 0
    with _opened(files, source, part) as opened:
        opened.seek(part.start)
        while left and (piece := opened.read(min(left, _BUFFER_BYTES))):
            left -= len(piece)
            num_lines += piece.count(b"\n")
    return num_lines


def _read_slices(batches: Iterable[pa.RecordBatch], source: Source) -> Iterator[pa.RecordBatch]:
    files, _ = locate(source.path)
    rows: list[tuple] = []
    num_bytes = 0
    for part in _slices(batches):
        for record in read_slice(files, source, part):
            rows.append(_row(record, source.name, part.relative))
            num_bytes += len(record.raw)
            # bounded by bytes too: 10,000 rows of 16 MiB would be 160 GB
            if num_bytes >= _BATCH_BYTES or len(rows) >= _BATCH_ROWS:
                yield _batch(rows)
                rows, num_bytes = [], 0
    if rows:
        yield _batch(rows)


def _row(record: Record, source_name: str, relative: str) -> tuple:
    position = (source_name, relative, record.offset, record.line)
    if record.fields is None:
        return (*position, None, None, None, None, record.reason, record.raw[:MAX_RAW_BYTES])
    value = record.fields.get
    label = value("label")
    label = normalise(label) or None if label else None
    return (*position, value("key"), normalise(record.fields["text"]), label, value("split"), None, None)


def _batch(rows: list[tuple]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, kind.type) for column, kind in zip(columns, _ROWS, strict=True)], schema=_ROWS
    )
