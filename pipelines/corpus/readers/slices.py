"""The slices of a corpus: which bytes of which file each task reads, and what each task knows of its records.

The driver cuts the manifest into slices. They travel as rows, each to its task; labels of single records
(`dedup.py`) travel to the task that reads the record, behind the row of its slice. So a task gets what
concerns it and nothing else, and texts never move to their labels. Copied paragraphs (`paragraphs/`) travel
in blocks, each in front of its first record: a task holds one block, however long its slice is.
"""

from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.corpus.manifest import Manifest
from pipelines.corpus.paragraphs.edit import Copied
from pipelines.corpus.paragraphs.settings import Paragraphs
from pipelines.corpus.readers.compression import is_gzip
from pipelines.corpus.readers.format import Extent, Record, Slice
from pipelines.corpus.source import Source

MIN_SLICE_BYTES, MAX_SLICE_BYTES = 4 * 2**20, 128 * 2**20
"""Smallest and largest task, about."""
FULL_SLICE_BYTES = 16 * 2**20
"""A slot gets several tasks only if each is at least this large: starting a task takes a while. The memory of
a task hardly grows above this size (`shards.ROW_GROUP_BYTES`)."""
TASKS_PER_SLOT = 4
"""So that no slot waits long for the last task."""
SHUFFLE_BYTES, MAX_SHUFFLE_PARTITIONS = 64 * 2**20, 2_000
"""Bytes of files for each partition of a shuffle: a document of 4 kB shuffles 70 bytes, and with 20 bands of
near duplicates 480 more, one of 60 bytes ten times its size. Up to 2,000 partitions, Spark keeps the size of
each block, by which it joins small partitions again."""
_FILE_BYTES = 256 * 2**10
"""What opening a file costs, as bytes that could be read meanwhile."""
_SLICE = "task INT, slice INT, source INT, path STRING, file STRING, start BIGINT, stop BIGINT, base BIGINT"
_ONLY_LABELS = (
    "offset BIGINT, duplicate_of STRING, first_file STRING, first_offset BIGINT, failed_rule STRING"
)
LABELS = f"task INT, slice INT, {_ONLY_LABELS}"
"""What is known of a record besides itself (`dedup.py`, `quality.py`). A record may have several rows, each
with other columns filled."""
COPIED = "task INT, slice INT, offset BIGINT, paragraph BINARY, content BINARY"
"""A copied paragraph of the texts of a block, and the content of the first text that has it. Without
paragraph: the content of a text that stays whole. A block begins with the record at slice and offset, and
ends in the task where the next one begins."""


class Label(NamedTuple):
    duplicate_of: str | None
    """doc_id of the surviving copy."""
    first_file: str | None
    """File of the first record with the same key; None = this is the first."""
    first_offset: int | None
    failed_rule: str | None
    """Rule of a preset that the document fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edits:
    """What texts lose when they are read."""

    settings: Paragraphs
    rows: DataFrame
    """COPIED"""
    num_chars: dict[str, int]
    """By source that is compared: characters of its documents before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slices:
    """The slices of a manifest, by task. Five numbers a slice; names stay in the manifest."""

    manifest: Manifest
    num_tasks: int
    file: array
    """Row of the manifest."""
    task: array
    """-1 = the slice is left out, because no record starts in it."""
    start: array
    stop: array
    """-1 = to the end of the file."""
    base: array
    """As in `Slice`."""
    has_cut_gzip: bool
    """Whether a gzip file was cut by size, so that nobody knows yet where its members start."""
    edits: Edits | None = None
    """Kept here, so that every reading of the slices gives the same texts; None = they stay whole."""

    def to_arrow(self) -> pa.Table:
        """One row per slice that is not left out (_SLICE)."""
        files = self.manifest.files.take(pa.array(self.file, pa.int64()))
        stop = pa.array(self.stop, pa.int64())
        return pa.table(
            {
                "task": pa.array(self.task, pa.int32()),
                "slice": pa.array(range(len(self.task)), pa.int32()),
                "source": files["source"],
                "path": files["path"],
                "file": files["file"],
                "start": pa.array(self.start, pa.int64()),
                "stop": pc.if_else(pc.less(stop, 0), None, stop),
                "base": pa.array(self.base, pa.int64()),
            }
        ).filter(pc.field("task") >= 0)


