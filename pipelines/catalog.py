"""Tables named in a catalog (Hive metastore, Unity Catalog): their logs are read by SQL, because only the
catalog knows where the files are and who may read them. A Hive metastore knows a location and nothing else,
so a table of it on S3 is read and written there, as by its path: see `find_folder`.

A name needs a Spark session. The one that runs is used; `provide_session` says how to start one, for plans
that are made before any stage starts Spark.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.commit_record import read_record
from pipelines.connect import is_connect
from pipelines.paths import absolute, is_table_name, split_scheme
from pipelines.stores import S3_SCHEMES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

SESSION_CATALOG = "spark_catalog"
DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
"""Keeps the location of a table in Spark's metastore; commits are files of the table alone."""
SINGLE_DRIVER = "S3SingleDriverLogStore"
"""Delta's log store for S3 unless the user names another one: it looks for a version, and then writes it."""
BY_SCHEME = "DelegatingLogStore"
"""Delta's default: it chooses the log store by the scheme of the table's location."""

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


def find_folder(name: str) -> str | None:
    """The folder of a table, which need not exist yet, whose commits we put there ourselves, each on the
    condition that there is none of its version. None = Spark commits.

    That is a table on S3 in Spark's own catalog with Delta's log store for one driver: of two drivers that
    commit at once, Spark would let the second one replace the commit of the first. Spark commits where it is
    safe (HDFS, local disks, a log store that the user chose), where the catalog takes part (Unity Catalog,
    Databricks), and for clients of Spark Connect, whose server is the one driver. Raises the error of Spark
    if there is no such schema (database).
    """
    spark = require_session(name)
    if is_connect(spark) or "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return None
    *above, schema, table = name.split(".")
    catalog = above[0] if above else spark.catalog.currentCatalog()
    delta_catalog = spark.conf.get(f"spark.sql.catalog.{SESSION_CATALOG}", None)
    if catalog.lower() != SESSION_CATALOG or delta_catalog != DELTA_CATALOG:
        return None
    if has_table(name):
        detail = _describe_detail(name, spark)
        location = str(detail.location) if detail.format == "delta" else ""
    else:
        # By its whole name: the current catalog may be another one.
        found = spark.catalog.getDatabase(quote_name(f"{SESSION_CATALOG}.{schema}"))
        location = f"{found.locationUri.rstrip('/')}/{table.lower()}"
    scheme = split_scheme(location)[0]
    return location if scheme in S3_SCHEMES and _has_single_driver_store(spark, scheme) else None


def _has_single_driver_store(spark: "SparkSession", scheme: str) -> bool:
    """Delta reads the log store from the settings that the application started with. What a session sets
    later (spark.conf.set) changes nothing, although the session then shows it."""
    conf = spark.sparkContext.getConf()

    def find(key: str) -> str | None:
        return conf.get(f"spark.delta.logStore.{key}") or conf.get(f"delta.logStore.{key}")

    store = find("class")
    if store is None or store.endswith(BY_SCHEME):
        store = find(f"{scheme}.impl")
    return store is None or store.endswith(SINGLE_DRIVER)


class CatalogSource:
    """The log of a named table, read by DESCRIBE DETAIL and DESCRIBE HISTORY."""

    def __init__(self, name: str) -> None:
        self._quoted, self._spark = quote_name(name), (spark := require_session(name))
        detail = _describe_detail(name, spark)
        if detail.format != "delta":
            raise ValueError(f"table {name} has the format {detail.format}, not delta; choose another name")
        self.table_id, self.name = detail.id, name
        self.configuration: Mapping[str, str] = detail.properties
        self.partition_by = tuple(detail.partitionColumns)
        schema = spark.table(self._quoted).schema
        self.columns, self.schema_json = tuple(schema.names), schema.json()
        self.version = int(self._describe_history("LIMIT 1").collect()[0].version)

    def list_commits(self) -> Iterator[Mapping[str, Any]]:
        """Asks for 16 commits, then for more only if they are needed."""
        oldest, limit = self.version + 1, 16
        while True:
            commits = _collect(self._describe_history(f"LIMIT {limit}"))
            for commit in commits:
                if commit["version"] < oldest:  # later ones appear while we look
                    oldest = commit["version"]
                    yield commit
            if len(commits) < limit:
                return
            limit *= 8

    def find_version(self, made_from: str) -> int | None:
        # The catalog's log has no index of transactions that SQL can ask, so Spark reads all commits. It
        # gives those that mention the fingerprint: the facts of other commits may do so, too.
        history = self._describe_history("")
        for commit in _collect(history.where(history["userMetadata"].contains(made_from))):
            if (
                commit["version"] <= self.version
                and (read_record(commit) or {}).get("fingerprint") == made_from
            ):
                return int(commit["version"])
        return None

    def read_commit(self, version: int) -> Mapping[str, Any] | None:
        found = _collect(self._describe_history("").where(f"version = {version}"))
        return found[0] if found else None

    def _describe_history(self, limit: str) -> "DataFrame":
        """The commits, newest first."""
        history = self._spark.sql(f"DESCRIBE HISTORY {self._quoted} {limit}")
        return history.selectExpr(
            "version", "operation", "unix_millis(timestamp) AS timestamp", "userMetadata"
        )


def _collect(history: "DataFrame") -> list[Mapping[str, Any]]:
    return [row.asDict() for row in history.collect()]


def has_table(name: str) -> bool:
    """Whether the catalog has a table of this name."""
    return require_session(name).catalog.tableExists(quote_name(name))


def find_location(place: str) -> str:
    """The path of a table: `place` itself, or where the catalog keeps the table of this name.

    For readers without Spark. Raises FileNotFoundError if there is no such table.
    """
    if not is_table_name(place):
        return place
    if not has_table(place):
        raise FileNotFoundError(f"no table {place} in the catalog; run the stage that writes it")
    return absolute(str(_describe_detail(place, require_session(place)).location))


def _describe_detail(name: str, spark: "SparkSession") -> "Row":
    return spark.sql(f"DESCRIBE DETAIL {quote_name(name)}").collect()[0]


def quote_name(name: str) -> str:
    """The name for SQL; its parts hold no backquotes."""
    return ".".join(f"`{part}`" for part in name.split("."))
