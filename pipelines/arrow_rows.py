"""Rows of a small table, read on the driver with Arrow: a plan reads them before there is a JVM."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.pin import open_log
from pipelines.storage import locate

_READERS = 16
"""Shards that are read at once: a table that grows often has many small ones."""


def read_arrow(path: str, version: int, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` of all rows of the table at `path`, in no order. All are held in memory.

    For tables of ours without partitions that are named by a path. Raises FileNotFoundError if there is no
    table, or if a file of the version was deleted.
    """
    log = open_log(path, version=version)
    if log is None:
        raise FileNotFoundError(f"no table at {path}")
    files, root = locate(path)

    def read(shard: str) -> pa.Table:
        place = f"{root.rstrip('/')}/{shard}"
        return pq.read_table(place, columns=schema.names, filesystem=files).cast(schema)

    with ThreadPoolExecutor(_READERS) as pool:
        shards = list(pool.map(read, log.list_shards()))
    return pa.concat_tables(shards) if shards else schema.empty_table()
