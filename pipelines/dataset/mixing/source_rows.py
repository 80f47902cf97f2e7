"""Rows of a split by source: the j-th row of a source, and back. Memory grows with runs of rows of one source
(the dataset stage writes one run per group), not with rows.
"""

import numpy as np

CHUNK = 1 << 22
"""Codes looked at at once, so that a memory map of billions stays on disk."""


class SourceRows:
    """The rows of one source, numbered in the order of the split."""

    def __init__(self, first: np.ndarray, ends: np.ndarray) -> None:
        """`first`: (num_runs,) first row of each run; `ends`: (num_runs,) rows of the source up to the end of
        each run."""
        self._first, self._ends = first, ends

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def list_rows(self, numbers: np.ndarray) -> np.ndarray:
        """Rows of the split of the `numbers` (num_numbers,), each in [0, len)."""
        runs = np.searchsorted(self._ends, numbers, side="right")  # (num_numbers,)
        sizes = np.diff(self._ends, prepend=0)  # (num_runs,)
        return self._first[runs] + numbers - (self._ends - sizes)[runs]

    def find_number(self, row: int) -> int:
        """Number of a row that is of this source."""
        run = int(np.searchsorted(self._first, row, side="right")) - 1
        before = int(self._ends[run - 1]) if run else 0
        return before + row - int(self._first[run])


def split_rows(codes: np.ndarray, num_sources: int) -> list[SourceRows]:
    """The rows of each source. `codes`: (num_rows,) number of the source of each row, may be a memory map."""
    edges = [np.zeros(1, dtype=np.int64)]
    for start in range(0, len(codes), CHUNK):
        part = np.asarray(codes[max(0, start - 1) : start + CHUNK])
        edges.append(np.flatnonzero(part[1:] != part[:-1]) + max(0, start - 1) + 1)
    first = np.concatenate(edges)  # (num_runs,)
    sizes = np.diff(first, append=len(codes))  # (num_runs,)
    of_run = np.asarray(codes[first])
    chosen = [of_run == source for source in range(num_sources)]
    return [SourceRows(first[mask], np.cumsum(sizes[mask])) for mask in chosen]
