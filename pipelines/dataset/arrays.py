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
| classes | (all class numbers of sets,) | int32 | the set of row 0, row 1, ... |
| class_starts | (num_rows + 1,) | int64 | first class number of each row |
| labels, num_targets, num_bytes | (num_rows,) | int64 | see reader.Rows |
| source_codes | (num_rows,) | int32 | place in source_names.json, which is in order of name |
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.dataset.rows import NO_LABEL

FORMAT = 4
"""Raised when the files or their meaning change: a copy of another format is never read."""
ROW_VALUES: dict[str, type[np.generic]] = {
    "labels": np.int64,
    "num_targets": np.int64,
    "num_bytes": np.int64,
    "source_codes": np.int32,
}
SOURCE_NAMES = "source_names.json"
LENGTHS = "num_tokens"
"""Name of the array with the tokens of each row."""


class FlatRows(NamedTuple):
    """Some rows with their values end to end, as Arrow holds them."""

    ids: np.ndarray
    """(num_rows,) int64: number of each row in the split, from 0."""
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
    num_classes: np.ndarray
    """(num_rows,) class numbers of its set; 0 if it has none."""
    classes: np.ndarray
    """(sum of num_classes,) int32"""
    labels: np.ndarray
    num_targets: np.ndarray
    num_bytes: np.ndarray
    source_codes: np.ndarray
    """(num_rows,) int32"""


class Index(NamedTuple):
    """Sizes of all rows, (num_rows,) int32 each, as memory maps."""

    num_tokens: np.memmap
    """0 = not known yet."""
    num_segments: np.memmap
    num_classes: np.memmap


def write_source_names(folder: Path, names: Sequence[str]) -> None:
    (folder / SOURCE_NAMES).write_text(json.dumps(list(names)), encoding="utf-8")


def read_source_names(folder: Path) -> list[str]:
    names: list[str] = json.loads((folder / SOURCE_NAMES).read_text(encoding="utf-8"))
    return names


def create_index(folder: Path, num_rows: int) -> Index:
    """An index in `folder` that knows no row yet."""
    return Index(*(_create(folder, name, np.int32, num_rows) for name in Index._fields))


def lay_out(folder: Path, index: Index) -> None:
    """Create the arrays of a split for rows of these sizes, all zero. Memory: O(1)."""
    num_rows = len(index.num_tokens)
    for sizes, name, values in (
        (index.num_tokens, "starts", (("tokens", np.int32), ("is_target", np.bool_))),
        (index.num_segments, "segment_starts", (("segment_lengths", np.int32),)),
        (index.num_classes, "class_starts", (("classes", np.int32),)),
    ):
        starts = _create(folder, name, np.int64, num_rows + 1)
        np.cumsum(sizes, dtype=np.int64, out=starts[1:])
        starts.flush()
        for value, dtype in values:
            _create(folder, value, dtype, starts[-1])
    for name, kind in ROW_VALUES.items():
        _create(folder, name, kind, num_rows)
    for sizes in index:
        sizes.flush()


class FlatArrays:
    """The arrays that `lay_out` made in `folder`, to be filled. Threads may put different rows at once."""

    def __init__(self, folder: Path) -> None:
        self._starts, self._segment_starts = _open(folder, "starts"), _open(folder, "segment_starts")
        self._tokens, self._is_target = _open(folder, "tokens"), _open(folder, "is_target")
        self._segment_lengths = _open(folder, "segment_lengths")
        self._class_starts, self._classes = _open(folder, "class_starts"), _open(folder, "classes")
        self._row_values = {name: _open(folder, name) for name in ROW_VALUES}

    def put(self, rows: FlatRows) -> None:
        """Write the values of some rows to their places."""
        if not len(rows.ids):
            return
        places = _find_places(self._starts, rows.ids, rows.num_tokens)
        self._tokens[places] = rows.tokens
        self._is_target[places] = rows.is_target
        places = _find_places(self._segment_starts, rows.ids, rows.num_segments)
        self._segment_lengths[places] = rows.segment_lengths
        if len(rows.classes):
            self._classes[_find_places(self._class_starts, rows.ids, rows.num_classes)] = rows.classes
        for name, values in self._row_values.items():
            values[rows.ids] = getattr(rows, name)

    def flush(self) -> None:
        """Return when everything that was put is on disk."""
        values = (self._tokens, self._is_target, self._segment_lengths, self._classes)
        for array in (*values, *self._row_values.values()):
            array.flush()


def write_arrays(folder: Path, rows: FlatRows, source_names: Sequence[str]) -> None:
    """Write the files of a split whose rows are 0, 1, 2, ... in order."""
    write_source_names(folder, source_names)
    index = create_index(folder, len(rows.ids))
    index.num_tokens[:], index.num_segments[:] = rows.num_tokens, rows.num_segments
    index.num_classes[:] = rows.num_classes
    lay_out(folder, index)
    arrays = FlatArrays(folder)
    arrays.put(rows)
    arrays.flush()


def require_consistent(rows: FlatRows) -> FlatRows:
    """The rows themselves. Raises ValueError if one contradicts itself: otherwise a model would learn
    from the wrong tokens, and no one would see it."""
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
            f"row {int(rows.ids[np.argmin(holds)])} of the split has {fault} (and {int((~holds).sum()) - 1} "
            "more); run the dataset stage again"
        )


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


def find_runs(marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first, count) of the runs of true values, (num_runs,) each: the inverse of mark_runs."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))  # (2 * num_runs,)
    return edges[::2], edges[1::2] - edges[::2]


def _find_places(starts: np.ndarray, ids: np.ndarray, counts: np.ndarray) -> np.ndarray | slice:
    """Where the values of the rows `ids` lie; a slice where the rows are neighbours, as the dataset stage
    writes them, because that copies ten times faster."""
    first, last = int(ids[0]), int(ids[-1])
    if last - first == len(ids) - 1 and (np.diff(ids) == 1).all():
        return slice(int(starts[first]), int(starts[last + 1]))
    return expand(starts[ids], counts)


def _create(folder: Path, name: str, dtype: type[np.generic], size: int) -> np.memmap:
    path = folder / f"{name}.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(int(size),))
    with path.open("r+b") as file:
        # A full disk is an error here. In a file with holes, it would kill the process at some later write.
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def _open(folder: Path, name: str) -> np.memmap:
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+")


def copy_name(table_id: str, version: int, split: str) -> str:
    """Name of the folder that holds the arrays of a split, inside the folder of copies."""
    return f"{table_id}-{version}-{split}-{FORMAT}"


def open_array(folder: Path, name: str) -> np.ndarray | None:
    """One array of a copy, mapped into memory; None if the copy is not there."""
    try:
        return map_array(folder, name)
    except FileNotFoundError:  # pruned, or never made
        return None


def map_array(folder: Path, name: str) -> np.ndarray:
    """One array of a copy, mapped into memory."""
    # A plain array over the map: its slices cost a third of those of np.memmap.
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
