"""The digest of rows: their number, and xor and sum of one 64-bit hash per row.

The columns are hashed in the order of their names, each on its own, so a null cannot be confused with a value
of the next column. The digest depends on neither row order nor partitioning. It finds accidents, not
forgery: 64-bit hashes can be forged. An empty array or map hashes like null.

The JVM computes the hashes, in the pass that computes the rows; `held` adds them up over what was written.
"""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, MapType, StructType

from pipelines.pin import fingerprint


def digest_rows(rows: DataFrame, columns: Sequence[str]) -> tuple[str, int]:
    """(digest over `columns`, number of rows). One job."""
    row_hash = hash_rows(rows.schema, columns)
    totals = rows.agg(
        F.count("*").alias("num_rows"),
        F.bit_xor(row_hash).alias("xor"),
        F.sum(row_hash.cast("decimal(38,0)")).alias("sum"),
    ).collect()[0]
    return combine_hashes(totals["num_rows"], totals["xor"], totals["sum"]), totals["num_rows"]


def hash_rows(schema: StructType, columns: Sequence[str]) -> Column:
    """One 64-bit hash per row over `columns` of rows of `schema`."""
    types = {column.name: column.dataType for column in schema}
    return F.xxhash64(*[F.xxhash64(_hashable(name, types[name])) for name in sorted(columns)])


def combine_hashes(num_rows: int, xor: int | None, total: object) -> str:
    """The digest, 32 hex digits. Without rows, xor and total are None."""
    return fingerprint(num_rows, xor, str(total))


def _hashable(name: str, kind: DataType) -> Column:
    """The column in a form that Spark can hash. A map has no order, so its entries are sorted."""
    column = F.col(name)
    return F.sort_array(F.map_entries(column)) if isinstance(kind, MapType) else column
