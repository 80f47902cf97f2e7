"""Typed Delta tables: the only code that writes Delta.

A write is exactly-once: the caller names its inputs by a fingerprint, the commit carries the fingerprint, and
a second write with the same fingerprint does nothing. Every commit records the digest of its rows
(`digest.py`) in its user metadata, so that a reader can pin (table id, version, digest) and anyone can check
it later (`pin.py`).

The rows are written first, once, to shards in the table's folder (`held.py`); the commit names the shards
(`commit.py`). A new table has one commit before, with its columns, constraints and properties.

Two writers at once: a commit goes on top of exactly the version that its writer has read. If another writer
was faster, it gets a conflict, reads the log again and writes what is still missing, or reports that its rows
were replaced. The shards are there already, so another attempt costs one commit.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from pipelines.commit import ConflictError, commit_shards, create_table, set_properties
from pipelines.digest import digest_rows
from pipelines.held import Contract, HeldRows, first_repeated_key, hold_rows
from pipelines.paths import spark_path
from pipelines.pin import Pin, TableLog, open_log
from pipelines.schema import arrow_schema, parse_ddl

logger = logging.getLogger(__name__)

WRITE_ATTEMPTS = 20
"""Against other writers: each time, one of them succeeds."""
FEW_ROWS = 1_000_000
"""Keys of tables up to this size are all compared. Of larger ones a sample is, as `keys` explains."""

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
    def hold(self, rows: DataFrame, path: str) -> Iterator[HeldRows]:
        """The rows, computed once into shards in the folder of the table at `path`, and checked against the
        definition: columns, nulls, constraints, key.

        For rows that are counted or looked at before `overwrite` makes them part of the table. Raises
        ContractError with the count and the first offending key.
        """
        contract = Contract(
            key=self.key,
            digested=self._digested,
            required=[column.name for column in self.schema if not column.nullable],
            checks=self.checks,
            partition_by=self.partition_by,
        )
        with hold_rows(self._select(rows), path, contract) as held:
            self._check(held)
            yield held

    def overwrite(
        self, rows: DataFrame | HeldRows, path: str, *, fingerprint: str, facts: Mapping[str, Any]
    ) -> Pin:
        """Replace the table's rows in one commit; does nothing if the newest commit already carries
        `fingerprint`.

        Held rows must be held for the same path. Raises ContractError if the rows break the definition,
        RuntimeError if another writer replaces the rows meanwhile, or if another program changed them last.
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
        with nullcontext(rows) if isinstance(rows, HeldRows) else self.hold(rows, path) as held:
            for _ in range(WRITE_ATTEMPTS):
                self._commit(held, path, log, replace=True, made_from=fingerprint, facts=facts)
                log = open_log(path)
                written = log.pin() if log else None
                if written is not None and written.fingerprint == fingerprint:
                    return written
                held.may_be_committed = False  # the log is read, and its newest rows are not these
                if written != newest:
                    break
        raise self._disturbed(path)

    def append(self, rows: DataFrame, path: str, *, fingerprint: str, facts: Mapping[str, Any]) -> Pin:
        """Add the rows whose key is not in the table yet, in one commit; does nothing if a commit carries
        `fingerprint`.

        Raises ContractError if the rows break the definition, RuntimeError if other writers are faster
        WRITE_ATTEMPTS times.
        """
        log = open_log(path)
        earlier = log.pin(made_from=fingerprint) if log else None
        if earlier is not None:
            logger.info("%s: version %d has the same inputs, nothing appended", self.name, earlier.version)
            return earlier
        with ExitStack() as stack:
            held = stack.enter_context(self.hold(rows, path))
            for _ in range(WRITE_ATTEMPTS):
                if log is not None and (missing := self._find_missing(held, path, log)) is not None:
                    held = stack.enter_context(self.hold(missing, path))
                self._commit(held, path, log, replace=False, made_from=fingerprint, facts=facts)
                log = open_log(path)
                written = log.pin(made_from=fingerprint) if log else None
                if written is not None:
                    return written
                held.may_be_committed = False  # the log is read, and no commit of it names the shards
        raise self._disturbed(path)

    def digest(self, rows: DataFrame) -> tuple[str, int]:
        """(digest, number of rows) of rows that have the table's columns."""
        return digest_rows(rows, self._digested)

    @property
    def _digested(self) -> list[str]:
        return [name for name in self.schema.names if name not in self.volatile]

    def _find_missing(self, held: HeldRows, path: str, log: TableLog) -> DataFrame | None:
        """The rows whose key is not in the table at the version of `log`; None if that is all of them.

        Keys alone are compared. Rows are read again only if some of them must be left out.
        """
        present = self.read(held.spark, path, log.version).select(*self.key)
        if held.rows.select(*self.key).join(present, list(self.key), "left_semi").isEmpty():
            return None
        return held.rows.join(present, list(self.key), "left_anti")

    def _commit(
        self,
        held: HeldRows,
        path: str,
        log: TableLog | None,
        *,
        replace: bool,
        made_from: str,
        facts: Mapping[str, Any],
    ) -> None:
        """One commit on top of `log`. Writes nothing, and returns, if another writer committed since `log`
        was read."""
        if held.path != path:
            raise ValueError(f"{self.name}: the rows are held for {held.path}, not for {path}")
        if log is None:
            log = self._create(path)
        record = {
            "table": self.name,
            "digest": held.digest,
            "num_rows": held.num_rows,
            "fingerprint": made_from,
            "facts": dict(facts),
            "last_foreign": log.last_foreign(),
        }
        try:
            log = self._with_constraints(held.spark, path, log, keeps_rows=not replace)
            held.may_be_committed = True
            commit_shards(log, held.shards, replace=replace, fingerprint=made_from, record=record)
        except ConflictError as conflict:
            logger.warning("%s: another writer committed first (%s)", self.name, conflict)

    def _create(self, path: str) -> TableLog:
        """The log of a new table: one commit with columns, constraints and properties.

        Safe to be killed, and safe if two writers do it at once: the second finds the table of the first. If
        that one has written rows already, the second must not write over rows that it has not seen.
        """
        create_table(
            path,
            self.schema.json(),
            name=self.name,
            description=self.row,
            partition_by=self.partition_by,
            properties={**PROPERTIES, **_constraint_properties(self.checks)},
        )
        log = open_log(path, version=0)
        assert log is not None, "it was created just now"
        return log

    def _with_constraints(
        self, spark: SparkSession, path: str, log: TableLog, *, keeps_rows: bool
    ) -> TableLog:
        """`log`, or a later one with the constraints that the table lacked.

        Raises ContractError if the table has other columns, or rows that break a new constraint and stay.
        """
        if list(log.columns) != self.schema.names:
            raise ContractError(
                f"{self.name} at {path} has the columns of an earlier Distributary "
                f"({', '.join(log.columns)}); delete or move the table and run the stage again"
            )
        missing = {
            name: check
            for name, check in self.checks.items()
            if f"delta.constraints.{name}" not in log.configuration
        }
        if not missing:
            return log
        for name, check in missing.items() if keeps_rows else ():
            broken = self.read(spark, path, log.version).where(f"NOT coalesce(({check}), false)").count()
            if broken:
                raise ContractError(
                    f"{self.name} at {path}: {broken:,} rows break the constraint {name} ({check}), which is "
                    "new; correct or delete them"
                )
        set_properties(log, _constraint_properties(missing))
        later = open_log(path, version=log.version + 1)
        assert later is not None, "it was written just now"
        return later

    def _check(self, held: HeldRows) -> None:
        for name, count in held.num_nulls.items():
            if count:
                first = held.rows.where(f"`{name}` IS NULL").select(*self.key).take(1)[0]
                raise ContractError(
                    f"{self.name}: {count:,} of {held.num_rows:,} rows have null {name}; "
                    f"first at {first.asDict()}; fix the source or the mapping of fields"
                )
        for name, count in held.num_violations.items():
            if count:
                broken = held.rows.where(f"NOT coalesce(({self.checks[name]}), false)")
                first = broken.select(*self.key).take(1)[0]
                raise ContractError(
                    f"{self.name}: {count:,} of {held.num_rows:,} rows break the constraint {name} "
                    f"({self.checks[name]}); first at {first.asDict()}"
                )
        # Two equal hashes: look for the key. Otherwise the keys of a small table are compared, unless the
        # sample holds them all.
        if not held.keys.repeated and (held.keys.complete or held.num_rows > FEW_ROWS):
            return
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
