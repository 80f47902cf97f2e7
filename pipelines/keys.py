"""Repeated keys, looked for without moving keys between tasks: each task keeps its smallest key hashes.

Equal keys have equal hashes. A task keeps all hashes of its rows, or, of more than SAMPLE_SIZE, the smallest.
Below the smallest limit of all tasks, the union of these samples holds every copy of every key, so a key
that occurs twice is seen twice (bottom-k sampling; Cohen and Kaplan 2007). Tables whose tasks have few rows
are checked completely. In larger ones, a repeated file or a join that doubles rows is found with certainty
for practical purposes, a single repeated row with a small probability.

Cost: 8 bytes a row while a task runs, at most `CHUNK_KEYS` rows at once; 16 kB a task to the driver.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

SAMPLE_SIZE = 2048
"""Hashes that a task sends to the driver: 16 kB. 10,000 tasks send 160 MB."""
CHUNK_KEYS = 4_000_000
"""Hashes that a task holds before it reduces them to a sample: 32 MB."""
_NO_LIMIT = np.uint64(np.iinfo(np.uint64).max)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySample:
    """The smallest key hashes of some rows."""

    hashes: bytes
    """uint64, ascending, little-endian; every copy of every hash that is at most `limit`."""
    limit: int
    """The largest hash sampled without gaps; the largest uint64 if all hashes are here."""
    repeated: bool
    """True if two of the rows had one hash, in the sample or not."""

    @property
    def complete(self) -> bool:
        return self.limit == int(_NO_LIMIT)


@dataclass(slots=True)
class KeySampler:
    """Takes the key hashes of the rows of one task."""

    size: int = SAMPLE_SIZE
    chunk: int = CHUNK_KEYS
    _pending: list[np.ndarray] = field(default_factory=list)
    _num_pending: int = 0
    _limit: np.uint64 = _NO_LIMIT
    _repeated: bool = False

    def add(self, hashes: np.ndarray) -> None:
        """Take int64 `hashes` (num_rows,)."""
        self._pending.append(hashes.view(np.uint64).copy())
        self._num_pending += len(hashes)
        if self._num_pending >= self.chunk:
            self._reduce()

    def sample(self) -> KeySample:
        self._reduce()
        kept = self._pending[0] if self._pending else np.empty(0, np.uint64)
        return KeySample(hashes=kept.astype("<u8").tobytes(), limit=int(self._limit), repeated=self._repeated)

    def _reduce(self) -> None:
        if not self._pending:
            return
        ordered = np.sort(np.concatenate(self._pending))
        ordered = ordered[ordered <= self._limit]
        self._repeated = self._repeated or bool((ordered[1:] == ordered[:-1]).any())
        if len(ordered) > self.size:
            # Copies of the last hash may lie beyond the cut, so the limit is below it.
            self._limit = ordered[self.size - 1] - np.uint64(1)
            ordered = ordered[ordered <= self._limit]
        self._pending, self._num_pending = [ordered], len(ordered)


def merge_samples(samples: Iterable[KeySample]) -> KeySample:
    """The sample of all tasks together. `repeated` is True if any hash of the union occurs twice."""
    parts = list(samples)
    limit = min((part.limit for part in parts), default=int(_NO_LIMIT))
    hashes = np.sort(np.concatenate([np.empty(0, "<u8"), *(np.frombuffer(p.hashes, "<u8") for p in parts)]))
    hashes = hashes[hashes <= np.uint64(limit)]
    repeated = any(part.repeated for part in parts) or bool((hashes[1:] == hashes[:-1]).any())
    return KeySample(hashes=hashes.tobytes(), limit=limit, repeated=repeated)
