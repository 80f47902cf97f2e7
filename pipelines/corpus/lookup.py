"""Rows of a table that have one of some values: found in the driver's memory if the table is small, by Spark
otherwise. A query costs 0.2 to 0.4 s however small the table is."""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

from pipelines.corpus.few import bring_rows


class Rows(Protocol):
    """Rows with some columns."""

    def find(self, column: str, values: pa.Array, most: int) -> pa.Table | None:
        """The rows that have one of the values in the column, on the driver; None if there are more than
        `most`. Where the column is a list, it must have one of them, and each row comes once."""


@dataclass(frozen=True, slots=True)
class ArrowRows:
    """Rows in the driver's memory."""

    rows: pa.Table

    def find(self, column: str, values: pa.Array, most: int) -> pa.Table | None:
        found = find_rows(self.rows, column, values)
        return found if found.num_rows <= most else None


@dataclass(frozen=True, slots=True)
class SparkRows:
    """Rows that Spark scans; the values go to every executor."""

    rows: DataFrame
    key: str
    """Column that tells rows apart."""

    def find(self, column: str, values: pa.Array, most: int) -> pa.Table | None:
        rows, names = self.rows, self.rows.columns
        is_list = isinstance(rows.schema[column].dataType, ArrayType)
        rows = rows.withColumn("__value", F.explode(column) if is_list else F.col(column))
        asked = F.broadcast(rows.sparkSession.createDataFrame(pa.table({"__value": values})))
        found = rows.join(asked, "__value", "left_semi").select(*names)
        return bring_rows(found.dropDuplicates([self.key]) if is_list else found, most)


def find_rows(rows: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows that have one of the values in the column, or, where it is a list, that have one in it."""
    kind = rows.schema.field(column).type
    if not pa.types.is_list(kind):
        return rows.filter(pc.is_in(rows[column], value_set=_flat(values)))
    lists = _flat(rows[column])
    is_found = pc.is_in(lists.flatten(), value_set=_flat(values))
    return rows.take(pc.unique(pc.list_parent_indices(lists).filter(is_found)))


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
