"""Sequences of a pinned table version for one rank, straight from Delta's Parquet files with Arrow: no JVM.

A split is copied once per machine into flat memory-mapped arrays (arrays.py), so memory stays bounded by the
page cache, and the ranks of a machine share the copy. The copy is named by table id, version, split and
format. Where it exists, Delta is not touched.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipelines.dataset.arrays import FORMAT, FlatRows, mark_runs, write_arrays
from pipelines.dataset.local_copies import copies_folder, open_copy
from pipelines.dataset.rows import NO_LABEL, Rows
from pipelines.stores import delta_options

VALUE_COLUMNS = [
    "sequence_id",
    "num_tokens",
    "input_ids",
    "targets",
    "segments",
    "label",
    "num_targets",
    "num_bytes",
]


class SequenceReader:
    """Random access to the rows of one split. Rows are numbered by sequence_id."""

    def __init__(self, folder: Path) -> None:
        self._tokens = _map(folder, "tokens")
        self._is_target = _map(folder, "is_target")
        self._starts = _map(folder, "starts")
        self._segment_lengths = _map(folder, "segment_lengths")
        self._segment_starts = _map(folder, "segment_starts")
        self._labels = _map(folder, "labels")
        self._num_bytes = _map(folder, "num_bytes")
        self.num_targets = _map(folder, "num_targets")
        """(num_rows,) int64 terms that each row adds to the loss."""
        self.lengths = _map(folder, "num_tokens")
        """(num_rows,) int32 tokens of each row."""

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, ids: np.ndarray) -> Rows:
        """The rows `ids`, (num_rows,) int64, as views of the memory maps where possible."""
        tokens = list(zip(self._starts[ids].tolist(), self._starts[ids + 1].tolist(), strict=True))
        segments = list(
            zip(self._segment_starts[ids].tolist(), self._segment_starts[ids + 1].tolist(), strict=True)
        )
        return Rows(
            input_ids=[self._tokens[start:stop] for start, stop in tokens],
            is_target=[self._is_target[start:stop] for start, stop in tokens],
            segment_lengths=[self._segment_lengths[start:stop] for start, stop in segments],
            labels=self._labels[ids],
            num_targets=self.num_targets[ids],
            num_bytes=self._num_bytes[ids],
        )


def open_split(
    path: str, *, table_id: str, version: int, split: str, copies: Path | None = None
) -> SequenceReader:
    """The rows of `split` at `version`; the first caller on a machine makes the copy, the others wait for it.

    Raises ValueError if the table at `path` is not the pinned one, or if its sequence ids have gaps.
    """
    with open_copy(
        copies or copies_folder(),
        copy_name(table_id, version, split),
        lambda folder: _copy_split(_open_pinned(path, table_id, version), split, folder),
    ) as folder:
        return SequenceReader(folder)


def copy_name(table_id: str, version: int, split: str) -> str:
    """Name of the folder that holds the arrays of a split, inside the folder of copies."""
    return f"{table_id}-{version}-{split}-{FORMAT}"


def write_split(folder: Path, rows: Rows) -> None:
    """Write `rows` as the arrays that SequenceReader(folder) maps: row i gets sequence_id i. No Delta needed.

    With `folder` = copies / copy_name(...), open_split finds them and looks for no table.

    Raises ValueError if a row contradicts itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_tokens = np.array([len(tokens) for tokens in rows.input_ids], dtype=np.int64)
    num_segments = np.array([len(lengths) for lengths in rows.segment_lengths], dtype=np.int64)
    everything = FlatRows(
        ids=np.arange(len(num_tokens)),
        num_tokens=num_tokens,
        num_segments=num_segments,
        tokens=_join(rows.input_ids, np.int32),
        is_target=_join(rows.is_target, np.bool_),
        segment_lengths=_join(rows.segment_lengths, np.int32),
        labels=rows.labels,
        num_targets=rows.num_targets,
        num_bytes=rows.num_bytes,
    )
    write_arrays(folder, [require_consistent(everything)], num_tokens=num_tokens, num_segments=num_segments)


