"""Rows that are computed once: written to shards in the folder of their table, and not yet part of it.

The digest, the counts and the key hashes are those of the rows in the shards, measured by the tasks that
wrote them. Nothing can come between: a lost executor, damaged shuffle files or a second attempt cost files
that no commit names, and never rows other than those digested. The price is one job; text is written once and
read back only where a caller asks for `rows`.
"""

import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructField, StructType

from pipelines.connect import is_connect
from pipelines.contract import ContractError, Definition, breaks
from pipelines.digest import Totals, hash_rows
from pipelines.keys import (
    MAX_SUSPECTS,
    RANGE_KEYS,
    KeyHashes,
    choose_num_ranges,
    find_repeated,
    make_range_reader,
    merge_keys,
    pack_inline,
)
from pipelines.paths import spark_path
from pipelines.pin import TableLog
from pipelines.shards import FAULTS, HASH, KEY, RESULT, Shard, ShardPlan, make_shard_writer
from pipelines.storage import Folder
from pipelines.stores import carry

logger = logging.getLogger(__name__)

MOST_KEYS = 100_000  # new keys that travel to those of a table; more are shuffled with them


@dataclass(kw_only=True, slots=True)
class HeldRows:
    """Rows in shards that are not part of a table yet, and what was measured while they were written."""

    spark: SparkSession
    schema: StructType
    path: str
    """Folder that the paths of the shards are relative to."""
    shards: tuple[Shard, ...] = ()
    totals: Totals = field(default_factory=Totals)
    num_nulls: dict[str, int] = field(default_factory=dict)
    """Required column -> rows where it is null."""
    num_violations: dict[str, int] = field(default_factory=dict)
    """Check -> rows that break it."""
    keys: KeyHashes = field(default_factory=KeyHashes)
    may_be_committed: bool = False
    """True from a commit that names the shards until it is known that no commit does: they must not be
    deleted."""
    _rows: DataFrame | None = None

    @property
    def digest(self) -> str:
        """32 hex digits."""
        return self.totals.digest

    @property
    def num_rows(self) -> int:
        return self.totals.num_rows

    @property
    def folder(self) -> str:
        """Folder of the shards, relative to `path`; empty if there are none. No other write uses it."""
        return self.shards[0].path.partition("/")[0] if self.shards else ""

    @property
    def rows(self) -> DataFrame:
        """The rows, read back from the shards."""
        if self._rows is None:
            self._rows = self._read()
        return self._rows

    def note_commits(self, log: TableLog | None, *, after: int) -> None:
        """The shards may be deleted unless a commit after version `after` names them. The log decides: a
        store that repeats a put whose answer was lost reports our own commit as a conflict, and another
        driver may have committed equal inputs with shards of its own."""
        if self.may_be_committed and log is not None:
            self.may_be_committed = log.names_shards(self.folder, after=after)

    def _read(self) -> DataFrame:
        return read_shards(self.spark, self.schema, self.path, [shard.path for shard in self.shards])


def read_shards(spark: SparkSession, schema: StructType, path: str, shards: Sequence[str]) -> DataFrame:
    """The rows of shards below the folder `path`. Every column may be null."""
    columns = StructType([StructField(c.name, c.dataType) for c in schema])
    if not shards:
        return spark.createDataFrame([], columns)
    files = [spark_path(f"{path.rstrip('/')}/{shard}") for shard in shards]
    # Spark takes a path with these characters for a pattern.
    escaped = ["".join(f"\\{c}" if c in "{}*" else c for c in file) for file in files]
    return spark.read.schema(columns).parquet(*escaped)


@contextmanager
def hold_rows(rows: DataFrame, path: str, definition: Definition) -> Iterator[HeldRows]:
    """Compute the rows now, once, into shards in the folder `path`.

    At the end of the context, shards that no commit names are deleted. A killed process leaves them behind;
    no reader of the table sees them, and VACUUM removes them.
    """
    held = _write_shards(rows, path, definition)
    try:
        yield held
    finally:
        if held.shards and not held.may_be_committed:
            _delete_folder(held.path, held.folder)


def _write_shards(rows: DataFrame, path: str, definition: Definition) -> HeldRows:
    rules = [F.col(name).isNull() for name in definition.required]
    rules += [F.expr(breaks(check)) for check in definition.checks.values()]
    plan = ShardPlan(
        table=path,
        folder=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}",
        schema=_file_schema(rows.schema),
        partition_by=tuple(definition.partition_by),
        num_rules=len(rules),
    )
    measured = rows.select(
        "*",
        hash_rows(rows.schema, definition.digested).alias(HASH),
        _combine_bits(rules).alias(FAULTS),
        F.xxhash64(*definition.key).alias(KEY),
    )
    try:
        results = measured.mapInArrow(carry(make_shard_writer(plan)), RESULT).collect()
    except BaseException:
        _delete_folder(path, plan.folder)
        raise
    return _add_up(results, rows, path, definition)


def _add_up(results: Sequence[Row], rows: DataFrame, path: str, definition: Definition) -> HeldRows:
    totals = reduce(
        Totals.add,
        (Totals(num_rows=each.num_rows, xor=each.xor, sum=int(each["sum"])) for each in results),
        Totals(),
    )
    names = [*definition.required, *definition.checks]
    faults = [sum(counts) for counts in zip(*(result.faults for result in results), strict=True)]
    faulty = dict(zip(names, faults or [0] * len(names), strict=True))
    # In the order of their names: the log of a table then does not depend on which task ended first.
    shards = sorted(
        (Shard(**shard) for result in results for shard in json.loads(result.shards)),
        key=lambda shard: shard.path,
    )
    return HeldRows(
        spark=rows.sparkSession,
        schema=rows.schema,
        path=path,
        shards=tuple(shards),
        totals=totals,
        num_nulls={name: faulty[name] for name in definition.required},
        num_violations={name: faulty[name] for name in definition.checks},
        keys=merge_keys(
            KeyHashes(inline=bytes(result["keys"]), files=tuple(result.key_files)) for result in results
        ),
    )


