"""Tables named in a catalog (Hive metastore, Unity Catalog): their logs are read by SQL, because only the
catalog knows where the files are and who may read them.

A name needs a Spark session. The one that runs is used; `provide_session` says how to start one, for plans
that are made before any stage starts Spark.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.paths import absolute, is_table_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_start: "Callable[[], SparkSession] | None" = None


def provide_session(start: "Callable[[], SparkSession]") -> None:
    """`start` is called when a table name must be looked up and no session runs."""
    global _start
    _start = start


def require_session(name: str) -> "SparkSession":
    """The session that looks up `name`. Raises RuntimeError if none runs and none can be started."""
    from pyspark.sql import SparkSession  # only names need Spark; workers have paths

    # A session is active in the thread that started it; other threads find it as that of the process.
    running = SparkSession.getActiveSession() or SparkSession._instantiatedSession
    if running is not None:
        return running
    if _start is None:
        raise RuntimeError(
            f"table {name} is looked up in a Spark catalog, but no session runs; start one first, or give "
            "the path of the table"
        )
    return _start()


class CatalogSource:
    """The log of a named table, read by DESCRIBE DETAIL and DESCRIBE HISTORY."""

    def __init__(self, name: str, spark: "SparkSession") -> None:
        self._quoted, self._spark = quote_name(name), spark
        detail = spark.sql(f"DESCRIBE DETAIL {self._quoted}").collect()[0]
        if detail.format != "delta":
            raise ValueError(f"table {name} has the format {detail.format}, not delta; choose another name")
        self.table_id, self.name, self.location = detail.id, name, detail.location
        self.configuration: Mapping[str, str] = detail.properties
        self.partition_by = tuple(detail.partitionColumns)
        self.columns = tuple(spark.table(self._quoted).columns)
        self.version = int(self.history(1)[0]["version"])

    def history(self, limit: int) -> list[Mapping[str, Any]]:
        return self._commits(f"LIMIT {limit}")

    def find_version(self, made_from: str) -> int | None:
        # The catalog's log has no index of transactions that SQL can ask, so Spark reads all commits.
        carrying = [
            commit for commit in self._commits("") if f'"{made_from}"' in (commit["userMetadata"] or "")
        ]
        return int(carrying[0]["version"]) if carrying else None

    def read_commit(self, version: int) -> Mapping[str, Any] | None:
        return next((commit for commit in self._commits("") if commit["version"] == version), None)

    def _commits(self, limit: str) -> list[Mapping[str, Any]]:
        rows = self._spark.sql(f"DESCRIBE HISTORY {self._quoted} {limit}")
        return [row.asDict() for row in rows.select("version", "operation", "userMetadata").collect()]


def read_catalog(name: str) -> CatalogSource | None:
    """The log of the table `name`; None if the catalog has no such table."""
    spark = require_session(name)
    return CatalogSource(name, spark) if spark.catalog.tableExists(quote_name(name)) else None


def find_location(place: str) -> str:
    """The path of a table: `place` itself, or where the catalog keeps the table of this name.

    For readers without Spark. Raises FileNotFoundError if there is no such table.
    """
    if not is_table_name(place):
        return place
    source = read_catalog(place)
    if source is None:
        raise FileNotFoundError(f"no table {place} in the catalog; run the stage that writes it")
    return absolute(str(source.location))


def quote_name(name: str) -> str:
    """The name for SQL; its parts hold no backquotes."""
    return ".".join(f"`{part}`" for part in name.split("."))
