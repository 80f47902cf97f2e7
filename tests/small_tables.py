"""Small rows for tests of tables."""

from pipelines.delta import Table
from pipelines.tables import QUARANTINE


def broken_rows(spark, offsets, reason="r"):
    return spark.createDataFrame(
        [("s", "f", offset, 1, reason, b"raw") for offset in offsets], QUARANTINE.schema
    )


PARTITIONED = Table(
    name="parts",
    row="one number",
    key=("number",),
    partition_by=("split",),
    checks={"positive": "number > 0"},
    ddl="number INT NOT NULL, split STRING NOT NULL, seen MAP<STRING, INT>",
)


def numbers(spark, *rows):
    return spark.createDataFrame([(*row, None) for row in rows], PARTITIONED.schema)
