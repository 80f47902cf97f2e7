"""Tables named in a catalog (Hive metastore, Unity Catalog): their logs are read by SQL, because only the
catalog knows where the files are and who may read them.

A name needs a Spark session. The one that runs is used; `provide_session` says how to start one, for plans
that are made before any stage starts Spark.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.commit_record import read_record
from pipelines.paths import absolute, is_table_name

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

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
        return history.select("version", "operation", "userMetadata")


def _collect(history: "DataFrame") -> list[Mapping[str, Any]]:
    return [row.asDict() for row in history.collect()]


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
