"""Rows of a small table, read on the driver with Arrow: a plan reads them before there is a JVM, and an
increment looks them up without a job."""

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.pin import TableLog, open_log
from pipelines.storage import locate

logger = logging.getLogger(__name__)

_READERS = 16
"""Shards that are read at once: a table that grows often has many small ones."""
MOST_HELD_SHARDS = 5_000
"""An increment adds one or a few. Small ones take 5 s from a local disk."""
MOST_HELD_ROWS = 500_000
"""Rows of ids and sizes that the driver takes of one table: about 100 MB. Wider rows have a limit of their
own, below it."""


def read_arrow(path: str, version: int, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` of all rows of the table at `path`, in no order. All are held in memory.

    For tables of ours without partitions that are named by a path. Raises FileNotFoundError if there is no
    table, or if a file of the version was deleted.
    """
    log = open_log(path, version=version)
    if log is None:
        raise FileNotFoundError(f"no table at {path}")
    return _read_shards(path, log.list_shards(), schema)


def read_few(
    log: TableLog,
    schema: pa.Schema,
    *,
    most: int | None = None,
    where: Mapping[str, str] | None = None,
    shard: str = "",
) -> pa.Table | None:
    """The columns of `schema` of the rows at the version of `log`, in no order; None if the table has more
    than `most` (None or more than MOST_HELD_ROWS = that many), or if Delta's own reader must read them
    (`TableLog.list_plain_shards`). Both are known from the log, before anything is read.

    `where`: column -> the value that the rows must have in it; None = all rows. `shard` is the name of a
    further column: the file name of the row's shard; empty = none.
    """
    shards = log.list_plain_shards(MOST_HELD_SHARDS)
    if shards is None:
        _note_refusal(log.path, f"it has more than {MOST_HELD_SHARDS:,} files, or needs Delta's own reader")
        return None
    numbers, limit = log.list_shards().values(), MOST_HELD_ROWS if most is None else min(most, MOST_HELD_ROWS)
    if any(number is None for number in numbers):
        _note_refusal(log.path, "another program wrote files whose number of rows is not in the log")
        return None
    if sum(numbers) > limit:
        _note_refusal(log.path, f"it has more than {limit:,} rows")
        return None
    return _read_shards(log.folder or log.path, shards, schema, where, shard)


@cache
def _note_refusal(path: str, why: str) -> None:
    """Once in a process for each table and reason."""
    logger.info("%s: each question about its rows is a query of Spark, because %s", path, why)


def _read_shards(
    path: str,
    shards: Collection[str],
    schema: pa.Schema,
    where: Mapping[str, str] | None = None,
    shard: str = "",
) -> pa.Table:
    files, root = locate(path)
    wanted = [(column, "==", value) for column, value in where.items()] if where else None

    def read(name: str) -> pa.Table:
        place = f"{root.rstrip('/')}/{name}"
        rows = pq.read_table(place, columns=schema.names, filesystem=files, filters=wanted).cast(schema)
        if not shard:
            return rows
        own = pa.repeat(pa.scalar(name.rpartition("/")[2], pa.string()), rows.num_rows)
        return rows.append_column(shard, own)

    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(read, shards))
    whole = schema.append(pa.field(shard, pa.string())) if shard else schema
    return pa.concat_tables(found) if found else whole.empty_table()