def require_consistent(rows: FlatRows) -> FlatRows:
    """The rows themselves. Raises ValueError if one contradicts itself: a model would learn from the wrong
    tokens in silence."""
    starts = np.cumsum(rows.segment_lengths, dtype=np.int64) - rows.segment_lengths  # (all segments,)
    row_of_segment = np.repeat(np.arange(len(rows.ids)), rows.num_segments)
    row_of_token = np.repeat(np.arange(len(rows.ids)), rows.num_tokens)
    covered = np.bincount(row_of_segment, weights=rows.segment_lengths, minlength=len(rows.ids))
    is_empty = np.bincount(row_of_segment, weights=rows.segment_lengths < 1, minlength=len(rows.ids))
    _require(
        (covered == rows.num_tokens) & (is_empty == 0), rows, "segments that do not add up to num_tokens"
    )
    first_is_target = np.bincount(row_of_segment, weights=rows.is_target[starts], minlength=len(rows.ids))
    _require(first_is_target == 0, rows, "a target that is the first token of its segment")
    num_targets = np.bincount(row_of_token, weights=rows.is_target, minlength=len(rows.ids))
    _require(
        num_targets + (rows.labels != NO_LABEL) == rows.num_targets,
        rows,
        "targets that do not add up to num_targets",
    )
    return rows


def _require(holds: np.ndarray, rows: FlatRows, fault: str) -> None:
    if not holds.all():
        raise ValueError(
            f"sequence {int(rows.ids[np.argmin(holds)])} has {fault} (and {int((~holds).sum()) - 1} more); "
            "run the dataset stage again"
        )


def _map(folder: Path, name: str) -> np.ndarray:
    # A plain array over the map: its slices cost a third of those of np.memmap.
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))


def _join(arrays: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)


def _open_pinned(path: str, table_id: str, version: int) -> DeltaTable:
    try:
        table = DeltaTable(path, version=version, storage_options=delta_options(path))
    except DeltaError as error:
        raise FileNotFoundError(
            f"sequences at {path} no longer have version {version} ({error}); run the dataset stage again"
        ) from error
    if str(table.metadata().id) != table_id:
        raise ValueError(
            f"sequences at {path} were deleted and written again (table id {table.metadata().id}, pinned "
            f"{table_id}); "
            "run the dataset stage and the stages after it again"
        )
    return table


def _copy_split(table: DeltaTable, split: str, folder: Path) -> None:
    dataset = table.to_pyarrow_dataset()
    chosen = pc.field("split") == split
    sizes = ["sequence_id", "num_tokens", "segments"]
    parts: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.int64),) * 3]
    for batch in dataset.to_batches(columns=sizes, filter=chosen):
        num_segments = pc.list_value_length(batch["segments"])
        parts.append(tuple(column.to_numpy() for column in (batch[sizes[0]], batch[sizes[1]], num_segments)))
    ids, num_tokens, num_segments = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(ids)
    if not np.array_equal(ids[order], np.arange(len(ids))):
        raise ValueError(
            f"sequence_id of split {split} must run from 0 to {len(ids) - 1} without gaps; "
            "run the dataset stage again"
        )

    def read_batches() -> Iterator[FlatRows]:
        for batch in dataset.to_batches(columns=VALUE_COLUMNS, filter=chosen):
            yield require_consistent(_flatten(batch))

    write_arrays(folder, read_batches(), num_tokens=num_tokens[order], num_segments=num_segments[order])


def _flatten(batch: pa.RecordBatch) -> FlatRows:
    """Arrow's own buffers as NumPy arrays: no Python step per row."""
    num_tokens = batch["num_tokens"].to_numpy().astype(np.int64)
    runs = batch["targets"].flatten()
    # A run's place in its row, then its place among all tokens of the batch.
    row_starts = np.repeat(
        np.cumsum(num_tokens) - num_tokens, pc.list_value_length(batch["targets"]).to_numpy()
    )
    is_target = mark_runs(
        row_starts + _field(runs, "first_token"), _field(runs, "num_tokens"), size=int(num_tokens.sum())
    )
    return FlatRows(
        ids=batch["sequence_id"].to_numpy(),
        num_tokens=num_tokens,
        num_segments=pc.list_value_length(batch["segments"]).to_numpy(),
        tokens=batch["input_ids"].flatten().to_numpy(),
        is_target=is_target,
        segment_lengths=_field(batch["segments"].flatten(), "num_tokens"),
        labels=batch["label"].fill_null(NO_LABEL).to_numpy(zero_copy_only=False),
        num_targets=batch["num_targets"].to_numpy(),
        num_bytes=batch["num_bytes"].to_numpy(),
    )


def _field(structs: pa.StructArray, name: str) -> np.ndarray:
    return pc.struct_field(structs, name).to_numpy(zero_copy_only=False)
