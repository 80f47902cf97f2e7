"""The slices of a source: which bytes of which file each task reads. Made on the driver."""

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from pipelines.corpus.readers.format import Slice, SourceFile
from pipelines.corpus.source import Source
from pipelines.stores import carry

_TASK_BYTES = 32 * 2**20
"""Cost of a task: about a second of reading."""
_FILE_BYTES = 256 * 2**10
"""What opening a file costs, as bytes that could be read meanwhile: at most 128 small files per task."""
_SCHEMA = "task INT, path STRING, relative STRING, start BIGINT, stop BIGINT, line BIGINT"
_COUNTS = "path STRING, start BIGINT, num_lines BIGINT"


def cut_files(files: list[SourceFile], source: Source) -> list[Slice]:
    """Slices by file and offset, grouped into tasks of about equal cost. Their lines are not counted yet."""
    slices: list[Slice] = []
    task, filled = 0, 0
    for file in files:
        for start, stop in source.reader.cut(file):
            cost = _FILE_BYTES + (file.size if stop is None else stop) - start
            if filled and filled + cost > _TASK_BYTES:
                task, filled = task + 1, 0
            filled += cost
            slices.append(Slice(task, file.path, file.relative, start, stop, 1))
    return slices


def number_lines(
    spark: SparkSession,
    slices: list[Slice],
    count: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]],
) -> list[Slice]:
    """The slices with `line` set. Runs one job over all slices but the last ones of their files, if any."""
    followed = [part for part in slices if part.stop is not None]
    if not followed:
        return slices
    rows = scatter(spark, followed).mapInArrow(carry(count), _COUNTS).collect()
    counted = {(row.path, row.start): row.num_lines for row in rows}
    numbered, line = [], 1
    for part in slices:
        line = 1 if part.start == 0 else line
        numbered.append(part._replace(line=line))
        line += counted.get((part.path, part.start), 0)
    return numbered


def scatter(spark: SparkSession, slices: list[Slice]) -> DataFrame:
    """One row per slice, one partition per task: by id, since hashes could put two tasks in one."""
    return spark.createDataFrame(slices, _SCHEMA).repartitionById(slices[-1].task + 1, "task")


def read_scattered(batches: Iterable[pa.RecordBatch]) -> Iterator[Slice]:
    """The slices of a task, from the rows of `scatter`."""
    for batch in batches:
        for row in batch.to_pylist():
            yield Slice(**row)
