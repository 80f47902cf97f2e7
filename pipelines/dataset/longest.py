"""The longest rows of a split, for who plans with the worst case: read from one file of the table, without a
copy of the split.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.arrays import mark_runs
from pipelines.dataset.copying import NEEDED_COLUMNS, VALUE_COLUMNS
from pipelines.dataset.pinned_files import (
    add_later_columns,
    list_columns,
    open_pinned,
    require_columns,
    require_plain_files,
)
from pipelines.dataset.rows import LABEL_SET, NO_LABEL, Rows
from pipelines.repeating import repeat_on_hdfs


class Longest(NamedTuple):
    """See `read_longest`."""

    rows: Rows
    """Longest first, then by id."""
    num_rows: int | None
    """Of the whole split; None = the log does not say it."""


def read_longest(path: str, *, table_id: str, version: int, split: str, num_rows: int) -> Longest:
    """At most `num_rows` rows of the file that has the longest row; none of an empty split.

    The log knows the longest row of each file; without statistics, the first file is taken. In memory are the
    lengths of that file and the rows that are given, however many are as long. Raises as `open_split` does.
    """
    return repeat_on_hdfs(path, lambda: _read(path, table_id, version, split, num_rows))


def _read(path: str, table_id: str, version: int, split: str, num_rows: int) -> Longest:
    pinned = open_pinned(path, table_id=table_id, version=version)
    require_plain_files(path, pinned)
    require_columns(path, version, list_columns(pinned), NEEDED_COLUMNS)
    of_split = pc.field("split") == split
    files = pinned.to_pyarrow_dataset()
    schema = add_later_columns(files.schema)
    log = pa.table(pinned.get_add_actions(flatten=True)).to_pydict()
    longest, counts = _find_longest(log, split), _of_split(log, "num_records", split)
    num_known = [each for each in counts if isinstance(each, int)]
    total = sum(num_known) if len(num_known) == len(counts) else None
    file = next(iter(files.get_fragments(filter=of_split & (pc.field("num_tokens") >= longest))), None)
    if file is None:
        return Longest(_make_rows(schema.empty_table()), total)
    lengths = file.to_table(columns=["num_tokens", "sequence_id"], filter=of_split, schema=schema)
    order = [("num_tokens", "descending"), ("sequence_id", "ascending")]
    # By id, not by length: of packed sequences, most rows of a file may be as long as the longest.
    chosen = lengths.sort_by(order)["sequence_id"][:num_rows]
    wanted = of_split & pc.field("sequence_id").isin(chosen)
    found = file.to_table(columns=VALUE_COLUMNS, filter=wanted, schema=schema)
    return Longest(_make_rows(found.sort_by(order)), total)


def _find_longest(files: dict[str, list[object]], split: str) -> int:
    """Tokens of the longest row; 0 if the log does not say it."""
    known = _of_split(files, "max.num_tokens", split)
    return max((each for each in known if isinstance(each, int)), default=0)


def _of_split(files: dict[str, list[object]], name: str, split: str) -> list[object]:
    """What the log says under `name` of each file that may have rows of the split; None = nothing."""
    nothing: list[object] = [None] * len(files["path"])
    splits, values = (files.get(each, nothing) for each in ("partition.split", name))
    return [value for of, value in zip(splits, values, strict=True) if of in (None, split)]


def _make_rows(table: pa.Table) -> Rows:
    rows = table.to_pylist()
    has_sets = any(row["labels"] is not None for row in rows)
    return Rows(
        input_ids=[np.array(row["input_ids"], dtype=np.int32) for row in rows],
        is_target=[
            mark_runs(
                np.array([run["first_token"] for run in row["targets"]], dtype=np.int64),
                np.array([run["num_tokens"] for run in row["targets"]], dtype=np.int64),
                size=row["num_tokens"],
            )
            for row in rows
        ],
        segment_lengths=[
            np.array([each["num_tokens"] for each in row["segments"]], dtype=np.int32) for row in rows
        ],
        labels=np.array([_code_label(row["label"], row["labels"]) for row in rows], dtype=np.int64),
        num_targets=np.array([row["num_targets"] for row in rows], dtype=np.int64),
        num_bytes=np.array([row["num_bytes"] for row in rows], dtype=np.int64),
        label_sets=[np.array(row["labels"] or [], dtype=np.int32) for row in rows] if has_sets else None,
    )


def _code_label(label: int | None, labels: list[int] | None) -> int:
    """As rows.Rows has it."""
    if labels is not None:
        return LABEL_SET
    return NO_LABEL if label is None else label
