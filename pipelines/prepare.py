"""A table that is ready for a write: it exists, and has the columns and constraints of its definition."""

import json
from collections.abc import Sequence

from pyspark.sql import SparkSession
from pyspark.sql.types import StructField, StructType

from pipelines.catalog import find_folder
from pipelines.commit import add_columns, create_table, require_writable, set_properties
from pipelines.contract import ContractError, Definition, breaks, constraint_properties, find_lacking
from pipelines.named import add_constraints, add_named_columns, create_named, staging_folder
from pipelines.paths import is_table_name, spark_path
from pipelines.pin import TableLog, open_log


def prepare_folder(spark: SparkSession, place: str, definition: Definition) -> str:
    """Where the rows of a write wait for their commit: the folder of the table, or the staging folder if
    Spark commits. A table whose folder the catalog chooses is created if there is none.

    Raises ValueError if it has features that rule out commits without Spark.
    """
    if not is_table_name(place):
        return place
    if find_folder(place) is None:
        return staging_folder(spark)
    log = open_log(place) or _create(spark, place, definition)
    if log.folder is not None:
        require_writable(log)
    return log.folder or staging_folder(spark)


def prepare_table(
    spark: SparkSession, place: str, log: TableLog | None, definition: Definition, *, keeps_rows: bool
) -> TableLog:
    """The log that a write goes on top of: `log`, or that of a new table, or one with the columns and
    constraints that the table lacked.

    A new table takes one commit. Safe to be killed, and safe if two writers do it at once: the second finds
    the table of the first, and gets the log without rows that it has not seen.

    Raises ContractError if the table has other columns, types or partitions, or rows that break a new
    constraint although the write keeps them; ValueError if it has features that rule out commits without
    Spark; ConflictError if another writer committed meanwhile.
    """
    if log is None:
        log = _create(spark, place, definition)
    if lacking := find_lacking(log.source.columns, definition):
        log = _add_columns(spark, place, log, [definition.schema[name] for name in lacking])
    _require_equal_columns(place, log, definition)
    if log.folder is not None:
        require_writable(log)
    missing = {
        name: check
        for name, check in definition.checks.items()
        if f"delta.constraints.{name}" not in log.source.configuration
    }
    if not missing:
        return log
    if log.folder is None:
        add_constraints(spark, place, missing)
        return _reopen(place)
    if keeps_rows:
        _require_unbroken(spark, log, definition, missing)
    set_properties(log, constraint_properties(missing))
    return _reopen(place, version=log.version + 1)


def _require_equal_columns(place: str, log: TableLog, definition: Definition) -> None:
    """The shards have the types of the definition, so the table must have them, too."""
    present = StructType.fromJson(json.loads(log.source.schema_json))
    if present.names != definition.schema.names:
        difference = f"the columns of an earlier Distributary ({', '.join(present.names)})"
    elif others := [
        f"{old.name} {old.dataType.simpleString()}{'' if old.nullable else ' not null'}"
        for old, new in zip(present, definition.schema, strict=True)
        if old.dataType.simpleString() != new.dataType.simpleString() or (new.nullable and not old.nullable)
    ]:
        difference = f"the types of an earlier Distributary ({', '.join(others)})"
    elif tuple(log.source.partition_by) != definition.partition_by:
        difference = (
            f"the partitions of an earlier Distributary ({', '.join(log.source.partition_by) or 'none'})"
        )
    else:
        return
    raise ContractError(
        f"{definition.name} at {place} has {difference}; delete or move the table and run the stage again"
    )


def _add_columns(spark: SparkSession, place: str, log: TableLog, columns: Sequence[StructField]) -> TableLog:
    """The table with more columns, which are null in the rows that it has; one commit."""
    if log.folder is None:
        add_named_columns(spark, place, columns)
        return _reopen(place)
    require_writable(log)
    add_columns(log, StructType(list(columns)).json())
    return _reopen(place, version=log.version + 1)


def _create(spark: SparkSession, place: str, definition: Definition) -> TableLog:
    if is_table_name(place):
        folder = find_folder(place)
        create_named(
            spark,
            place,
            definition.schema,
            description=definition.row,
            partition_by=definition.partition_by,
            properties=definition.properties,
            folder=folder,
        )
        return _reopen(place, version=None if folder is None else 0)
    create_table(
        place,
        definition.schema.json(),
        name=definition.name,
        description=definition.row,
        partition_by=definition.partition_by,
        properties=definition.properties,
    )
    return _reopen(place, version=0)


def _require_unbroken(
    spark: SparkSession, log: TableLog, definition: Definition, checks: dict[str, str]
) -> None:
    assert log.folder is not None, "Spark checks the rows of the others"
    present = spark.read.format("delta").option("versionAsOf", log.version).load(spark_path(log.folder))
    for name, check in checks.items():
        broken = present.where(breaks(check)).count()
        if broken:
            raise ContractError(
                f"{definition.name} at {log.path}: {broken:,} rows break the constraint {name} ({check}), "
                "which is new; correct or delete them"
            )


def _reopen(place: str, version: int | None = None) -> TableLog:
    log = open_log(place, version=version)
    assert log is not None, "it was written just now"
    return log
