"""Slices -> rows, read on the executors by streaming Python tasks (mapInArrow).

A corpus is read twice, and before this once or twice more if copied paragraphs or near duplicates are looked
for. The first time gives a position per record: its ids, sizes and faults, no text. What
depends on other records (copies, repeated keys) is decided on positions alone. The second time gives the
documents, each with its label, straight to the writer. So no text is shuffled, cached or staged. The second
reading costs about what writing and reading a copy would cost, and no space.

Memory per task: one record, one batch and one buffer; if copied paragraphs are removed, those of one block of
texts (`paragraphs/find.py`), and for the paragraphs that a record loses 270 bytes each.
"""

import platform
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial

import pyarrow as pa
from pyarrow import NativeFile
from pyarrow.fs import FileSystem
from pyspark.sql import DataFrame, SparkSession

from pipelines.corpus.ids import content_hash
from pipelines.corpus.measure import MEASURES, Measurable, Measuring, TextKeeper, attach_measures
from pipelines.corpus.paragraphs.editor import EditedMapper
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.readers.format import Extent, Record, Slice
from pipelines.corpus.readers.mapping import Mapper, TextMapper
from pipelines.corpus.readers.rows import (
    DOCUMENT_ROWS,
    POSITIONS,
    make_document,
    make_position,
    make_repeated,
    make_summary,
    measure_document,
)
from pipelines.corpus.readers.slices import Scattered, Slices, scatter
from pipelines.corpus.source import Source
from pipelines.schema import arrow_schema
from pipelines.storage import locate
from pipelines.stores import carry

_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 10_000
_REMEDIES: dict[type[OSError], str] = {
    FileNotFoundError: "bring it back, or put the files where every machine of the cluster sees them",
    PermissionError: "let the user of the executors read it",
    OSError: "correct the cause and run again",
}
_Rows = Iterator[tuple[int, tuple]]
"""(bytes, row)"""
MEASURED = f"{POSITIONS}, {MEASURES}"
"""A position and what was measured of its text; null for a broken record and a slice."""


def read_positions(
    spark: SparkSession, sources: Sequence[Source], slices: Slices, measuring: Measuring | None = None
) -> DataFrame:
    """Rows of MEASURED: one per record, good or broken, and one per slice. Measures what is asked.

    A file that a task cannot read (gone, forbidden, store down) fails the task: a quarantine row would mark
    the file as processed, and it would never be retried. Broken content becomes rows with a reason.
    """
    work = partial(_measure_positions, sources=sources, measuring=measuring or Measuring())
    return read_rows(spark, slices, None, work, MEASURED)


def read_documents(
    spark: SparkSession, sources: Sequence[Source], slices: Slices, labels: DataFrame | None
) -> DataFrame:
    """Rows of DOCUMENT_ROWS: the good records but those that repeat a key. Text, label and parts are
    normalised."""
    return read_rows(spark, slices, labels, partial(_build_documents, sources=sources), DOCUMENT_ROWS)


def read_repeated(
    spark: SparkSession, sources: Sequence[Source], slices: Slices, labels: DataFrame
) -> DataFrame:
    """Rows of POSITIONS for the records that repeat a key, with the reason and their whole text as raw."""
    whole = replace(slices, edits=None)
    return read_rows(spark, whole, labels, partial(_find_repeated, sources=sources), POSITIONS)


def read_texts(
    spark: SparkSession,
    sources: Sequence[Source],
    slices: Slices,
    labels: DataFrame,
    work: Callable[[Iterator[tuple[str, str]]], Iterator[tuple[int, tuple]]],
    ddl: str,
) -> DataFrame:
    """Rows of `ddl` that `work` makes of the records that have a label, and of no others.

    On the executors, `work` gets content hash and normalised text of each record, one after the other, and
    yields (bytes, row). Slices without a label are not opened.
    """
    return read_rows(spark, slices, labels, partial(_work_on_texts, sources=sources, work=work), ddl)


def work_on_documents(documents: DataFrame, work: Callable[..., _Rows], ddl: str) -> DataFrame:
    """The same of texts that are in a table: needs content_hash and text."""
    run = partial(_run, work=partial(_work_on_rows, work=work), schema=arrow_schema(ddl))
    return documents.select("content_hash", "text").mapInArrow(carry(run), ddl)


def read_rows(
    spark: SparkSession, slices: Slices, labels: DataFrame | None, work: Callable[..., _Rows], ddl: str
) -> DataFrame:
    """Rows of `ddl` that `work` makes of the slices of a task, on the executors: it gets a `Scattered`, and
    yields (bytes, row)."""
    edited_by = slices.edits.settings if slices.edits else None
    work = partial(_work_on_slices, work=work, edited_by=edited_by)
    run = partial(_run, work=work, schema=arrow_schema(ddl))
    return scatter(spark, slices, labels).mapInArrow(carry(run), ddl)


