"""What the rows of a table must be, and the error for rows that are not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

PROPERTIES = {
    # Reader protocol 1: a GPU worker reads the Parquet files with Arrow and no JVM.
    "delta.minReaderVersion": "1",
    # Writer protocol 3 knows constraints.
    "delta.minWriterVersion": "3",
    "delta.enableDeletionVectors": "false",
    "delta.columnMapping.mode": "none",
    # VACUUM's default of 7 days would erase the version that a model was trained from. `retention` deletes
    # versions that nothing names.
    "delta.deletedFileRetentionDuration": "interval 365 days",
    "delta.logRetentionDuration": "interval 365 days",
    # Spark's default; that of delta-rs is 100.
    "delta.checkpointInterval": "10",
}


class ContractError(ValueError):
    """Rows that break the definition of their table; nothing was written."""


class ChangedMeanwhileError(ContractError):
    """Rows that are not those that were counted, because what they are made from changed. The next run reads
    it as it is then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """A table as the modules below `delta` see it."""

    name: str
    row: str
    """What one row is."""
    schema: StructType
    key: tuple[str, ...]
    digested: tuple[str, ...]
    """Columns of the digest."""
    partition_by: tuple[str, ...] = ()
    checks: Mapping[str, str]
    """Constraint name -> SQL condition. As in Delta, a null result breaks it."""
    later: tuple[str, ...] = ()
    """Last columns, without NOT NULL, that an earlier table may lack."""

    @property
    def required(self) -> list[str]:
        """Columns without nulls."""
        return [column.name for column in self.schema if not column.nullable]

    @property
    def properties(self) -> dict[str, str]:
        """Properties of a new table, constraints among them."""
        return {**PROPERTIES, **constraint_properties(self.checks)}


def constraint_properties(checks: Mapping[str, str]) -> dict[str, str]:
    """Constraints as Delta stores them."""
    return {f"delta.constraints.{name}": condition for name, condition in checks.items()}


def breaks(condition: str) -> str:
    """SQL that is true for a row that breaks the condition."""
    return f"NOT coalesce(({condition}), false)"


def find_lacking(present: Sequence[str], definition: Definition) -> list[str]:
    """The columns that an earlier table with these columns lacks and may lack, else none."""
    names = definition.schema.names
    lacking = names[len(present) :]
    return lacking if names[: len(present)] == list(present) and set(lacking) <= set(definition.later) else []


def complete_columns(rows: DataFrame, definition: Definition) -> DataFrame:
    """Rows of a table, with null in the columns that it may lack."""
    lacking = find_lacking(rows.columns, definition)
    nulls = {name: F.lit(None).cast(definition.schema[name].dataType) for name in lacking}
    return rows.withColumns(nulls) if nulls else rows  # Spark Connect refuses no columns


def select_columns(rows: DataFrame, definition: Definition) -> DataFrame:
    """The columns in the order of the definition. Raises ContractError if names or types differ."""
    wanted, given = definition.schema, {column.name: column.dataType for column in rows.schema}
    missing = [name for name in wanted.names if name not in given]
    extra = [name for name in given if name not in wanted.names]
    if missing or extra:
        raise ContractError(f"{definition.name}: columns missing {missing}, not in the definition {extra}")
    wrong = [
        f"{c.name} is {given[c.name].simpleString()}, not {c.dataType.simpleString()}"
        for c in wanted
        if given[c.name].simpleString() != c.dataType.simpleString()
    ]
    if wrong:
        raise ContractError(f"{definition.name}: {'; '.join(wrong)}")
    return rows.select(*wanted.names)
