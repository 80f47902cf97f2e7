"""Writes to tables that a catalog owns: Spark commits, so that the catalog sees every version.

Rows wait in a staging folder (`spark.distributary.staging`, else a folder of the warehouse) and are copied by
Spark into files that the catalog places. Writes are numbered by Delta's transactions: a write takes the
number after the last one in the log that it was prepared for. The second of two writers then has a number
that is taken, and gets a conflict, or Delta skips its write. Writes to the path of the table take numbers
too, so writers may use the name or the path.

On S3, Delta's log store of Spark is safe for one driver at a time only. Where no catalog coordinates the
commits, Spark only creates the table, and the rest is written as by its path: see `catalog.find_folder`.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from delta import exceptions as delta_exceptions
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType

from pipelines.catalog import has_table, quote_name
from pipelines.commit import ConflictError
from pipelines.commit_record import encode_record
from pipelines.held import HeldRows
from pipelines.lease import Lease, LeaseHeldError
from pipelines.pin import TableLog
from pipelines.storage import Folder

STAGING = "spark.distributary.staging"
"""Spark setting: folder or URI that driver and executors can write."""
CREATE_SECONDS, LOOK_SECONDS = 120.0, 0.5
"""How long to wait for another driver that creates the table, which takes a few seconds; between looks."""
CONFLICTS = tuple(getattr(delta_exceptions, name) for name in delta_exceptions.__all__)
"""Another writer committed first. The Python classes have no common base."""


def staging_folder(spark: SparkSession) -> str:
    """Where rows wait for their commit. Each write has a folder of its own in it, and deletes it."""
    given = spark.conf.get(STAGING, None)
    if given:
        return given.rstrip("/")
    warehouse = spark.conf.get("spark.sql.warehouse.dir") or ""
    return re.sub(r"^file:/+", "/", f"{warehouse.rstrip('/')}/_distributary")


def create_named(
    spark: SparkSession,
    name: str,
    schema: StructType,
    *,
    description: str,
    partition_by: Sequence[str],
    properties: Mapping[str, str],
    folder: str | None,
) -> None:
    """Create an empty managed table; do nothing if there is one. The schema (database) must exist.

    With `folder`, as `catalog.find_folder` gives it, drivers create the table one after the other.
    """
    builder = DeltaTable.createIfNotExists(spark).tableName(quote_name(name)).comment(description)
    builder = builder.addColumns(schema).partitionedBy(*partition_by)
    for key, value in properties.items():
        builder = builder.property(key, value)
    if folder is None:
        builder.execute()
    else:
        create_alone(name, folder, builder.execute)


def create_alone(name: str, folder: str, create: Callable[[], object]) -> None:
    """Call `create` under a lease beside the table's `folder`, unless there is a table; wait while another
    driver has the lease.

    Two drivers that let Spark create a table on S3 would both write its first version, the second one with
    another table id. Raises LeaseHeldError if the lease is not free after CREATE_SECONDS.
    """
    above, _, base = folder.rstrip("/").rpartition("/")
    deadline = time.monotonic() + CREATE_SECONDS
    while not has_table(name):
        try:
            with Lease(Folder(f"{above}/_distributary/{base}")) as lease:
                if not has_table(name):
                    lease.require()
                    create()
        except LeaseHeldError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)


def commit_named(log: TableLog, held: HeldRows, *, replace: bool, record: Mapping[str, Any]) -> None:
    """Add the rows on top of `log`, or `replace` all rows by them, in one commit of Spark.

    `record` has the name of the table, which names the sequence of numbers that all writers share, and the
    number. Raises ConflictError if another writer took the number first; if Delta notices that before it
    writes, it skips the write and says nothing, so look at the log.
    """
    writer = (
        held.rows.writeTo(quote_name(log.path))
        .option("txnAppId", record["table"])
        .option("txnVersion", str(record["number"]))
        .option("userMetadata", encode_record(record))
    )
    try:
        if replace:
            writer.overwrite(F.lit(True))
        else:
            writer.append()
    except CONFLICTS as conflict:
        raise ConflictError(f"{log.path} has a newer version than {log.version}") from conflict


def add_named_columns(spark: SparkSession, name: str, columns: Sequence[StructField]) -> None:
    """Add columns at the end."""
    texts = ", ".join(
        f"{each.name} {each.dataType.simpleString()} COMMENT '{each.metadata['comment']}'" for each in columns
    )
    spark.sql(f"ALTER TABLE {quote_name(name)} ADD COLUMNS ({texts})")


def add_constraints(spark: SparkSession, name: str, checks: Mapping[str, str]) -> None:
    """Add constraints that the table lacks; Delta checks the rows that are there."""
    for check, condition in checks.items():
        spark.sql(f"ALTER TABLE {quote_name(name)} ADD CONSTRAINT {check} CHECK ({condition})")
