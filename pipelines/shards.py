"""Shards: the Parquet files of a table, written by the tasks that compute its rows.

A task streams Arrow batches to files with names of their own, and returns one row: its files, and what was
measured over exactly the rows in them. Only the rows of successful attempts reach the driver, so a task that
is tried again, runs twice or dies leaves files that no commit names. No file is renamed: object stores would
copy it.

Memory of a task: about twice `ROW_GROUP_BYTES` and one batch, however many rows and open shards it has. Runs
in Python workers; needs neither Spark nor delta-rs.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.column_statistics import list_measured, summarize_columns
from pipelines.keys import FOLDERLESS, KeyHashes, KeyWriter
from pipelines.storage import locate

HASH, FAULTS, KEY = "__hash", "__faults", "__key"
"""Columns after those of the table: hash of the row, one bit for each rule it breaks, hash of its key."""
SHARD_BYTES = 256 * 2**20
"""A shard is closed when it has grown to this size."""
ROW_GROUP_BYTES = 16 * 2**20
"""Rows, uncompressed, that a task collects before it writes some: in all its open shards together. A reader
needs this much memory at once."""
MAX_OPEN = 64
"""Shards that a task keeps open. For more values of the partition columns, the oldest is closed."""

RESULT = "shards STRING, num_rows BIGINT, xor BIGINT, sum STRING, faults ARRAY<BIGINT>, keys BINARY, \
key_files ARRAY<STRING>"
"""What a task returns, as a row of Spark; `TaskTotals.to_batch` makes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file of a table."""

    path: str
    """Relative to the folder of the table."""
    num_bytes: int
    num_rows: int
    partition: dict[str, str | None]
    """Value of each partition column as text, as Delta stores it."""
    statistics: str
    """Delta's JSON: number of rows, and smallest and largest value and nulls of each plain column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """How a task writes its rows. Sent to the executors."""

    table: str
    """Path or URI of the table."""
    folder: str
    """Folder of this write, relative to the table; no other write uses it."""
    schema: pa.Schema
    """Columns of the files. Nulls are allowed everywhere: required columns are checked by `FAULTS`."""
    partition_by: tuple[str, ...] = ()
    num_rules: int = 0
    """Bits of `FAULTS`."""
    shard_bytes: int = SHARD_BYTES
    row_group_bytes: int = ROW_GROUP_BYTES

    @property
    def key_folder(self) -> str:
        """Folder of the key files, relative to the table."""
        return f"{self.folder}/keys"


