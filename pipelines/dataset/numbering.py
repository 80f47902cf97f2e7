"""Numbers of rows: a row of a split is the rank of its sequence_id, from 0. NumPy only.

Ids lie in few runs without gaps, one for each group, so a run is all that is kept: 24 bytes a group. Where a
program has scattered the rows over files in no order, a run may be one row.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipelines.dataset.layout import POSITION_BITS

Runs = tuple[np.ndarray, np.ndarray]
"""First id and number of ids of each run, (num_runs,) int64 each."""


class RowNumbers(NamedTuple):
    """The ids of a split, in runs that do not touch."""

    first: np.ndarray
    """(num_runs,) int64, ascending: first id of each run."""
    counts: np.ndarray
    """(num_runs,) int64 ids of each run."""
    rows: np.ndarray
    """(num_runs,) int64 row of each first id."""

    @property
    def num_rows(self) -> int:
        return int(self.counts.sum())

    def find_rows(self, ids: np.ndarray) -> np.ndarray:
        """(num_ids,) int64 row of each id; -1 where the split has no such id."""
        if not len(self.first):
            return np.full(len(ids), -1)
        run = np.maximum(np.searchsorted(self.first, ids, side="right") - 1, 0)
        place = ids - self.first[run]
        return np.where((place >= 0) & (place < self.counts[run]), self.rows[run] + place, -1)

    def find_ids(self, rows: np.ndarray) -> np.ndarray:
        """(num_rows,) int64 id of each row. Raises ValueError for a row that there is not."""
        outside = (rows < 0) | (rows >= self.num_rows)
        if outside.any():
            raise ValueError(f"there is no row {int(rows[outside][0])}; rows are 0 to {self.num_rows - 1}")
        run = np.searchsorted(self.rows, rows, side="right") - 1
        return self.first[run] + rows - self.rows[run]


def number_rows(parts: Iterable[Runs], split: str) -> RowNumbers:
    """The rows of a split from the runs of its files, in any order.

    Raises ValueError if an id is there twice, or if the first ids of a group, or some between, are missing.
    """
    first, counts = join_runs(parts)
    repeated = first[1:] < (first + counts)[:-1]
    if repeated.any():
        raise _fault(split, f"repeats {int(first[1:][repeated][0])}")
    missing = first % (1 << POSITION_BITS) != 0  # positions in a group begin at 0
    if missing.any():
        raise _fault(split, f"has no {int(first[missing][0]) - 1}")
    return RowNumbers(first, counts, np.cumsum(counts) - counts)


def find_id_runs(ids: np.ndarray) -> Runs:
    """The runs of ids in any order. Of ids that are there twice, the runs overlap."""
    ordered = np.sort(ids).astype(np.int64)
    return join_runs([(ordered, np.ones_like(ordered))])


def join_runs(parts: Iterable[Runs]) -> Runs:
    """All runs, ascending; those that follow each other are one. Runs that overlap stay apart."""
    nothing = np.empty(0, np.int64)
    columns = list(zip((nothing, nothing), *parts, strict=True))
    first, counts = (np.concatenate(column) for column in columns)
    order = np.argsort(first, kind="stable")
    first, counts = first[order], counts[order]
    begins = np.ones(len(first), dtype=bool)
    begins[1:] = first[1:] != (first + counts)[:-1]
    starts = np.flatnonzero(begins)
    return first[starts], np.add.reduceat(counts, starts) if len(starts) else nothing


def _fault(split: str, fault: str) -> ValueError:
    return ValueError(
        f"sequence_id of split {split} {fault}, but every group has ids from its first without gaps; run the "
        "dataset stage again"
    )
