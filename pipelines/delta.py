"""Typed Delta tables: the only code that writes Delta.

A write is exactly-once: the caller names its inputs by a fingerprint, the commit carries it, and writing the same fingerprint
again is a no-op. Every commit records, in its user metadata, an order-independent digest of the rows written, so a reader can pin
(table id, version, digest) and anyone can check it later (`pin.py`).

Two writers at once: a write names the version it was made upon as Delta's transaction id, so that the second one conflicts or is
passed over by Delta; it then looks again and writes what is still missing, or says who replaced its rows.

Digest: count, xor and sum of one 64-bit hash a row over name-sorted columns (each column hashed on its own, so that a null or an
array boundary can't move into the neighbour). It does not depend on row order or partitioning. Cost: one pass over the rows.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from delta import exceptions as delta_exceptions
from delta.tables import DeltaTable
from deltalake import DeltaTable as DeltaLog
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import MapType, StructField, StructType
from pyspark.storagelevel import StorageLevel

from pipelines.pin import Pin, fingerprint, pin, version_of

logger = logging.getLogger(__name__)

CONFLICTS = tuple(getattr(delta_exceptions, name) for name in delta_exceptions.__all__)
"""Another writer committed first; in Python the kinds have no common base."""
WRITE_ATTEMPTS = 5
"""Against other writers; the rows are kept, so another attempt costs a commit."""

PROPERTIES = {
    # Reader protocol 1: a GPU worker reads the Parquet files with Arrow and no JVM.
    "delta.minReaderVersion": "1",
    "delta.enableDeletionVectors": "false",
    "delta.columnMapping.mode": "none",
    # VACUUM's default of 7 days would erase the version a model was trained from.
    "delta.deletedFileRetentionDuration": "interval 365 days",
    "delta.logRetentionDuration": "interval 365 days",
}


class ContractError(ValueError):
    """Rows that break the definition of their table; nothing was written."""


def for_spark(path: str) -> str:
    """A local path as the URI that Spark takes for local even where its default file system is HDFS; on Databricks DBFS's own."""
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return re.sub(r"^/dbfs/", "dbfs:/", path)
    return (
        f"file:{path}" if path.startswith("/") else path
    )  # file:/a: Delta compares it as text with its own form


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's definition; comments and constraints reach the catalog, so that the table explains itself."""

    name: str
    row: str
    """What one row is."""
    key: tuple[str, ...]
    ddl: str
    partition_by: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    """Constraint name -> SQL condition that every row meets."""
    volatile: tuple[str, ...] = ()
    """Columns that differ from one execution to the next (times); left out of the digest."""

    @property
    def schema(self) -> StructType:
        schema = StructType.fromDDL(self.ddl)
        assert isinstance(schema, StructType), f"{self.name}: ddl names no columns"
        return schema

    def read(self, spark: SparkSession, path: str, version: int | None = None) -> DataFrame:
        """The rows at `version` (None = newest)."""
        if pin(path) is None:
            raise FileNotFoundError(
                f"no {self.name} table at {path}; run the stage that writes it: distributary run --help"
            )
        reader = spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(for_spark(path))

    def overwrite(self, rows: DataFrame, path: str, *, fingerprint: str, facts: Mapping[str, Any]) -> Pin:
        """Replace the table's rows in one commit; a no-op if its newest commit already carries `fingerprint`.

        Raises RuntimeError if another writer replaces them at the same time.
        """
        newest = pin(path)
        if newest is not None and newest.fingerprint == fingerprint:
            logger.info(
                "%s: version %d was made from the same inputs, nothing written", self.name, newest.version
            )
            return newest
        return self._write(rows, path, "overwrite", fingerprint, facts)

    def append(self, rows: DataFrame, path: str, *, fingerprint: str, facts: Mapping[str, Any]) -> Pin:
        """Add the rows whose key is not there yet, in one commit; a no-op if a commit already carries `fingerprint`."""
        earlier = pin(path, made_from=fingerprint)
        if earlier is not None:
            logger.info(
                "%s: version %d was made from the same inputs, nothing appended", self.name, earlier.version
            )
            return earlier
        return self._write(rows, path, "append", fingerprint, facts)

    def digest(self, rows: DataFrame) -> tuple[str, int]:
        """(digest, number of rows) after checking the definition: columns, nulls, key.

        Raises ContractError with the count and the first offending key.
        """
        columns = sorted(name for name in self.schema.names if name not in self.volatile)
        row_hash = F.xxhash64(*[F.xxhash64(_hashable(self.schema[name])) for name in columns])
        required = [column.name for column in self.schema if not column.nullable]
        totals = rows.agg(
            F.count("*").alias("num_rows"),
            F.bit_xor(row_hash).alias("xor"),
            F.sum(row_hash.cast("decimal(38,0)")).alias("sum"),
            F.count_distinct(F.struct(*self.key)).alias("num_keys"),
            *[F.count_if(F.col(name).isNull()).alias(f"null {name}") for name in required],
        ).collect()[0]
        for name in required:
            if totals[f"null {name}"]:
                first = rows.where(F.col(name).isNull()).select(*self.key).take(1)[0]
                raise ContractError(
                    f"{self.name}: {totals[f'null {name}']:,} of {totals['num_rows']:,} rows have null {name}; "
                    f"first at {first.asDict()}; fix the source or the mapping of fields"
                )
        if totals["num_keys"] != totals["num_rows"]:
            first = rows.groupBy(*self.key).count().where("count > 1").orderBy(*self.key).take(1)[0]
            raise ContractError(
                f"{self.name}: {totals['num_rows'] - totals['num_keys']:,} of {totals['num_rows']:,} rows repeat "
                f"a key ({', '.join(self.key)}); first {first.asDict()}"
            )
        return fingerprint(totals["num_rows"], totals["xor"], str(totals["sum"])), totals["num_rows"]

    def _write(self, rows: DataFrame, path: str, mode: str, made_from: str, facts: Mapping[str, Any]) -> Pin:
        # Evaluated once: digest and files must come from the same rows.
        conforming = self._conform(rows).persist(StorageLevel.MEMORY_AND_DISK)
        before = pin(path)
        try:
            for _ in range(WRITE_ATTEMPTS):
                self._attempt(conforming, path, mode, made_from, facts)
                written = pin(path, made_from=made_from if mode == "append" else None)
                if written is not None and written.fingerprint == made_from:
                    return written
                if mode == "overwrite" and written != before:
                    break
        finally:
            conforming.unpersist()
        raise RuntimeError(
            f"{self.name} at {path}: another writer changed the rows meanwhile; "
            "run the stage again when it is done"
        )

    def _attempt(
        self, rows: DataFrame, path: str, mode: str, made_from: str, facts: Mapping[str, Any]
    ) -> None:
        """One commit, upon the version that the table has now; nothing is written if another writer is faster."""
        seen = version_of(path)
        missing = rows
        if mode == "append" and seen >= 0:
            present = rows.sparkSession.read.format("delta").option("versionAsOf", seen).load(for_spark(path))
            missing = rows.join(present.select(*self.key), list(self.key), "left_anti").select(*rows.columns)
        digest, num_rows = self.digest(missing)
        record = {
            "table": self.name,
            "digest": digest,
            "num_rows": num_rows,
            "fingerprint": made_from,
            "facts": dict(facts),
        }
        try:
            self._ensure(rows.sparkSession, path)
            (
                missing.write.format("delta")
                .mode(mode)
                .option("txnAppId", self.name)
                .option("txnVersion", seen + 1)
                .option("userMetadata", json.dumps({"distributary": record}, ensure_ascii=False))
                .save(for_spark(path))
            )
        except CONFLICTS as conflict:
            logger.warning(
                "%s: another writer committed meanwhile (%s); looking again",
                self.name,
                type(conflict).__name__,
            )

    def _conform(self, rows: DataFrame) -> DataFrame:
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

    def _ensure(self, spark: SparkSession, path: str) -> None:
        """Create the table and its constraints where they are missing; safe to be killed and to be run by two at once."""
        for attempt in range(5):
            try:
                builder = (
                    DeltaTable.createIfNotExists(spark)
                    .location(for_spark(path))
                    .comment(self.row)
                    .addColumns(self.schema)
                    .partitionedBy(*self.partition_by)
                )
                reduce(lambda table, item: table.property(*item), PROPERTIES.items(), builder).execute()
                present = DeltaLog(path).metadata().configuration
                for name, condition in self.checks.items():
                    if f"delta.constraints.{name}" not in present:
                        spark.sql(
                            f"ALTER TABLE delta.`{for_spark(path)}` ADD CONSTRAINT {name} CHECK ({condition})"
                        )
                return
            except (
                *CONFLICTS,
                AnalysisException,
            ):  # the latter: another writer has just added the same constraint
                if attempt == 4:
                    raise


def _hashable(field: StructField) -> Column:
    """The column as xxhash64 takes it: a map, which has no order, as its sorted entries."""
    column = F.col(field.name)
    return F.sort_array(F.map_entries(column)) if isinstance(field.dataType, MapType) else column
