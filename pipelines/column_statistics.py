"""Statistics of a file: those of its Parquet footer, and Delta's made from them.

Readers skip files and row groups that cannot match.
"""

import json
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

STATISTICS_CHARS = 32
"""Longer texts get no smallest and largest value; Delta cuts them to this length."""


def list_measured(schema: pa.Schema) -> list[str]:
    """The columns for which a Parquet file keeps statistics: all but fractions, arrays, maps and structs.

    Parquet leaves NaN out of its statistics, but Spark takes it for the largest number: with statistics, its
    filter `score > 0.7` would skip a row group that has NaN beside smaller numbers.
    """
    return [
        field.name
        for field in schema
        if not (pa.types.is_nested(field.type) or pa.types.is_floating(field.type))
    ]


def summarize_columns(metadata: pq.FileMetaData) -> str:
    """Delta's statistics of a file, as JSON: for columns that are no arrays, maps or structs.

    A column without smallest and largest value (binary, truth values, decimals, long texts) has its nulls
    only; one that `list_measured` leaves out has nothing.
    """
    lowest: dict[str, Any] = {}
    highest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    unbounded: set[str] = set()
    uncounted: set[str] = set()
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            name, found = column.path_in_schema, column.statistics
            if "." in name or metadata.schema.column(index).max_repetition_level:
                continue
            if found is None or not found.has_null_count:
                uncounted.add(name)
                continue
            nulls[name] = nulls.get(name, 0) + found.null_count
            if found.null_count == column.num_values:
                continue
            bounds = _bounds(found) if found.has_min_max else None
            if bounds is None:
                unbounded.add(name)
            else:
                lowest[name] = min(lowest.get(name, bounds[0]), bounds[0])
                highest[name] = max(highest.get(name, bounds[1]), bounds[1])
    bounded = lowest.keys() - unbounded - uncounted
    summary = {
        "numRecords": metadata.num_rows,
        "minValues": {name: _as_json(value) for name, value in lowest.items() if name in bounded},
        "maxValues": {name: _as_json(value) for name, value in highest.items() if name in bounded},
        "nullCount": {name: count for name, count in nulls.items() if name not in uncounted},
    }
    return json.dumps(summary, ensure_ascii=False)


def _bounds(found: pq.Statistics) -> tuple[Any, Any] | None:
    """Smallest and largest value of a column of a row group; None where Delta takes none."""
    low, high = found.min, found.max
    # Files of before have statistics of fractions, without NaN.
    if isinstance(low, bool) or not isinstance(low, (int, str, date)):
        return None
    if isinstance(low, str) and max(len(low), len(high)) > STATISTICS_CHARS:
        return None
    return low, high


def _as_json(value: Any) -> Any:
    """Times as Delta writes them: in UTC, with milliseconds. Delta adds one to the largest when it reads."""
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
    return value.isoformat() if isinstance(value, date) else value
