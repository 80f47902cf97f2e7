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

Where a function takes the path of a table, it also takes a name in a Spark catalog (`schema.table`). Spark
commits to those (`named.py`), from rows that wait in a staging folder, unless that is not safe on S3
(`catalog.find_folder`): then a name stands for the path of its table.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from pipelines.catalog import quote_name
from pipelines.change import Change, Replaced, extend_totals
from pipelines.commit import ConflictError, commit_shards
from pipelines.contract import ContractError as ContractError
from pipelines.contract import Definition, complete_columns, select_columns
from pipelines.digest import Totals, digest_rows
from pipelines.held import HeldRows, find_new_rows, hold_rows, read_shards, require_contract
from pipelines.named import commit_named, staging_folder
from pipelines.paths import is_table_name, spark_path
from pipelines.pin import Pin, TableLog, open_log
from pipelines.prepare import prepare_folder, prepare_table
from pipelines.schema import arrow_schema, parse_ddl

logger = logging.getLogger(__name__)

WRITE_ATTEMPTS = 20  # against other writers: each time, one of them succeeds
MOST_FILES = 200  # up to which a table is read without Spark's reader of Delta logs


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
    later: tuple[str, ...] = ()
    """Last columns, null in earlier tables, which the next write adds."""

    @property
    def schema(self) -> StructType:
        return parse_ddl(self.ddl)

    @property
    def arrow_schema(self) -> pa.Schema:
        """The columns as Arrow types."""
        return arrow_schema(self.ddl)

    def read(self, spark: SparkSession, path: str, version: int | None = None) -> DataFrame:
        """The rows at `version` (None = newest). Raises FileNotFoundError if there is no table."""
        if open_log(path) is None:
            raise FileNotFoundError(
                f"no {self.name} table at {path}; run the stage that writes it: distributary run --help"
            )
        reader = spark.read.options(**({} if version is None else {"versionAsOf": version})).format("delta")
        rows = reader.table(quote_name(path)) if is_table_name(path) else reader.load(spark_path(path))
        return complete_columns(rows, self._definition)

    def read_newest(self, spark: SparkSession, path: str, log: TableLog | None = None) -> DataFrame:
        """The rows of the newest version, or of the one that `log` was opened at; none if there is no table.

        A table of few files is read by their names: Spark would run several jobs to open the log again after
        each commit.
        """
        log = log or open_log(path)
        if log is None:
            return spark.createDataFrame([], self.schema)
        files = log.list_plain_shards(MOST_FILES)
        if files is None:
            return self.read(spark, path, log.version)
        return read_shards(spark, self.schema, log.folder or path, files)

    @contextmanager
    def hold(self, rows: DataFrame, path: str) -> Iterator[HeldRows]:
        """The rows, computed once into shards in the folder of the table at `path`, and checked against the
        definition: columns, nulls, constraints, key.

        For rows that are counted or looked at before `overwrite` makes them part of the table. Raises
        ContractError with the count and the first offending key.
        """
        definition = self._definition
        folder = prepare_folder(rows.sparkSession, path, definition)
        with hold_rows(select_columns(rows, definition), folder, definition) as held:
            require_contract(held, definition)
            yield held

    def hold_nothing(self, spark: SparkSession, path: str) -> HeldRows:
        """What `hold` gives for no rows, without a job."""
        return HeldRows(spark=spark, schema=self.schema, path=prepare_folder(spark, path, self._definition))

    def overwrite(
        self,
        rows: DataFrame | HeldRows,
        path: str,
        *,
        fingerprint: str,
        facts: Mapping[str, Any],
        base: str | None = None,
    ) -> Pin:
        """Replace the table's rows in one commit; does nothing if the newest commit already carries
        `fingerprint`.

        With `base`, only those of the commit that carries this fingerprint; empty = there must be none. Held
        rows must be held for the same path. Raises ContractError if the rows break the definition,
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
        if base is not None and base != (newest.fingerprint if newest else ""):
            raise self._disturbed(path)
        with nullcontext(rows) if isinstance(rows, HeldRows) else self.hold(rows, path) as held:
            before = -1 if log is None else log.version
            for _ in range(WRITE_ATTEMPTS):
                self._commit(held, path, log, Change(replaces=True), made_from=fingerprint, facts=facts)
                log = open_log(path)
                held.note_commits(log, after=before)
                written = log.pin() if log else None
                if written is not None and written.fingerprint == fingerprint:
                    return written
                if written != newest:
                    break
        raise self._disturbed(path)

    def extend(
        self,
        rows: DataFrame | HeldRows,
        path: str,
        *,
        base: str,
        fingerprint: str,
        facts: Mapping[str, Any],
        replaced: Replaced | None = None,
    ) -> Pin:
        """Add the rows to those of the commit that carries the fingerprint `base`, and take out the shards
        `replaced`, in one commit; does nothing if the newest commit carries `fingerprint`.

        Digest and number of rows of the commit are those of the whole table, as if an `overwrite` had written
        it. No key of the rows may be in the table: keys are not compared. If the newest commit is another
        one than `base` (a run was killed, and the next one has other inputs), all rows are written again:
        those of `base` and the new ones; not so with `replaced`, also an empty one, which says that the rows
        depend on those of `base`. Raises ContractError as `overwrite` does, LookupError if no commit that
        records totals carries `base`, RuntimeError if another writer changes the rows meanwhile.
        """
        log = open_log(path)
        earlier = log.pin(made_from=base) if log else None
        recorded = log.read_totals(earlier.version) if log and earlier else None
        if log is None or earlier is None or recorded is None:
            raise LookupError(f"{self.name} at {path} has no version that can be extended; delete the table")
        newest = log.pin()
        if newest is not None and newest.fingerprint == fingerprint:
            return newest
        if newest != earlier:
            if replaced is not None:
                raise self._disturbed(path)
            new = rows.rows if isinstance(rows, HeldRows) else rows
            both = self.read(new.sparkSession, path, earlier.version).unionByName(new)
            return self.overwrite(both, path, fingerprint=fingerprint, facts=facts)
        with nullcontext(rows) if isinstance(rows, HeldRows) else self.hold(rows, path) as held:
            change = extend_totals(Totals.decode(recorded), held.totals, replaced)
            before = log.version
            for _ in range(WRITE_ATTEMPTS):
                if change.removed and not set(change.removed) <= set(log.list_shards()):
                    break  # another program has written the same rows to other files
                self._commit(held, path, log, change, made_from=fingerprint, facts=facts)
                log = open_log(path)
                held.note_commits(log, after=before)
                written = log.pin() if log else None
                if written is not None and written.fingerprint == fingerprint:
                    return written
                if log is None or written != earlier:
                    break
        raise self._disturbed(path)

    def append(
        self,
        rows: DataFrame,
        path: str,
        *,
        fingerprint: str,
        facts: Mapping[str, Any],
        compared: TableLog | None = None,
    ) -> Pin:
        """Add the rows whose key is not in the table, in one commit; nothing if a commit has `fingerprint`.

        The version `compared` has none of the keys: they are compared only if the newest is another. Raises
        ContractError if the rows break the definition, RuntimeError if others win WRITE_ATTEMPTS times.
        """
        log = open_log(path)
        if earlier := log.pin(made_from=fingerprint) if log else None:
            logger.info("%s: version %d has the same inputs, nothing appended", self.name, earlier.version)
            return earlier
        with ExitStack() as stack:
            held = stack.enter_context(self.hold(rows, path))
            before = -1 if log is None else log.version
            seen = compared and (compared.source.table_id, compared.version)
            for _ in range(WRITE_ATTEMPTS):
                if log is not None and seen != (log.source.table_id, log.version):
                    new = find_new_rows(held, self.key, self.read_newest(held.spark, path, log))
                    held = held if new is None else stack.enter_context(self.hold(new, path))
                self._commit(held, path, log, Change(), made_from=fingerprint, facts=facts)
                log = open_log(path)
                held.note_commits(log, after=before)
                written = log.pin(made_from=fingerprint) if log else None
                if written is not None:
                    return written
        raise self._disturbed(path)

    def digest(self, rows: DataFrame) -> tuple[str, int]:
        """(digest, number of rows) of rows that have the table's columns."""
        return digest_rows(rows, self._definition.digested)

    @property
    def _definition(self) -> Definition:
        schema = self.schema
        return Definition(
            name=self.name,
            row=self.row,
            schema=schema,
            key=self.key,
            digested=tuple(name for name in schema.names if name not in self.volatile),
            partition_by=self.partition_by,
            checks=self.checks,
            later=self.later,
        )

    def _commit(
        self,
        held: HeldRows,
        path: str,
        log: TableLog | None,
        change: Change,
        *,
        made_from: str,
        facts: Mapping[str, Any],
    ) -> None:
        """One commit on top of `log`. Writes nothing, and returns, if another writer committed since `log`
        was read."""
        try:
            log = prepare_table(held.spark, path, log, self._definition, keeps_rows=not change.replaces)
            if held.path != (log.folder or staging_folder(held.spark)):
                raise ValueError(f"{self.name}: the rows are held in {held.path}, not for {path}")
            totals = change.totals or held.totals
            record = {
                "table": self.name,
                "digest": totals.digest,
                "num_rows": totals.num_rows,
                "totals": totals.encode(),
                "fingerprint": made_from,
                "facts": dict(facts),
                "last_foreign": log.last_foreign(),
                "number": log.last_number() + 1,
                "folder": held.folder,
            }
            if log.folder is None:
                commit_named(log, held, replace=change.replaces, record=record)
                return
            held.may_be_committed = True
            commit_shards(log, held.shards, replace=change.replaces, record=record, removed=change.removed)
        except ConflictError as conflict:
            logger.warning("%s: another writer committed first (%s)", self.name, conflict)

    def _disturbed(self, path: str) -> RuntimeError:
        return RuntimeError(
            f"{self.name} at {path}: another writer changed the rows meanwhile; "
            "run the stage again when it is done"
        )
