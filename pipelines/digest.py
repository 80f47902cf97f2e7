"""The digest of rows: their number, and xor and sum of one 64-bit hash per row.

The columns are hashed in the order of their names, each on its own, so a null cannot be confused with a value
of the next column. The digest depends on neither row order nor partitioning. It finds accidents, not
forgery: 64-bit hashes can be forged. An empty array or map hashes like null.

The JVM computes the hashes, in the pass that computes the rows; `held` adds them up over what was written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, MapType, StructType

from pipelines.pin import fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What the digest is made of. It can be added up, so the digest of a table that grows is known without
    reading the rows that were there before."""

    num_rows: int = 0
    xor: int = 0
    """Of the hashes of the rows."""
    sum: int = 0

    def add(self, other: "Totals") -> "Totals":
        return Totals(
            num_rows=self.num_rows + other.num_rows, xor=self.xor ^ other.xor, sum=self.sum + other.sum
        )

    def remove(self, other: "Totals") -> "Totals":
        """The totals without rows that are part of them."""
        return Totals(
            num_rows=self.num_rows - other.num_rows, xor=self.xor ^ other.xor, sum=self.sum - other.sum
        )

    @property
    def digest(self) -> str:
        """32 hex digits."""
        xor, total = (self.xor, self.sum) if self.num_rows else (None, None)
        return fingerprint(self.num_rows, xor, str(total))

    def encode(self) -> dict[str, Any]:
        """As a commit records them. The sum is text: JSON readers keep 53 bits."""
        return {"num_rows": self.num_rows, "xor": str(self.xor), "sum": str(self.sum)}

    @classmethod
    def decode(cls, recorded: Mapping[str, Any]) -> "Totals":
        return cls(num_rows=recorded["num_rows"], xor=int(recorded["xor"]), sum=int(recorded["sum"]))


def aggregate_totals(schema: StructType, columns: Sequence[str]) -> list[Column]:
    """num_rows, xor and sum over rows of `schema`, for `agg` or `observe`; `collect_totals` reads them."""
    row_hash = hash_rows(schema, columns)
    return [
        F.count("*").alias("num_rows"),
        F.bit_xor(row_hash).alias("xor"),
        F.sum(row_hash.cast("decimal(38,0)")).alias("sum"),
    ]


def collect_totals(found: Mapping[str, Any]) -> Totals:
    """The totals of a row that `aggregate_totals` gave; xor and sum are null without rows."""
    return Totals(num_rows=found["num_rows"], xor=found["xor"] or 0, sum=int(found["sum"] or 0))


def digest_rows(rows: DataFrame, columns: Sequence[str]) -> tuple[str, int]:
    """(digest over `columns`, number of rows). One job."""
    found = rows.agg(*aggregate_totals(rows.schema, columns)).collect()[0]
    totals = collect_totals(found.asDict())
    return totals.digest, totals.num_rows


def hash_rows(schema: StructType, columns: Sequence[str]) -> Column:
    """One 64-bit hash per row over `columns` of rows of `schema`."""
    types = {column.name: column.dataType for column in schema}
    hashed = (f"xxhash64({_hashable(name, types[name])})" for name in sorted(columns))
    # One call of the JVM instead of two a column: 50 columns took 0.1 s.
    return F.expr(f"xxhash64({', '.join(hashed)})")


def _hashable(name: str, kind: DataType) -> str:
    """SQL of the column in a form that Spark can hash. A map has no order, so its entries are sorted."""
    return f"sort_array(map_entries(`{name}`))" if isinstance(kind, MapType) else f"`{name}`"
