"""The longest rows of a split, for who plans with the worst case: read from one file of the table, without a
copy of the split.
"""

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


def read_longest(path: str, *, table_id: str, version: int, split: str, num_rows: int) -> Rows:
    """At most `num_rows` rows, longest first, of the file that has the longest row; none of an empty split.

    The log knows the longest row of each file; without statistics, the first file is taken. Raises as
    `open_split` does.
    """
    return repeat_on_hdfs(path, lambda: _read(path, table_id, version, split, num_rows))


def _read(path: str, table_id: str, version: int, split: str, num_rows: int) -> Rows:
    pinned = open_pinned(path, table_id=table_id, version=version)
    require_plain_files(path, pinned)
    require_columns(path, version, list_columns(pinned), NEEDED_COLUMNS)
    of_split = pc.field("split") == split
    files = pinned.to_pyarrow_dataset()
    schema = add_later_columns(files.schema)
    longest = _find_longest(pa.table(pinned.get_add_actions(flatten=True)).to_pydict(), split)
    file = next(iter(files.get_fragments(filter=of_split & (pc.field("num_tokens") >= longest))), None)
    if file is None:
        return _make_rows(schema.empty_table())
    lengths = file.to_table(columns=["num_tokens"], filter=of_split, schema=schema)["num_tokens"]
    if not len(lengths):
        return _make_rows(schema.empty_table())
    enough = np.sort(lengths.to_numpy())[::-1][:num_rows][-1]
    found = file.to_table(
        columns=VALUE_COLUMNS, filter=of_split & (pc.field("num_tokens") >= enough), schema=schema
    )
    return _make_rows(found.sort_by([("num_tokens", "descending"), ("sequence_id", "ascending")])[:num_rows])


def _find_longest(files: dict[str, list[object]], split: str) -> int:
    """Tokens of the longest row; 0 if the log does not say it."""
    nothing: list[object] = [None] * len(files["path"])
    splits, most = (files.get(name, nothing) for name in ("partition.split", "max.num_tokens"))
    known = [each for of, each in zip(splits, most, strict=True) if of in (None, split)]
    return max((each for each in known if isinstance(each, int)), default=0)


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
