"""The rows of a Delta table, or those that its change feed inserted -> rows of LANDED_ROWS, in files that no
commit names yet.

Spark reads both, so deletion vectors, renamed columns and tables of a catalog are no special case. A row
becomes a JSON object: the landed rows of a table whose columns grow are still one table.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from pipelines.catalog import quote_name
from pipelines.corpus.feed.rounds import Changes, Round
from pipelines.held import HeldRows
from pipelines.paths import is_table_name, spark_path
from pipelines.tables import LANDED_ROWS

_OWN = ("_change_type", "_commit_version", "_commit_timestamp")
_JSON = {
    # As the reader of Parquet files writes them.
    "timeZone": "UTC",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
_NOT_RECORDED = "DELTA_MISSING_CHANGE_DATA"
_GONE = re.compile(
    r"DELTA_CHANGE_DATA_FILE_NOT_FOUND|DELTA_(LOG_)?FILE_NOT_FOUND|DELTA_VERSION(S_NOT_CONTIGUOUS|_NOT_FOUND)|"
    r"DELTA_NO_COMMITS_FOUND|DELTA_MISSING_FILES_UNEXPECTED_VERSION|FAILED_READ_FILE\.(DBR_)?FILE_NOT_EXIST"
)
"""Conditions of Delta, and of Spark for a file of the table. A file of Spark itself may be missing, too (a
lost disk of an executor): then nothing of the table is lost, and another run reads it."""
_OTHER_SCHEMA = re.compile(r"DELTA_CHANGE_DATA_FEED_INCOMPATIBLE_(DATA_)?SCHEMA")


class LostVersionsError(Exception):
    """Versions whose changes cannot be read any more."""


class OtherSchemaError(Exception):
    """Versions before and after a change of columns, which no single feed can show."""


def hold_snapshot(
    spark: SparkSession, place: str, version: int, path: str
) -> AbstractContextManager[HeldRows]:
    """All rows of a version, held for the landed rows at `path`."""
    rows = _open(spark, place, {"versionAsOf": str(version)})
    return LANDED_ROWS.hold(_make_rows(rows, F.lit(version)), path)


@contextmanager
def hold_changes(
    spark: SparkSession, place: str, planned: Round, path: str
) -> Iterator[tuple[HeldRows, Changes]]:
    """What the versions inserted, held for the landed rows at `path`, and the number of rows by kind.

    One pass. Raises LostVersionsError, OtherSchemaError.
    """
    versions = {"startingVersion": str(planned.first), "endingVersion": str(planned.last)}
    measured, kind = Observation(), F.col("_change_type")
    # Counted before other kinds than inserts are left out. An update also has the row as it was.
    kinds = {"inserted": "insert", "updated": "update_postimage", "deleted": "delete"}
    counts = [F.count_if(kind == value).alias(name) for name, value in kinds.items()]
    with ExitStack() as stack:
        with explain_failures():
            rows = _open(spark, place, {"readChangeFeed": "true", **versions})
            inserted = rows.observe(measured, *counts).where(kind == "insert")
            made = _make_rows(inserted, F.col("_commit_version"))
            held = stack.enter_context(LANDED_ROWS.hold(made, path))
        yield held, Changes(**measured.get)


@contextmanager
def explain_failures() -> Iterator[None]:
    """What Spark says of versions that it cannot read, as our own errors."""
    try:
        yield
    except Exception as error:  # a failed task is an error of py4j, not of PySpark
        text = str(error)
        if _OTHER_SCHEMA.search(text):
            raise OtherSchemaError from None
        if _NOT_RECORDED in text:
            raise LostVersionsError(f"changes were not recorded: {_NOT_RECORDED}") from error
        if found := _GONE.search(text):
            raise LostVersionsError(f"files are gone: {found[0]}") from error
        raise


def _open(spark: SparkSession, place: str, options: Mapping[str, str]) -> DataFrame:
    reader = spark.read.format("delta").options(**options)
    return reader.table(quote_name(place)) if is_table_name(place) else reader.load(spark_path(place))


def _make_rows(rows: DataFrame, version: Column) -> DataFrame:
    """Rows of LANDED_ROWS: the columns of the table as a JSON object. Binary ones are left out: no field can
    map them, and pictures would be most of what is landed."""
    names = [name for name, kind in rows.dtypes if kind != "binary" and name not in _OWN]
    columns = [F.col("`{}`".format(name.replace("`", "``"))) for name in names]
    # Tells rows of one round apart; the rounds of a table have different versions.
    number = F.monotonically_increasing_id()
    record = F.to_json(F.struct(*columns), _JSON)
    return rows.select(
        version.cast("bigint").alias("version"), number.alias("number"), record.alias("record")
    )
