"""Rows of a small table, read on the driver with Arrow: a plan reads them before there is a JVM."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.pin import open_log
from pipelines.storage import locate


def read_arrow(path: str, version: int, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` of all rows of the table at `path`, in no order. All are held in memory.

    For tables of ours without partitions that are named by a path. Raises FileNotFoundError if there is no
    table, or if a file of the version was deleted.
    """
    log = open_log(path, version=version)
    if log is None:
        raise FileNotFoundError(f"no table at {path}")
    files, root = locate(path)
    shards = [
        pq.read_table(f"{root.rstrip('/')}/{shard}", columns=schema.names, filesystem=files).cast(schema)
        for shard in log.list_shards()
    ]
    return pa.concat_tables(shards) if shards else schema.empty_table()
