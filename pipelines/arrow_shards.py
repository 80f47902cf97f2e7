"""Small tables that a driver writes with Arrow, without a JVM: columns for Delta, files as shards."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.column_statistics import summarize_columns
from pipelines.shards import Shard
from pipelines.storage import Folder, locate

Column = tuple[str, str, bool, str]
"""Name, type of Spark, whether it may be null, comment."""


def describe_columns(columns: Sequence[Column]) -> str:
    """The columns as Spark writes them in JSON."""
    fields = [
        {"name": name, "type": kind, "nullable": nullable, "metadata": {"comment": comment}}
        for name, kind, nullable, comment in columns
    ]
    return json.dumps({"type": "struct", "fields": fields})


def describe_shards(folder: Folder, files: Sequence[str], *, num_readers: int = 1) -> list[Shard]:
    """The Parquet files (paths in `folder`, that of the table) as a commit names them; from their footers."""
    system, root = locate(folder.path)

    def describe(file: str) -> Shard:
        with system.open_input_file(f"{root.rstrip('/')}/{file}") as stream:
            metadata = pq.read_metadata(stream)
            return Shard(
                path=file,
                num_bytes=int(stream.size()),
                num_rows=int(metadata.num_rows),
                partition={},
                statistics=summarize_columns(metadata),
            )

    with ThreadPoolExecutor(num_readers) as pool:
        return list(pool.map(describe, files))


def write_shard(folder: Folder, file: str, rows: pa.Table) -> Shard:
    """The rows as a new file of the table in `folder`; no commit names it yet."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    folder.write(file, memoryview(sink.getvalue()))
    (shard,) = describe_shards(folder, [file])
    return shard
