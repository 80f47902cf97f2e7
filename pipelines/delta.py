"""Typed Delta tables: the only code that writes Delta.

A write is exactly-once: the caller names its inputs by a fingerprint, Delta's transaction ids carry it, and writing the same
fingerprint again is a no-op. Every commit records, in its user metadata, an order-independent digest of the rows written, so a
reader can pin (table id, version, digest) and anyone can check it later. `pin` reads that record without a JVM.

Digest: count, xor and sum of one 64-bit hash a row over name-sorted columns (each column hashed on its own, so that a null or an
array boundary can't move into the neighbour). It does not depend on row order or partitioning. Cost: one pass over the rows.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from delta import exceptions as delta_exceptions
from delta.tables import DeltaTable
from deltalake import DeltaTable as DeltaLog
from deltalake.exceptions import TableNotFoundError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from pyspark.storagelevel import StorageLevel

logger = logging.getLogger(__name__)

CONFLICTS = tuple(getattr(delta_exceptions, name) for name in delta_exceptions.__all__)
"""Another writer committed first; in Python the kinds have no common base."""
MAINTENANCE = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "ADD CONSTRAINT",
               "CREATE TABLE")
"""Operations that leave the rows of a table as they are."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One commit of a table: what a later stage, a run or a person needs to name exactly these rows."""

    table: str
    path: str
    table_id: str
    """Delta's own id: a table deleted and made again has another one."""
    version: int
    digest: str
    """Digest of the rows this commit wrote, 32 hex digits; empty = last changed outside of Distributary."""
    num_rows: int
    """Rows this commit wrote."""
    fingerprint: str
    """What the rows were made from; empty = last changed outside of Distributary."""
    facts: dict[str, Any]
    """What the writer chose to tell, such as rows in and dropped by reason."""

    def identity(self) -> dict[str, Any]:
        """The part that pins the rows, for fingerprints and lineage."""
        return {"table": self.table, "table_id": self.table_id, "version": self.version, "digest": self.digest}


