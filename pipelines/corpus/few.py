"""Few rows: brought to the driver, and sent out again as values.

The plan of a query ends at values. Rows in a cache would be quicker to have, but each query that reads them
carries the plan that they were made by, and an increment spends more time on plans than on jobs.
"""

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

MOST_ROWS = 100_000
"""Rows of ids and sizes: about 20 MB."""


def bring_rows(rows: DataFrame, most: int = MOST_ROWS) -> pa.Table | None:
    """The rows, on the driver; None if there are more than `most`. One job; at most `most` rows of each task
    travel."""
    found = rows.limit(most + 1).toArrow()
    return found if found.num_rows <= most else None


def send_rows(spark: SparkSession, rows: pa.Table, schema: StructType | str) -> DataFrame:
    """The rows as values in a plan. `schema` is that of the rows, and matters if there are none."""
    return spark.createDataFrame(rows) if rows.num_rows else spark.createDataFrame([], schema)


def send_values(spark: SparkSession, column: str, values: pa.Array | pa.ChunkedArray) -> DataFrame:
    """Different values as rows of one column of strings, which every executor gets."""
    return F.broadcast(send_rows(spark, pa.table({column: values}), f"{column} STRING"))


def settle_rows(rows: DataFrame) -> tuple[DataFrame, int] | None:
    """The same rows as values, and their number; None if they are not few."""
    found = bring_rows(rows)
    return None if found is None else (send_rows(rows.sparkSession, found, rows.schema), found.num_rows)
