"""Which source supplies each position: exact in the whole, close at every point, random in a window.

The k-th of r sequences of a source wants to come at time (k + 1/2) / r of the training, and all sequences of
all sources are ordered by this time. So after any position, a source with share q of S sources is at most
1 + q * S / 2 sequences away from its share. How many a source has among the first x positions follows from a
binary search over the time: no list is kept, and any position costs the same. Within a window, the positions
are then shuffled, so that sources do not alternate in a pattern. `order` sorts the rows of a window by length
and cuts batches from them, so a single step has the shares only if sources are alike in length, or if a
window is one batch.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pipelines.dataset.arrays import expand
from pipelines.dataset.order import make_generator

WINDOW_KEYS = 3 << 62
"""Keeps the keys of these shuffles distinct from those of epochs and batches."""


class Turns:
    """The turns of sources at num_positions = sum of `amounts` positions."""

    def __init__(self, amounts: Sequence[int], *, window_rows: int, seed: int) -> None:
        """`amounts`: turns of each source in the whole training. `window_rows`: positions that are shuffled
        together."""
        self._amounts, self._window_rows, self._seed = list(amounts), window_rows, seed
        self.num_positions = sum(amounts)
        self._count_before = lru_cache(maxsize=4)(self._count)

    def count(self, position: int) -> np.ndarray:
        """(num_sources,) int64 turns of each source that are due before `position`, in [0, num_positions].
        They are those at these positions where a window ends; within a window, positions are shuffled."""
        return np.array(self._count_before(position), dtype=np.int64)

    def list_turns(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Source, and number of its turn from 0, at every position of a window: (num_positions,) int64
        each."""
        first, stop = self._find_bounds(window)
        before = self.count(first)
        sizes = self.count(stop) - before  # (num_sources,)
        places = self._shuffle(window, stop - first)  # (num_positions,)
        sources = np.repeat(np.arange(len(sizes)), sizes)  # (num_positions,)
        return sources[places], expand(before, sizes)[places]

    def find_position(self, source: int, turn: int) -> int:
        """Where the turn number `turn` of `source` is: the inverse of `list_turns`."""
        windows = range(-(-self.num_positions // self._window_rows))
        window = bisect_right(windows, turn, key=lambda at: self._count(self._find_bounds(at)[0])[source]) - 1
        first, stop = self._find_bounds(window)
        before = self.count(first)
        sizes = self.count(stop) - before  # (num_sources,)
        place = int(sizes[:source].sum()) + turn - int(before[source])
        return first + int(np.flatnonzero(self._shuffle(window, stop - first) == place)[0])

    def _find_bounds(self, window: int) -> tuple[int, int]:
        first = window * self._window_rows
        return first, min(first + self._window_rows, self.num_positions)

    def _shuffle(self, window: int, size: int) -> np.ndarray:
        return make_generator(self._seed, window | WINDOW_KEYS).permutation(size)

    def _count(self, position: int) -> list[int]:
        """Python's integers: products of two numbers of sequences do not fit into 64 bits."""
        # Time runs in num_positions ticks. In one tick, a source has at most one turn; those of a tick are in
        # the order of the sources.
        margin = len(self._amounts)
        ticks = range(max(0, position - margin), min(self.num_positions, position + margin) + 1)
        tick = ticks[bisect_left(ticks, position, key=lambda at: sum(self._count_at(at)))]
        if tick == 0:
            return self._count_at(0)
        counts = self._count_at(tick - 1)
        left = position - sum(counts)
        for source, after in enumerate(self._count_at(tick)):
            if left and after > counts[source]:
                counts[source], left = after, left - 1
        return counts

    def _count_at(self, tick: int) -> list[int]:
        """Turns of each source whose time is before the end of `tick` ticks."""
        total = self.num_positions
        return [max(0, -((total - 2 * amount * tick) // (2 * total))) for amount in self._amounts]