def choose_slice_bytes(manifest: Manifest, num_slots: int) -> int:
    """Bytes of a task: small enough to keep all slots busy, large enough that starting it costs little."""
    cost = manifest.num_bytes + manifest.files.num_rows * _FILE_BYTES
    full = min(max(cost // num_slots, MIN_SLICE_BYTES), FULL_SLICE_BYTES)
    return min(max(cost // (TASKS_PER_SLOT * num_slots), full), MAX_SLICE_BYTES)


def choose_partitions(manifest: Manifest) -> int:
    """Partitions for the shuffles of a corpus by the bytes of its files."""
    return min(max(1, -(-manifest.num_bytes // SHUFFLE_BYTES)), MAX_SHUFFLE_PARTITIONS)


def cut_files(manifest: Manifest, sources: Sequence[Source], slice_bytes: int) -> Slices:
    """Slices of about `slice_bytes`, grouped into tasks of about equal cost."""
    file, task, start, stop = array("q"), array("i"), array("q"), array("q")
    current, filled, has_cut_gzip = 0, 0, False
    options = [source.request.options for source in sources]
    for row, (number, listed) in enumerate(manifest.iterate()):
        for first, end in sources[number].reader.cut(listed, slice_bytes, options[number]):
            cost = _FILE_BYTES + (listed.size if end is None else end) - first
            # The cost of opening may exceed a task, or each slice would be followed by an empty task.
            if filled and filled + cost > slice_bytes + _FILE_BYTES:
                current, filled = current + 1, 0
            filled += cost
            has_cut_gzip |= first > 0 and is_gzip(listed.path)
            for column, value in (
                (file, row),
                (task, current),
                (start, first),
                (stop, -1 if end is None else end),
            ):
                column.append(value)
    return Slices(
        manifest=manifest,
        num_tasks=current + 1,
        file=file,
        task=task,
        start=start,
        stop=stop,
        base=array("q", bytes(8 * len(task))),
        has_cut_gzip=has_cut_gzip,
    )


def scatter(spark: SparkSession, slices: Slices, labels: DataFrame | None = None) -> DataFrame:
    """One row per slice, followed by its labels (LABELS) by offset; one partition per task. What the texts of
    a block lose (COPIED) comes in front of the labels of its first record."""
    rows = spark.createDataFrame(slices.to_arrow()).select(
        *(F.col(each.split()[0]).cast(each.split()[1]) for each in _SLICE.split(", ")),
        *(F.lit(None).cast(kind).alias(name) for name, kind in _pairs(_ONLY_LABELS)),
    )
    if labels is not None:
        rows = rows.unionByName(labels, allowMissingColumns=True)
    order = [F.col("slice"), F.col("offset").asc_nulls_first()]
    if slices.edits is not None:
        rows = rows.unionByName(slices.edits.rows, allowMissingColumns=True)
        order.append(F.col("content").isNull())
    # By id, since hashes could put two tasks in one.
    return rows.repartitionById(slices.num_tasks, "task").sortWithinPartitions(*order)


def _pairs(ddl: str) -> list[list[str]]:
    return [column.split() for column in ddl.split(", ")]


class Scattered:
    """The rows of a task, as `scatter` orders them, read as they are needed."""

    def __init__(self, batches: Iterable[pa.RecordBatch], edited_by: Paragraphs | None = None) -> None:
        self._rows = (row for batch in batches for row in batch.to_pylist())
        self._next: dict | None = next(self._rows, None)
        self.edited_by = edited_by
        """None = texts stay whole."""
        self.copied = Copied({}, set())
        """Of the block of the record that `follow` gave last. Always the same object."""

    def slices(self) -> Iterator[tuple[dict, Slice]]:
        """(row, slice). Raises RuntimeError if a label or block was left over: its record was not there."""
        while (row := self._take()) is not None:
            yield row, Slice(row["path"], row["start"], row["stop"], row["base"])
            if self._next is not None and self._next["offset"] is not None:
                raise RuntimeError(
                    f"{row['path']} changed while it was read: there is no record at "
                    f"{self._next['offset']:,} any more; run the stage again"
                )

    def follow(self, records: Generator[Record, None, Extent]) -> Generator[Record, None, Extent]:
        """The records of the slice, each when `copied` is that of its block."""
        while True:
            try:
                record = next(records)
            except StopIteration as end:
                return end.value
            while (start := self._find_block()) is not None and start <= record.offset:
                self._take_block(start)
            yield record

    def has_labels(self) -> bool:
        """Whether labels of the slice are left. Takes the blocks in front of the next label: the records
        between here and there have none, so nobody needs their texts."""
        while (start := self._find_block()) is not None:
            self._take_block(start)
        return self._next is not None and self._next["offset"] is not None

    def label(self, offset: int) -> Label | None:
        """The label of the record at `offset`. Records are asked for in the order of the slice."""
        if self._next is None or self._next["offset"] != offset:
            return None
        found: dict[str, Any] = {}
        while self._next is not None and self._next["offset"] == offset:
            row = self._take() or {}
            found.update({name: row[name] for name in Label._fields if row[name] is not None})
        return Label(*map(found.get, Label._fields))

    def _find_block(self) -> int | None:
        """Offset of the block whose rows come next; None = other rows come."""
        return None if self._next is None or self._next.get("content") is None else self._next["offset"]

    def _take_block(self, start: int) -> None:
        """Put the block that starts there in place of the present one."""
        self.copied.owners.clear()
        self.copied.whole.clear()
        while self._find_block() == start:
            row = self._take() or {}
            if row["paragraph"] is None:
                self.copied.whole.add(row["content"])
            else:
                self.copied.owners[row["paragraph"]] = row["content"]

    def _take(self) -> dict | None:
        taken, self._next = self._next, next(self._rows, None)
        return taken
