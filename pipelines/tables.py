"""Every table of the flow: columns, units, key, and the only code that writes Delta.

A write is exactly-once: the caller names its inputs by a fingerprint, Delta's transaction ids carry it, and writing the same
fingerprint again is a no-op. Every commit records, in its user metadata, an order-independent digest of the rows written, so a
reader can pin (table id, version, digest) and anyone can check it later. `pin` reads that record without a JVM.

Digest: count, xor and sum of one 64-bit hash a row over name-sorted columns (each column hashed on its own, so that a null or an
array boundary can't move into the neighbour). It does not depend on row order or partitioning. Cost: one pass over the rows.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from delta.exceptions import DeltaConcurrentModificationException
from delta.tables import DeltaTable
from deltalake import DeltaTable as DeltaLog
from deltalake.exceptions import TableNotFoundError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from pyspark.storagelevel import StorageLevel

logger = logging.getLogger(__name__)

MAINTENANCE = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "ADD CONSTRAINT", "CREATE TABLE")
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
        return StructType.fromDDL(self.ddl)

    def read(self, spark: SparkSession, path: str, version: int | None = None) -> DataFrame:
        """The rows at `version` (None = newest)."""
        if pin(path) is None:
            raise FileNotFoundError(f"no {self.name} table at {path}; run the stage that writes it: distributary run --help")
        reader = spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(path)

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
        ).first()
        for name in required:
            if totals[f"null {name}"]:
                first = rows.where(F.col(name).isNull()).select(*self.key).first()
                raise ContractError(f"{self.name}: {totals[f'null {name}']:,} of {totals['num_rows']:,} rows have null {name}; "
                                    f"first at {first.asDict()}; fix the source or the mapping of fields")
        if totals["num_keys"] != totals["num_rows"]:
            first = rows.groupBy(*self.key).count().where("count > 1").orderBy(*self.key).first()
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
                .option("userMetadata", json.dumps({"distributary": record}, ensure_ascii=False)).save(path))
        except DeltaConcurrentModificationException as conflict:
            # The other writer may have written these very rows; then there is nothing left to do.
            logger.warning("%s: another writer committed meanwhile (%s)", self.name, type(conflict).__name__)
        finally:
            conforming.unpersist()
        written = pin(path, made_from=made_from)
        if written is None:
            raise RuntimeError(f"{self.name} at {path}: another writer replaced the rows meanwhile; run the stage again when it is done")
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
                builder = (DeltaTable.createIfNotExists(spark).location(path).comment(self.row).addColumns(self.schema)
                           .partitionedBy(*self.partition_by))
                reduce(lambda table, item: table.property(*item), PROPERTIES.items(), builder).execute()
                present = DeltaLog(path).metadata().configuration
                for name, condition in self.checks.items():
                    if f"delta.constraints.{name}" not in present:
                        spark.sql(f"ALTER TABLE delta.`{path}` ADD CONSTRAINT {name} CHECK ({condition})")
                return
            except DeltaConcurrentModificationException:
                if attempt == 4:
                    raise


DOCUMENTS = Table(
    name="documents", row="one source document, kept or dropped", key=("doc_id",),
    checks={"chars_and_bytes": "num_chars >= 0 AND num_bytes >= num_chars", "split_name": "split IN ('train', 'validation', 'test')"},
    ddl="""doc_id       STRING NOT NULL COMMENT 'sha256 of source and source key, first 32 hex digits',
           source       STRING NOT NULL COMMENT 'name of the source in the configuration',
           text         STRING NOT NULL COMMENT 'UTF-8, NFC, line ends LF, outer white space stripped',
           label        STRING          COMMENT 'class name; null = none given',
           content_hash STRING NOT NULL COMMENT 'sha256 of text, first 32 hex digits',
           num_chars    INT    NOT NULL COMMENT 'Unicode code points of text',
           num_bytes    INT    NOT NULL COMMENT 'UTF-8 bytes of text',
           duplicate_of STRING          COMMENT 'doc_id of the surviving copy; null = no copy or the survivor',
           drop_reason  STRING          COMMENT 'first rule failed; null = kept',
           split        STRING NOT NULL COMMENT 'train, validation or test; set for dropped rows too',
           file         STRING NOT NULL COMMENT 'file, relative to the root of the source',
           offset       BIGINT NOT NULL COMMENT 'byte at which the record starts in the decompressed file'""")

QUARANTINE = Table(
    name="quarantine", row="one record that could not become a document", key=("source", "file", "offset"),
    checks={"position": "offset >= 0 AND line >= 1"},
    ddl="""source STRING NOT NULL COMMENT 'name of the source in the configuration',
           file   STRING NOT NULL COMMENT 'file, relative to the root of the source',
           offset BIGINT NOT NULL COMMENT 'byte at which the record starts in the decompressed file',
           line   BIGINT NOT NULL COMMENT 'line at which the record starts, from 1',
           reason STRING NOT NULL COMMENT 'rule that the record breaks',
           raw    BINARY          COMMENT 'first 64 KiB of the record; null = unreadable'""")

SEQUENCES = Table(
    name="sequences", row="one training sequence of at most sequence_length tokens", key=("split", "sequence_id"),
    partition_by=("split",),
    checks={"tokens": "num_tokens = size(input_ids) AND num_tokens >= 1 AND num_targets >= 0", "dense_id": "sequence_id >= 0"},
    ddl="""sequence_id BIGINT NOT NULL COMMENT 'from 0, without gaps within the split',
           split       STRING NOT NULL COMMENT 'train, validation or test',
           input_ids   ARRAY<INT> NOT NULL COMMENT 'tokens, not padded',
           num_tokens  INT NOT NULL COMMENT 'length of input_ids',
           target      INT COMMENT 'class number; null = the next tokens are the targets',
           num_targets INT NOT NULL COMMENT 'terms this sequence adds to the loss',
           num_bytes   INT NOT NULL COMMENT 'UTF-8 bytes of the text behind the targets',
           segments    ARRAY<STRUCT<doc_id: STRING, first_token: INT, num_tokens: INT, char_start: INT, char_end: INT>> NOT NULL
                       COMMENT 'which characters of which document each run of tokens is'""")

PREDICTIONS = Table(
    name="predictions", row="one document scored by one model version", key=("doc_id", "model_name", "model_version", "documents_version"),
    volatile=("scored_at", "latency_ms"),
    checks={"latency": "latency_ms >= 0"},
    ddl="""doc_id            STRING NOT NULL COMMENT 'document scored',
           text              STRING NOT NULL COMMENT 'text scored',
           label             STRING COMMENT 'expected class; null = unknown',
           prediction        STRING NOT NULL COMMENT 'class name, or text continued by a language model',
           score             DOUBLE NOT NULL COMMENT 'probability of the class; bits per byte of the text for a language model',
           model_name        STRING NOT NULL COMMENT 'registered model',
           model_version     INT NOT NULL COMMENT 'version of the registered model',
           run_id            STRING NOT NULL COMMENT 'MLflow run that trained it',
           documents_version BIGINT NOT NULL COMMENT 'version of the documents table scored',
           scored_at         TIMESTAMP NOT NULL COMMENT 'when the job started scoring',
           latency_ms        DOUBLE NOT NULL COMMENT 'milliseconds of model time, mean over the batch of this row'""")
