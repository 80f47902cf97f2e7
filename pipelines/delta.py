"""Typed Delta tables: the only code that writes Delta.

A write is exactly-once: the caller names its inputs by a fingerprint, the commit carries the fingerprint, and
a second write with the same fingerprint does nothing. Every commit records the digest of its rows
(`digest.py`) in its user metadata, so that a reader can pin (table id, version, digest) and anyone can check
it later (`pin.py`).

A write is two commits at most: the first creates the table with columns, constraints and properties if it
does not exist, the second adds the rows. The rows are computed once and held, so digest and files come from
the same rows.

Two writers at once: writes are numbered by Delta's transaction ids, and a write takes the number after the
last one in the log it was prepared for. The second of two writers then has a number that is taken: it gets a
conflict, or Delta skips its write. It reads the log again and writes what is still missing, or reports that
its rows were replaced. (The version of the table would not do as the number: maintenance commits raise it,
too.)
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from delta import exceptions as delta_exceptions
from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from pipelines.connect import create_statement, is_connect
from pipelines.digest import HeldRows, digest_rows, first_repeated_key, hold_rows
from pipelines.pin import Pin, TableLog, open_log
from pipelines.schema import arrow_schema, parse_ddl

logger = logging.getLogger(__name__)

CONFLICTS = tuple(getattr(delta_exceptions, name) for name in delta_exceptions.__all__)
"""Another writer committed first. The Python classes have no common base."""
WRITE_ATTEMPTS = 5
"""Against other writers. The rows are held, so another attempt costs one commit."""

PROPERTIES = {
    # Reader protocol 1: a GPU worker reads the Parquet files with Arrow and no JVM.
    "delta.minReaderVersion": "1",
    "delta.enableDeletionVectors": "false",
    "delta.columnMapping.mode": "none",
    # VACUUM's default of 7 days would erase the version that a model was trained from.
    "delta.deletedFileRetentionDuration": "interval 365 days",
    "delta.logRetentionDuration": "interval 365 days",
}


class ContractError(ValueError):
    """Rows that break the definition of their table; nothing was written."""


def spark_path(path: str) -> str:
    """The path as Spark must be given it: local paths as file: URIs (Spark's default file system may be
    HDFS), on Databricks /dbfs paths as dbfs: URIs."""
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return re.sub(r"^/dbfs/", "dbfs:/", path)
    # file:/a and not file:///a: Delta compares the text with its own form.
    return f"file:{path}" if path.startswith("/") else path


@dataclass(frozen=True, kw_only=True)
class Table:
    """The definition of a table. Comments and constraints are stored in the table itself."""

    name: str
    row: str
    """What one row is."""
    key: tuple[str, ...]
    ddl: str
    partition_by: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    """Constraint name -> SQL condition that every row meets."""
    volatile: tuple[str, ...] = ()
    """Columns that differ from one execution to the next (times); not part of the digest."""

    @property
    def schema(self) -> StructType:
        return parse_ddl(self.ddl)

    @property
    def arrow_schema(self) -> pa.Schema:
        """The columns as Arrow types; see the function `arrow_schema`."""
        return arrow_schema(self.ddl)

    def read(self, spark: SparkSession, path: str, version: int | None = None) -> DataFrame:
        """The rows at `version` (None = newest). Raises FileNotFoundError if there is no table."""
        if open_log(path) is None:
            raise FileNotFoundError(
                f"no {self.name} table at {path}; run the stage that writes it: distributary run --help"
            )
        reader = spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(spark_path(path))

    @contextmanager
    def hold(self, rows: DataFrame) -> Iterator[HeldRows]:
        """The rows, computed once and checked against the definition: columns, nulls, key.

        For rows that are counted or written more than once. Raises ContractError with the count and the first
        offending key.
        """
        required = [column.name for column in self.schema if not column.nullable]
        with hold_rows(self._select(rows), digested=self._digested, required=required) as held:
            self._check(held)
            yield held

    def overwrite(
        self, rows: DataFrame | HeldRows, path: str, *, fingerprint: str, facts: Mapping[str, Any]
    ) -> Pin:
        """Replace the table's rows in one commit; does nothing if the newest commit already carries
        `fingerprint`.

        Raises ContractError if the rows break the definition, RuntimeError if another writer replaces the
        rows meanwhile, or if another program changed them last.
        """
        log = open_log(path)
        newest = log.pin() if log else None
        if newest is not None and newest.fingerprint == fingerprint:
            logger.info("%s: version %d has the same inputs, nothing written", self.name, newest.version)
            return newest
        if newest is not None and not newest.fingerprint:
            raise RuntimeError(
                f"{self.name} at {path} was changed outside of Distributary (version {newest.version}, "
                f"{newest.facts['operation']}), and writing would undo that; to rebuild it, delete the table"
            )
        with nullcontext(rows) if isinstance(rows, HeldRows) else self.hold(rows) as held:
            for _ in range(WRITE_ATTEMPTS):
                self._commit(held, path, "overwrite", log, fingerprint, facts)
                log = open_log(path)
                written = log.pin() if log else None
                if written is not None and written.fingerprint == fingerprint:
                    return written
                if written != newest:
                    break
        raise self._disturbed(path)

    def append(self, rows: DataFrame, path: str, *, fingerprint: str, facts: Mapping[str, Any]) -> Pin:
        """Add the rows whose key is not in the table yet, in one commit; does nothing if a commit carries
        `fingerprint`.

        Raises ContractError if the rows break the definition, RuntimeError if other writers are faster five
        times.
        """
        log = open_log(path)
        earlier = log.pin(made_from=fingerprint) if log else None
        if earlier is not None:
            logger.info("%s: version %d has the same inputs, nothing appended", self.name, earlier.version)
            return earlier
        with self.hold(rows) as held:
            for _ in range(WRITE_ATTEMPTS):
                with self._hold_missing(held, path, log) as missing:
                    self._commit(missing, path, "append", log, fingerprint, facts)
                log = open_log(path)
                written = log.pin(made_from=fingerprint) if log else None
                if written is not None:
                    return written
        raise self._disturbed(path)

    def digest(self, rows: DataFrame) -> tuple[str, int]:
        """(digest, number of rows) of rows that have the table's columns."""
        return digest_rows(rows, self._digested)

    @property
    def _digested(self) -> list[str]:
        return [name for name in self.schema.names if name not in self.volatile]

    @contextmanager
    def _hold_missing(self, held: HeldRows, path: str, log: TableLog | None) -> Iterator[HeldRows]:
        """The rows whose key is not in the table at the version of `log`."""
        if log is None:
            yield held
            return
        present = self.read(held.rows.sparkSession, path, log.version).select(*self.key)
        missing = held.rows.join(present, list(self.key), "left_anti").select(*held.rows.columns)
        with hold_rows(missing, digested=self._digested) as kept:
            yield kept

    def _commit(
        self,
        held: HeldRows,
        path: str,
        mode: str,
        log: TableLog | None,
        made_from: str,
        facts: Mapping[str, Any],
    ) -> None:
        """One commit on top of `log`. Writes nothing, and returns, if another writer committed since `log`
        was read."""
        record = {
            "table": self.name,
            "digest": held.digest,
            "num_rows": held.num_rows,
            "fingerprint": made_from,
            "facts": dict(facts),
        }
        try:
            self._create(held.rows.sparkSession, path, log)
            # A new table has no rows to replace. An overwrite would run a job to look for them.
            writer = held.rows.write.format("delta").mode("append" if log is None else mode)
            if mode == "overwrite":
                # A session's `dynamic` would keep old partitions, such as a split that has no rows any more.
                writer = writer.option("partitionOverwriteMode", "static")
            (
                writer.option("txnAppId", self.name)
                .option("txnVersion", 0 if log is None else log.last_transaction(self.name) + 1)
                .option("userMetadata", json.dumps({"distributary": record}, ensure_ascii=False))
                .save(spark_path(path))
            )
        except CONFLICTS as conflict:
            logger.warning("%s: another writer committed first (%s)", self.name, type(conflict).__name__)

    def _create(self, spark: SparkSession, path: str, log: TableLog | None) -> None:
        """Create the table with its constraints in one commit if it does not exist; add constraints that it
        lacks.

        Safe to be killed, and safe if two writers do it at once.
        """
        if log is None and is_connect(spark):
            properties = {**PROPERTIES, **_constraint_properties(self.checks)}
            spark.sql(create_statement(spark_path(path), self.ddl, self.row, self.partition_by, properties))
            return
        if log is None:
            builder = DeltaTable.createIfNotExists(spark).location(spark_path(path)).comment(self.row)
            builder = builder.addColumns(self.schema).partitionedBy(*self.partition_by)
            for name, value in [*PROPERTIES.items(), *_constraint_properties(self.checks).items()]:
                builder = builder.property(name, value)
            builder.execute()
            return
        if list(log.columns) != self.schema.names:
            raise ContractError(
                f"{self.name} at {path} has the columns of an earlier Distributary "
                f"({', '.join(log.columns)}); delete or move the table and run the stage again"
            )
        missing = [name for name in self.checks if f"delta.constraints.{name}" not in log.configuration]
        for name in missing:
            constraint = f"CONSTRAINT {name} CHECK ({self.checks[name]})"
            try:
                spark.sql(f"ALTER TABLE delta.`{spark_path(path)}` ADD {constraint}")
            except AnalysisException:
                # Another writer has just added it; any other cause is still true.
                again = open_log(path)
                if again is None or f"delta.constraints.{name}" not in again.configuration:
                    raise

    def _check(self, held: HeldRows) -> None:
        for name, count in held.num_nulls.items():
            if count:
                first = held.rows.where(held.rows[name].isNull()).select(*self.key).take(1)[0]
                raise ContractError(
                    f"{self.name}: {count:,} of {held.num_rows:,} rows have null {name}; "
                    f"first at {first.asDict()}; fix the source or the mapping of fields"
                )
        repeated = first_repeated_key(held, self.key)
        if repeated is not None:
            first_key, extra = repeated
            raise ContractError(
                f"{self.name}: {extra:,} of {held.num_rows:,} rows repeat a key ({', '.join(self.key)}); "
                f"first {first_key}"
            )

    def _select(self, rows: DataFrame) -> DataFrame:
        """The columns in the order of the definition. Raises ContractError if names or types differ."""
        wanted, given = self.schema, {column.name: column.dataType for column in rows.schema}
        missing = [name for name in wanted.names if name not in given]
        extra = [name for name in given if name not in wanted.names]
        if missing or extra:
            raise ContractError(f"{self.name}: columns missing {missing}, not in the definition {extra}")
        wrong = [
            f"{c.name} is {given[c.name].simpleString()}, not {c.dataType.simpleString()}"
            for c in wanted
            if given[c.name].simpleString() != c.dataType.simpleString()
        ]
        if wrong:
            raise ContractError(f"{self.name}: {'; '.join(wrong)}")
        return rows.select(*wanted.names)

    def _disturbed(self, path: str) -> RuntimeError:
        return RuntimeError(
            f"{self.name} at {path}: another writer changed the rows meanwhile; "
            "run the stage again when it is done"
        )


def _constraint_properties(checks: Mapping[str, str]) -> dict[str, str]:
    return {f"delta.constraints.{name}": condition for name, condition in checks.items()}