def fingerprint(*parts: object) -> str:
    """32 hex digits over the canonical JSON of `parts`: equal parts, equal fingerprint, on every machine."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def pin(path: str, *, made_from: str | None = None) -> Pin | None:
    """The newest commit that wrote rows at `path`, or, with `made_from`, the one that carries this fingerprint.

    None if there is no table or no such commit. Reads the Delta log only. A newest commit that is not ours (someone's DELETE)
    gives a Pin with empty digest and fingerprint.
    """
    try:
        log = DeltaLog(path)
    except TableNotFoundError:
        return None
    table_id = str(log.metadata().id)
    for commit in log.history():
        record = _record(commit)
        if made_from is None and record is None and commit["operation"] not in MAINTENANCE:
            return Pin(table=log.metadata().name or path, path=path, table_id=table_id, version=commit["version"], digest="",
                       num_rows=-1, fingerprint="", facts={"operation": commit["operation"]})
        if record is not None and made_from in (None, record["fingerprint"]):
            return Pin(path=path, table_id=table_id, version=commit["version"], **record)
    return None


def for_spark(path: str) -> str:
    """A local path as the URI that Spark takes for local even where its default file system is HDFS."""
    plain = not path.startswith("/") or "DATABRICKS_RUNTIME_VERSION" in os.environ
    return path if plain else f"file:{path}"  # file:/a: Delta compares it as text with its own form


def _record(commit: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        record = json.loads(commit.get("userMetadata") or "null")
    except json.JSONDecodeError:
        return None
    return record["distributary"] if isinstance(record, dict) and "distributary" in record else None


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
            raise FileNotFoundError(f"no {self.name} table at {path}; run the stage that writes it: distributary run --help")
        reader = spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(for_spark(path))

    def overwrite(self, rows: DataFrame, path: str, *, fingerprint: str, facts: Mapping[str, Any]) -> Pin:
        """Replace the table's rows in one commit; a no-op if its newest commit already carries `fingerprint`."""
        newest = pin(path)
        if newest is not None and newest.fingerprint == fingerprint:
            logger.info("%s: version %d was made from the same inputs, nothing written", self.name, newest.version)
            return newest
        return self._write(rows, path, "overwrite", fingerprint, facts)

    def append(self, rows: DataFrame, path: str, *, fingerprint: str, facts: Mapping[str, Any]) -> Pin:
        """Add rows in one commit; a no-op if any commit already carries `fingerprint`."""
        earlier = pin(path, made_from=fingerprint)
        if earlier is not None:
            logger.info("%s: version %d was made from the same inputs, nothing appended", self.name, earlier.version)
            return earlier
        return self._write(rows, path, "append", fingerprint, facts)

    def digest(self, rows: DataFrame) -> tuple[str, int]:
        """(digest, number of rows) after checking the definition: columns, nulls, key.

        Raises ContractError with the count and the first offending key.
        """
        columns = sorted(name for name in self.schema.names if name not in self.volatile)
        row_hash = F.xxhash64(*[F.xxhash64(F.col(name)) for name in columns])
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
                raise ContractError(f"{self.name}: {totals[f'null {name}']:,} of {totals['num_rows']:,} rows have null {name}; "
                                    f"first at {first.asDict()}; fix the source or the mapping of fields")
        if totals["num_keys"] != totals["num_rows"]:
            first = rows.groupBy(*self.key).count().where("count > 1").orderBy(*self.key).take(1)[0]
            raise ContractError(f"{self.name}: {totals['num_rows'] - totals['num_keys']:,} of {totals['num_rows']:,} rows repeat "
                                f"a key ({', '.join(self.key)}); first {first.asDict()}")
        return fingerprint(totals["num_rows"], totals["xor"], str(totals["sum"])), totals["num_rows"]

    def _write(self, rows: DataFrame, path: str, mode: str, made_from: str, facts: Mapping[str, Any]) -> Pin:
        self._ensure(rows.sparkSession, path)
        # Evaluated once: digest and files must come from the same rows.
        conforming = self._conform(rows).persist(StorageLevel.MEMORY_AND_DISK)
        try:
            digest, num_rows = self.digest(conforming)
            record = {"table": self.name, "digest": digest, "num_rows": num_rows, "fingerprint": made_from, "facts": dict(facts)}
            # A -> B -> A writes A again: an overwrite's transaction id counts up with the table. An append happens once, ever.
            transaction = DeltaLog(path).version() + 1 if mode == "overwrite" else 1
            (conforming.write.format("delta").mode(mode)
                .option("txnAppId", f"{self.name}-{made_from}").option("txnVersion", transaction)
                .option("userMetadata", json.dumps({"distributary": record}, ensure_ascii=False)).save(for_spark(path)))
        except CONFLICTS as conflict:
            # The other writer may have written these very rows; then there is nothing left to do.
            logger.warning("%s: another writer committed meanwhile (%s)", self.name, type(conflict).__name__)
        finally:
            conforming.unpersist()
        written = pin(path, made_from=made_from if mode == "append" else None)
        if written is None or written.fingerprint != made_from:
            raise RuntimeError(f"{self.name} at {path}: another writer replaced the rows meanwhile; "
                               "run the stage again when it is done")
        return written

    def _conform(self, rows: DataFrame) -> DataFrame:
        wanted, given = self.schema, {column.name: column.dataType for column in rows.schema}
        missing = [name for name in wanted.names if name not in given]
        extra = [name for name in given if name not in wanted.names]
        if missing or extra:
            raise ContractError(f"{self.name}: columns missing {missing}, not in the definition {extra}")
        wrong = [f"{c.name} is {given[c.name].simpleString()}, not {c.dataType.simpleString()}" for c in wanted
                 if given[c.name].simpleString() != c.dataType.simpleString()]
        if wrong:
            raise ContractError(f"{self.name}: {'; '.join(wrong)}")
        return rows.select(*wanted.names)

    def _ensure(self, spark: SparkSession, path: str) -> None:
        """Create the table and its constraints where they are missing; safe to be killed and to be run by two at once."""
        for attempt in range(5):
            try:
                builder = (DeltaTable.createIfNotExists(spark).location(for_spark(path)).comment(self.row).addColumns(self.schema)
                           .partitionedBy(*self.partition_by))
                reduce(lambda table, item: table.property(*item), PROPERTIES.items(), builder).execute()
                present = DeltaLog(path).metadata().configuration
                for name, condition in self.checks.items():
                    if f"delta.constraints.{name}" not in present:
                        spark.sql(f"ALTER TABLE delta.`{for_spark(path)}` ADD CONSTRAINT {name} CHECK ({condition})")
                return
            except (*CONFLICTS, AnalysisException):  # the latter: another writer has just added the same constraint
                if attempt == 4:
                    raise