def _work_on_slices(
    batches: Iterable[pa.RecordBatch], work: Callable[[Scattered], _Rows], edited_by: Paragraphs | None
) -> _Rows:
    return work(Scattered(batches, edited_by))


def _work_on_rows(batches: Iterable[pa.RecordBatch], work: Callable[..., _Rows]) -> _Rows:
    return work((row["content_hash"], row["text"]) for batch in batches for row in batch.to_pylist())


def _run(
    batches: Iterable[pa.RecordBatch], work: Callable[[Iterable[pa.RecordBatch]], _Rows], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    rows, num_bytes = list[tuple](), 0
    for size, row in work(batches):
        rows.append(row)
        num_bytes += size
        # bounded by bytes too: 10,000 rows of 16 MiB would be 160 GB
        if num_bytes >= _BATCH_BYTES or len(rows) >= _BATCH_ROWS:
            yield _make_batch(rows, schema)
            rows, num_bytes = [], 0
    if rows:
        yield _make_batch(rows, schema)


def _measure_positions(scattered: Scattered, sources: Sequence[Source], measuring: Measuring) -> _Rows:
    return attach_measures(_find_positions(scattered, sources), measuring)


def _find_positions(scattered: Scattered, sources: Sequence[Source]) -> Iterator[Measurable]:
    open_source = open_sources(sources, scattered)
    for row, part in scattered.slices():
        source, files, mapper = open_source(row["source"])
        at = (row["task"], row["slice"], source.name, name_file(source, row["file"]))
        keeper = TextKeeper(mapper)
        records, extent = scattered.follow(read_slice(files, source, part)), Extent()
        while True:
            try:
                record = next(records)
            except StopIteration as end:
                extent = end.value
                break
            position = make_position(at, record, keeper)
            yield keeper.add_text(len(position[-1] or b""), position)
        yield Measurable(0, make_summary(at, part.start, extent))


def _build_documents(scattered: Scattered, sources: Sequence[Source]) -> _Rows:
    open_source = open_sources(sources, scattered)
    for row, part in scattered.slices():
        source, files, mapper = open_source(row["source"])
        file = name_file(source, row["file"])
        for record in scattered.follow(read_slice(files, source, part)):
            label = scattered.label(record.offset)
            if label is None or label.first_file is None:
                document = make_document(source.name, file, record, mapper, label)
                if document is not None:
                    yield measure_document(record, document), document


def _find_repeated(scattered: Scattered, sources: Sequence[Source]) -> _Rows:
    open_source = open_sources(sources, scattered)
    for row, part in scattered.slices():
        source, files, mapper = open_source(row["source"])
        at = (row["task"], row["slice"], source.name, name_file(source, row["file"]))
        for record in read_slice(files, source, part):
            label = scattered.label(record.offset)
            if label is not None and label.first_file is not None:
                repeated = make_repeated(at, record, mapper, label)
                yield len(repeated[-1]), repeated


def _work_on_texts(
    scattered: Scattered,
    sources: Sequence[Source],
    work: Callable[[Iterator[tuple[str, str]]], Iterator[tuple[int, tuple]]],
) -> _Rows:
    def read() -> Iterator[tuple[str, str]]:
        open_source = open_sources(sources, scattered)
        for row, part in scattered.slices():
            if not scattered.has_labels():
                continue
            source, files, mapper = open_source(row["source"])
            for record in scattered.follow(read_slice(files, source, part)):
                if scattered.label(record.offset) is None:
                    continue
                if record.values is None:
                    raise RuntimeError(f"{part.path} changed while it was read; run the stage again")
                columns = mapper.map_values(record.values)
                yield content_hash(columns.text.encode(), columns.parts), columns.text
                if not scattered.has_labels():  # the rest of the slice is of no use
                    break

    return work(read())


def open_sources(
    sources: Sequence[Source], scattered: Scattered
) -> Callable[[int], tuple[Source, FileSystem, TextMapper]]:
    """A function that gives source, file system and mapping by the number of the source."""

    @cache
    def open_source(number: int) -> tuple[Source, FileSystem, TextMapper]:
        source = sources[number]
        mapper: TextMapper = Mapper(source)
        if scattered.edited_by is not None:
            mapper = EditedMapper(mapper, source, scattered.edited_by, scattered.copied)
        return source, locate(source.path)[0], mapper

    return open_source


def name_file(source: Source, file: str) -> str:
    """The name of a file in documents and their ids."""
    return file if source.reader.name_file is None else source.reader.name_file(file)


def read_slice(files: FileSystem, source: Source, part: Slice) -> Generator[Record, None, Extent]:
    """The records of a slice. Raises OSError as `_open` does."""
    with _open(files, source, part) as stream:
        return (yield from source.reader.read(stream, part, source.request))


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


def _make_batch(rows: list[tuple], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
