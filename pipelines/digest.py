"""What rows hold: digest, number of rows, nulls, repeated keys; and rows that are computed once and held.

Digest: number of rows, xor and sum of one 64-bit hash per row. The columns are hashed in the order of their
names, each on its own, so a null cannot be confused with a value of the next column. The digest depends on
neither row order nor partitioning. It finds accidents, not forgery: 64-bit hashes can be forged. An empty
array or map hashes like null.

Cost: `hold_rows` computes the digest in the job that computes the rows. `first_repeated_key` shuffles one
64-bit hash per row.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, MapType
from pyspark.storagelevel import StorageLevel

from pipelines.connect import is_connect
from pipelines.pin import fingerprint

FEW_ROWS = 100_000
"""Their hashes are counted in one task: about a megabyte."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldRows:
    """Rows that are computed and kept on the executors, and what was measured while they were computed."""

    rows: DataFrame
    digest: str
    """32 hex digits."""
    num_rows: int
    num_nulls: dict[str, int]
    """Required column -> rows where it is null."""


def digest_rows(rows: DataFrame, columns: Sequence[str]) -> tuple[str, int]:
    """(digest over `columns`, number of rows). One job."""
    totals = rows.agg(*_digest_columns(rows, columns)).collect()[0]
    return _digest(totals.asDict()), totals["num_rows"]


@contextmanager
def hold_rows(
    rows: DataFrame, *, digested: Sequence[str], required: Sequence[str] = ()
) -> Iterator[HeldRows]:
    """Compute the rows now, once, and hold them for as long as the context lasts.

    A local checkpoint, not a cache: if an executor is lost, Spark computes cached rows again, and a source
    that changed or a random function would then give rows other than those digested. Held rows fail the job
    instead. The digest is measured by the same job; Spark counts each partition once, however often its task
    was tried.
    """
    measured = Observation()
    nulls = [F.count_if(F.col(name).isNull()).alias(f"null {name}") for name in required]
    observed = rows.observe(measured, *_digest_columns(rows, digested), *nulls)
    held = observed.localCheckpoint(eager=True, storageLevel=StorageLevel.MEMORY_AND_DISK)
    # Over Spark Connect a checkpoint gives no observations, so the held rows are read once more.
    over_connect = is_connect(rows.sparkSession)
    try:
        totals = (
            held.agg(*_digest_columns(rows, digested), *nulls).collect()[0].asDict()
            if over_connect
            else measured.get
        )
        yield HeldRows(
            rows=held,
            digest=_digest(totals),
            num_rows=totals["num_rows"],
            num_nulls={name: totals[f"null {name}"] for name in required},
        )
    finally:
        # Without this the blocks stay until the JVM collects garbage.
        if not over_connect:  # there the server frees them with the DataFrame
            held._jdf.queryExecution().logical().rdd().unpersist(False)


def first_repeated_key(held: HeldRows, key: Sequence[str]) -> tuple[dict[str, Any], int] | None:
    """(the smallest key that occurs more than once, rows beyond the first of their key), or None if all keys
    differ.

    Equal keys have equal hashes, so the hashes are compared first: they are a tenth of the bytes to shuffle.
    """
    rows, hashes = held.rows, held.rows.select(F.xxhash64(*key).alias("hash"))
    if held.num_rows <= FEW_ROWS:
        hashes = hashes.coalesce(1)  # one task needs no shuffle, and so one job less
    if not hashes.groupBy("hash").count().where("count > 1").limit(1).collect():
        return None
    repeated = rows.groupBy(*key).count().where("count > 1")
    totals = repeated.agg(F.min(F.struct(*key)).alias("first"), F.sum(F.col("count") - 1).alias("extra"))
    found = totals.collect()[0]
    # Different keys with one hash: one table in 150 of 500 million rows.
    return None if found["first"] is None else (found["first"].asDict(), found["extra"])


def _digest_columns(rows: DataFrame, columns: Sequence[str]) -> list[Column]:
    types = {column.name: column.dataType for column in rows.schema}
    row_hash = F.xxhash64(*[F.xxhash64(_hashable(name, types[name])) for name in sorted(columns)])
    return [
        F.count("*").alias("num_rows"),
        F.bit_xor(row_hash).alias("xor"),
        F.sum(row_hash.cast("decimal(38,0)")).alias("sum"),
    ]


def _hashable(name: str, kind: DataType) -> Column:
    """The column in a form that Spark can hash. A map has no order, so its entries are sorted."""
    column = F.col(name)
    return F.sort_array(F.map_entries(column)) if isinstance(kind, MapType) else column


def _digest(totals: dict[str, Any]) -> str:
    return fingerprint(totals["num_rows"], totals["xor"], str(totals["sum"]))