def make_shard_writer(plan: ShardPlan) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow`: batches of the table's columns, HASH, FAULTS and KEY to one row of RESULT,
    or to none if the task has no rows."""

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        totals, files = TaskTotals(num_rules=plan.num_rules), ShardFiles(plan)
        keys = KeyWriter(table=plan.table, folder=plan.key_folder)
        try:
            for batch in batches:
                if batch.num_rows:
                    totals.add(batch)
                    keys.add(batch.column(KEY).to_numpy())
                    files.add(batch.select(plan.schema.names))
            shards, hashes = files.close(), keys.close()
        except BaseException:
            files.abandon()
            keys.abandon()
            raise
        if totals.num_rows:
            yield totals.to_batch(shards, hashes)

    return write


@dataclass(slots=True)
class TaskTotals:
    """What is measured over the rows of one task."""

    num_rules: int
    num_rows: int = 0
    xor: int = 0
    sum: int = 0
    faults: list[int] = field(default_factory=list)
    """Rows that break each rule."""

    def add(self, batch: pa.RecordBatch) -> None:
        hashes = batch.column(HASH).to_numpy()
        self.num_rows += batch.num_rows
        self.xor ^= int(np.bitwise_xor.reduce(hashes))
        # The sum of 2^31 rows fits if upper and lower halves are added apart.
        self.sum += (int((hashes >> 32).sum()) << 32) + int((hashes & 0xFFFFFFFF).sum())
        bits = batch.column(FAULTS).to_numpy()
        self.faults = self.faults or [0] * self.num_rules
        if bits.any():
            self.faults = [
                count + int(np.count_nonzero(bits >> bit & 1)) for bit, count in enumerate(self.faults)
            ]

    def to_batch(self, shards: list[Shard], keys: KeyHashes) -> pa.RecordBatch:
        """One row of RESULT."""
        described = [{name: getattr(shard, name) for name in Shard.__slots__} for shard in shards]
        return pa.RecordBatch.from_pydict(
            {
                "shards": pa.array([json.dumps(described)], pa.string()),
                "num_rows": pa.array([self.num_rows], pa.int64()),
                "xor": pa.array([self.xor], pa.int64()),
                "sum": pa.array([str(self.sum)], pa.string()),
                "faults": pa.array([self.faults], pa.list_(pa.int64())),
                "keys": pa.array([keys.inline], pa.binary()),
                "key_files": pa.array([list(keys.files)], pa.list_(pa.string())),
            }
        )


class ShardFiles:
    """The shards of one task, one open file for each value of the partition columns."""

    def __init__(self, plan: ShardPlan) -> None:
        self._plan, self._task = plan, uuid.uuid4().hex[:16]
        self._files, root = locate(plan.table)
        self._root, self._ready = root.rstrip("/"), False
        self._open: dict[tuple[str | None, ...], _OpenShard] = {}
        self._closed: list[Shard] = []
        self._num_shards = 0

    def add(self, rows: pa.RecordBatch) -> None:
        for values, part in _split_by(rows, self._plan.partition_by):
            # The one that was used last stands last. It stays in the table while it works: see `abandon`.
            self._open[values] = shard = self._open.pop(values, None) or self._start(values)
            shard.add(part)
            if sum(each.waiting_bytes for each in self._open.values()) >= self._plan.row_group_bytes:
                max(self._open.values(), key=lambda each: each.waiting_bytes).write_group()
            if shard.num_bytes >= self._plan.shard_bytes:
                self._finish(values)
            elif len(self._open) > MAX_OPEN:
                self._finish(next(iter(self._open)))

    def close(self) -> list[Shard]:
        """All shards, complete."""
        while self._open:
            self._finish(next(iter(self._open)))
        return self._closed

    def abandon(self) -> None:
        """Delete what was written: the task failed. What cannot be deleted stays until the next VACUUM."""
        with suppress(Exception):  # a store that is away is asked once, not for each file
            for shard in self._open.values():
                shard.abandon()
            for done in self._closed:
                self._files.delete_file(f"{self._root}/{done.path}")

    def _finish(self, values: tuple[str | None, ...]) -> None:
        self._closed.append(self._open[values].close())
        del self._open[values]

    def _start(self, values: tuple[str | None, ...]) -> "_OpenShard":
        if not self._ready and self._files.type_name not in FOLDERLESS:
            self._files.create_dir(f"{self._root}/{self._plan.folder}", recursive=True)
        self._ready = True
        path = f"{self._plan.folder}/{self._task}-{self._num_shards}.parquet"
        self._num_shards += 1
        return _OpenShard(
            self._files, self._root, path, self._plan, dict(zip(self._plan.partition_by, values, strict=True))
        )


class _OpenShard:
    """One file that grows by row groups."""

    def __init__(
        self, files: pafs.FileSystem, root: str, path: str, plan: ShardPlan, partition: dict[str, str | None]
    ) -> None:
        self._files, self._root, self._path, self._plan = files, root, path, plan
        self._partition = partition
        self._waiting: list[pa.RecordBatch] = []
        self.waiting_bytes = self._num_rows = 0
        self._metadata: list[pq.FileMetaData] = []
        self._sink = files.open_output_stream(f"{root}/{path}")
        self._writer = pq.ParquetWriter(
            self._sink,
            plan.schema,
            compression="zstd",
            store_schema=False,
            write_statistics=list_measured(plan.schema),
            metadata_collector=self._metadata,
        )

    @property
    def num_bytes(self) -> int:
        """Bytes written; rows that wait for the next row group do not count."""
        return int(self._sink.tell())

    def add(self, rows: pa.RecordBatch) -> None:
        self._waiting.append(rows)
        self.waiting_bytes += rows.nbytes
        self._num_rows += rows.num_rows

    def close(self) -> Shard:
        self.write_group()
        self._writer.close()
        num_bytes = self.num_bytes
        self._sink.close()
        return Shard(
            path=self._path,
            num_bytes=num_bytes,
            num_rows=self._num_rows,
            partition=self._partition,
            statistics=summarize_columns(self._metadata[0]),
        )

    def abandon(self) -> None:
        """Delete the file. Raises OSError if the store does not do that."""
        for step in (self._writer.close, self._sink.close):
            with suppress(Exception):
                step()
        self._files.delete_file(f"{self._root}/{self._path}")

    def write_group(self) -> None:
        """Write the rows that wait, if there are any, as one row group."""
        if self._waiting:
            rows = pa.Table.from_batches(self._waiting).cast(self._plan.schema)
            self._writer.write_table(rows, row_group_size=rows.num_rows)
            self._waiting, self.waiting_bytes = [], 0


def _split_by(
    rows: pa.RecordBatch, names: tuple[str, ...]
) -> Iterator[tuple[tuple[str | None, ...], pa.RecordBatch]]:
    """The rows by the values of some columns, as text."""
    if not names:
        yield (), rows
        return
    values = [rows.column(name) for name in names]
    for group in pa.table(values, names=list(names)).group_by(list(names)).aggregate([]).to_pylist():
        chosen = None
        for name, column in zip(names, values, strict=True):
            same = pc.is_null(column) if group[name] is None else pc.equal(column, group[name])
            chosen = same if chosen is None else pc.and_(chosen, same)
        texts = tuple(None if group[name] is None else str(group[name]) for name in names)
        yield texts, rows.filter(pc.fill_null(chosen, False))