def find_new_rows(held: HeldRows, key: Sequence[str], table: DataFrame) -> DataFrame | None:
    """The rows whose key is not in the table; None if that is all of them. Keys alone are compared; rows are
    read again only if some of them must be left out."""
    keys = held.rows.select(*key)
    keys = F.broadcast(keys) if held.num_rows <= MOST_KEYS else keys
    present = table.select(*key).alias("table").join(keys.alias("held"), _equal(key), "left_semi")
    if not present.count():
        return None
    return held.rows.alias("held").join(present.alias("table"), _equal(key), "left_anti")


def _equal(key: Sequence[str]) -> Column:
    """Whether the rows `held` and `table` have the same key; null equals null."""
    same = (F.col(f"held.{name}").eqNullSafe(F.col(f"table.{name}")) for name in key)
    return reduce(Column.__and__, same)


def require_contract(held: HeldRows, definition: Definition) -> None:
    """Raises ContractError with the count and the first key of rows that have nulls in required columns,
    break a constraint or repeat a key."""
    for name, count in held.num_nulls.items():
        if count:
            first = _first_key(held, definition, f"`{name}` IS NULL")
            raise ContractError(
                f"{definition.name}: {count:,} of {held.num_rows:,} rows have null {name}; first at {first}; "
                "fix the source or the mapping of fields"
            )
    for name, count in held.num_violations.items():
        if count:
            check = definition.checks[name]
            raise ContractError(
                f"{definition.name}: {count:,} of {held.num_rows:,} rows break the constraint {name} "
                f"({check}); first at {_first_key(held, definition, breaks(check))}"
            )
    suspects = find_suspects(held)
    repeated = first_repeated_key(held, definition.key, suspects) if suspects else None
    if repeated is not None:
        first_key, extra = repeated
        raise ContractError(
            f"{definition.name}: {extra:,} of {held.num_rows:,} rows repeat a key "
            f"({', '.join(definition.key)}); first {first_key}"
        )


def find_suspects(held: HeldRows) -> list[int]:
    """The hashes of keys that occur more than once; if there are many, the smallest. Deletes the key files.

    Compared on the driver, or, above RANGE_KEYS rows, by tasks that read one range of the key files each. The
    client of a Spark Connect server may not reach the files, so tasks read them at any size.
    """
    folder, keys, is_client = f"{held.folder}/keys", held.keys, is_connect(held.spark)
    num_ranges = choose_num_ranges(held.num_rows, RANGE_KEYS)
    try:
        if num_ranges == 1 and not (is_client and keys.files):
            return find_repeated(held.path, keys)
        keys = keys if is_client else pack_inline(held.path, folder, keys)
        reader = make_range_reader(held.path, keys, num_ranges)
        ranges = held.spark.range(0, num_ranges, 1, num_ranges)
        return sorted(row.hash for row in ranges.mapInArrow(carry(reader), "hash BIGINT").collect())
    finally:
        if keys.files:
            _delete_folder(held.path, folder)


def _first_key(held: HeldRows, definition: Definition, condition: str) -> dict[str, Any]:
    """The smallest key of the rows that meet the condition."""
    smallest = F.min(F.struct(*definition.key)).alias("first")
    return dict(held.rows.where(condition).agg(smallest).collect()[0]["first"].asDict())


def first_repeated_key(
    held: HeldRows, key: Sequence[str], suspects: Sequence[int]
) -> tuple[dict[str, Any], int] | None:
    """(the smallest key that occurs more than once, rows beyond the first of their key), or None if all keys
    differ. `suspects` are the hashes that occur more than once; if they are many, all keys are shuffled."""
    rows = held.rows
    if len(suspects) < MAX_SUSPECTS:
        rows = rows.where(F.xxhash64(*key).isin(list(suspects)))
    repeated = rows.groupBy(*key).count().where("count > 1")
    totals = repeated.agg(F.min(F.struct(*key)).alias("first"), F.sum(F.col("count") - 1).alias("extra"))
    found = totals.collect()[0]
    # Different keys with one hash: one table in 150 of 500 million rows.
    return None if found["first"] is None else (found["first"].asDict(), found["extra"])


def _file_schema(schema: StructType) -> pa.Schema:
    """Every column may be null: nulls in required columns are counted, and reported with their number."""
    columns = to_arrow_schema(schema, timezone="UTC")
    return pa.schema([column.remove_metadata().with_nullable(True) for column in columns])


def _combine_bits(rules: Sequence[Column]) -> Column:
    """Bit i = rule i is true."""
    bits = [F.when(rule, F.lit(1 << place)).otherwise(F.lit(0)) for place, rule in enumerate(rules)]
    return reduce(Column.bitwiseOR, bits, F.lit(0)).cast("long")


def _delete_folder(path: str, folder: str) -> None:
    try:
        Folder(path).delete(folder)
    except Exception as fault:
        # It must not replace the error that ends the context.
        logger.warning("%s/%s was not deleted (%s); VACUUM removes it", path, folder, fault)
