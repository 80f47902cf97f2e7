"""Commits to the Delta log without a JVM: a version is written by a conditional put (on HDFS and local disks
by a rename that fails if the file exists).

Delta's log store of Spark is safe for one driver only on S3: two that commit one version at once can lose one
of them. delta-rs creates each version only if it does not exist, on every store, so any number of writers
are safe. A commit here goes on top of exactly the version that its writer has read, or fails.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from pipelines.commit_record import encode_record
from pipelines.pin import FileSource, TableLog, open_log, transaction_name
from pipelines.repeating import repeat_on_hdfs
from pipelines.shards import Shard
from pipelines.stores import delta_options

NEWEST_WRITER = 7
WRITER_FEATURES = frozenset(
    {
        "appendOnly",
        "invariants",
        "checkConstraints",
        "changeDataFeed",
        "generatedColumns",
        "columnMapping",
        "deletionVectors",
        "timestampNtz",
        "v2Checkpoint",
        "variantType",
        "variantType-preview",
    }
)
"""Features of Delta tables that delta-rs 1.6.6 commits to; it refuses all others."""


class ConflictError(RuntimeError):
    """Another writer committed first; nothing was written."""


def require_writable(log: TableLog) -> None:
    """Return if delta-rs commits to a table of this protocol.

    Raises ValueError with table, features and remedy: before rows are computed, not after it.
    """
    protocol = _table_of(log).protocol()
    features = set(protocol.writer_features or ())
    if protocol.min_writer_version == 6:  # Version 7 lists the features, 6 means these among others.
        features.add("identityColumns")
    refused = sorted(features - WRITER_FEATURES)
    if protocol.min_writer_version > NEWEST_WRITER:
        refused.append(f"writer version {protocol.min_writer_version}")
    if refused:
        raise ValueError(
            f"table {log.path} has features that commits without Spark do not know: {', '.join(refused)}; "
            "take a table without them (ALTER TABLE ... DROP FEATURE, or a new one; Spark gives it those of "
            "spark.databricks.delta.properties.defaults.*), or name the table in a catalog and start Spark "
            "with a log store for several drivers, such as "
            "spark.delta.logStore.s3a.impl=io.delta.storage.S3DynamoDBLogStore"
        )


def create_table(
    path: str,
    schema_json: str,
    *,
    name: str,
    description: str,
    partition_by: Sequence[str],
    properties: Mapping[str, str],
) -> None:
    """Create an empty table in one commit; do nothing if there is one, also if another writer creates it at
    the same time.

    `schema_json` is a Spark schema; comments of columns and NOT NULL are part of it.
    """

    def create() -> None:
        try:
            DeltaTable.create(
                path,
                Schema.from_json(schema_json),
                mode="error",
                partition_by=list(partition_by),
                name=name,
                description=description,
                configuration=dict(properties),
                commit_properties=CommitProperties(max_commit_retries=0),
                storage_options=delta_options(path),
                raise_if_key_not_exists=False,  # delta-rs knows no constraints, only Delta's own properties
            )
        except (DeltaError, OSError):
            if open_log(path) is None:
                raise

    repeat_on_hdfs(path, create)


def commit_shards(
    log: TableLog,
    shards: Sequence[Shard],
    *,
    replace: bool,
    record: Mapping[str, Any],
    removed: Collection[str] = (),
) -> None:
    """Add the shards on top of `log` and take out those `removed` (paths in the log), or `replace` all rows
    by the shards, in one commit.

    The commit carries `record` in its user metadata, and two transactions: one named by the fingerprint of
    the record, whose number is the version of the commit, so that it is found without walking through the
    log; and the table's own, with the number of the record, so that a writer who names the table in a catalog
    at the same time gets a conflict (see `named`).

    An answer of the store may be lost on the way. So after an error, the log says whether the next version
    is this commit. While servers of HDFS restart, a commit that is not there is tried again.

    Raises ConflictError if another writer made the next version. After any other error, the commit may have
    succeeded.
    """
    table = _table_of(log)
    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [
        AddAction(shard.path, shard.num_bytes, shard.partition, now, True, shard.statistics)
        for shard in shards
    ]
    actions += [RemoveAction(path, True, now) for path in sorted(removed)]
    properties = _describe_commit(log, shards, len(removed), record)

    def commit() -> None:
        try:
            table.create_write_transaction(
                actions,
                mode="overwrite" if replace else "append",
                schema=table.schema(),
                partition_by=list(log.source.partition_by),
                commit_properties=properties,
            )
        except (DeltaError, OSError) as error:
            _require_committed(log, record, error)

    repeat_on_hdfs(log.path, commit)


def _describe_commit(
    log: TableLog, shards: Sequence[Shard], num_removed: int, record: Mapping[str, Any]
) -> CommitProperties:
    metrics = {
        "numFiles": len(shards),
        "numOutputRows": sum(shard.num_rows for shard in shards),
        "numRemovedFiles": num_removed,
        "numOutputBytes": sum(shard.num_bytes for shard in shards),
    }
    return CommitProperties(
        custom_metadata={
            "userMetadata": encode_record(record),
            "readVersion": log.version,
            "operationMetrics": {name: str(value) for name, value in metrics.items()},
        },
        max_commit_retries=0,  # no silent repeat on top of rows that the caller has not seen
        app_transactions=[
            Transaction(transaction_name(record["fingerprint"]), log.version + 1),
            Transaction(record["table"], record["number"]),
        ],
    )


def _require_committed(log: TableLog, record: Mapping[str, Any], error: Exception) -> None:
    """Return if the version after `log` is the commit with this record. Raises ConflictError if another
    writer made it, and `error` if nobody did."""
    newest = open_log(log.path)
    if newest is None or newest.version <= log.version:
        raise error  # no other writer: the store refused
    made = newest.source.read_commit(log.version + 1) or {}
    if made.get("userMetadata") != encode_record(record):
        raise ConflictError(f"{log.path} has version {newest.version}, not {log.version}") from error


def add_columns(log: TableLog, schema_json: str) -> None:
    """Add columns at the end, on top of `log`. `schema_json`: a struct of them as Spark writes it. Raises
    ConflictError as `set_properties` does."""
    fields = Schema.from_json(schema_json).fields

    def alter(properties: CommitProperties) -> None:
        _table_of(log).alter.add_columns(fields, commit_properties=properties)

    _alter(log, alter)


def set_properties(log: TableLog, properties: Mapping[str, str]) -> None:
    """Set table properties on top of `log`, constraints among them; the rows are not looked at.

    Raises ConflictError if the table has a newer version than `log`; on HDFS, this call may have made it.
    """

    def alter(commit: CommitProperties) -> None:
        _table_of(log).alter.set_table_properties(
            dict(properties), raise_if_not_exists=False, commit_properties=commit
        )

    _alter(log, alter)


def _alter(log: TableLog, alter: Callable[[CommitProperties], None]) -> None:
    """Change the definition of the table on top of `log`."""

    def try_once() -> None:
        try:
            alter(CommitProperties(max_commit_retries=0))
        except CommitFailedError as error:
            newest = open_log(log.path)
            if newest is None or newest.version <= log.version:
                raise  # no other writer: the table does not take the change
            raise ConflictError(f"{log.path} has version {newest.version}, not {log.version}") from error

    repeat_on_hdfs(log.path, try_once)


def _table_of(log: TableLog) -> DeltaTable:
    assert isinstance(log.source, FileSource), f"{log.path} is written by its catalog"
    return log.source.table
