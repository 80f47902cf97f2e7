"""One split as flat arrays on disk, memory-mapped by every rank of a machine. NumPy only.

Values of all rows lie end to end; a `starts` array says where each row begins, so any row is one slice away.

| file | shape | type | content |
|---|---|---|---|
| tokens | (all tokens,) | int32 | input_ids of row 0, row 1, ... |
| is_target | (all tokens,) | bool | tokens that the loss counts |
| starts | (num_rows + 1,) | int64 | first token of each row; the last one is the number of all tokens |
| num_tokens | (num_rows,) | int32 | tokens of each row |
| segment_lengths | (all segments,) | int32 | tokens of each segment |
| segment_starts | (num_rows + 1,) | int64 | first segment of each row |
| labels, num_targets, num_bytes | (num_rows,) | int64 | see reader.Rows |
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

FORMAT = 2
"""Raised when the files or their meaning change: a copy of another format is never read."""
ROW_VALUES = ("labels", "num_targets", "num_bytes")


class FlatRows(NamedTuple):
    """Some rows with their values end to end, as Arrow holds them."""

    ids: np.ndarray
    """(num_rows,) int64: number of each row in the split."""
    num_tokens: np.ndarray
    """(num_rows,)"""
    num_segments: np.ndarray
    """(num_rows,)"""
    tokens: np.ndarray
    """(sum of num_tokens,) int32"""
    is_target: np.ndarray
    """(sum of num_tokens,) bool"""
    segment_lengths: np.ndarray
    """(sum of num_segments,) int32"""
    labels: np.ndarray
    num_targets: np.ndarray
    num_bytes: np.ndarray


def write_arrays(
    folder: Path, batches: Iterable[FlatRows], *, num_tokens: np.ndarray, num_segments: np.ndarray
) -> None:
    """Write the files of a split of len(num_tokens) rows; the batches hold every row once, in any order.

    Memory: one batch and O(num_rows) offsets; the values go to the files at once.
    """
    starts, segment_starts = _to_starts(num_tokens), _to_starts(num_segments)  # (num_rows + 1,)
    np.save(folder / "num_tokens.npy", num_tokens.astype(np.int32))
    np.save(folder / "starts.npy", starts)
    np.save(folder / "segment_starts.npy", segment_starts)
    tokens = _create(folder, "tokens", np.int32, starts[-1])
    is_target = _create(folder, "is_target", np.bool_, starts[-1])
    segment_lengths = _create(folder, "segment_lengths", np.int32, segment_starts[-1])
    row_values = {name: _create(folder, name, np.int64, len(num_tokens)) for name in ROW_VALUES}
    for batch in batches:
        places = expand(starts[batch.ids], batch.num_tokens)  # (tokens of the batch,)
        tokens[places] = batch.tokens
        is_target[places] = batch.is_target
        segment_lengths[expand(segment_starts[batch.ids], batch.num_segments)] = batch.segment_lengths
        for name, values in row_values.items():
            values[batch.ids] = getattr(batch, name)
    for array in (tokens, is_target, segment_lengths, *row_values.values()):
        array.flush()


def expand(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, ... (counts[0] numbers), then those of first[1], and so on: (sum of counts,)
    int64."""
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(first - (ends - counts), counts)


def mark_runs(first: np.ndarray, counts: np.ndarray, *, size: int) -> np.ndarray:
    """(size,) bool, true at first[i] .. first[i] + counts[i] - 1 for every i."""
    marks = np.zeros(size, dtype=bool)
    marks[expand(first, counts)] = True
    return marks


def find_runs(marks: np.ndarray) -> list[tuple[int, int]]:
    """(first, count) of every run of true values: the inverse of mark_runs."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))  # (2 * num_runs,)
    return [(int(start), int(stop - start)) for start, stop in edges.reshape(-1, 2)]


def _to_starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _create(folder: Path, name: str, dtype: type[np.generic], size: int) -> np.memmap:
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(int(size),))
