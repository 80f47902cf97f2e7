"""How much memory a process keeps resident for tensors on the CPU: a model of glibc's malloc (2.26 or later).

The sum of all live tensors is not what the kernel counts. A block of up to 32 MiB comes from one heap, of
which only the end is ever given back: blocks that live long stand between those that were freed, and the
gaps stay resident. Measured over the sum: a fifth to a half more. So the heap is played through, with the
sizes in their order: the smallest gap that fits, neighbouring gaps joined, a larger block mapped by itself,
the limit for that raised to the size of each mapped block that is freed (malloc/malloc.c; mallopt(3),
M_MMAP_THRESHOLD). Blocks of other threads and of Python are not modelled.

The result is too low. Measured on trainings of 12 to 14 million parameters, as a share of the growth of the
process from before the model to its peak: 0.98, 0.90 and 0.87 with AdamW on all weights, 0.79 with Adafactor,
0.57 and 0.62 with LoRA; of the whole process 0.81 to 0.99.

Cost: O(log n) an event for n gaps, beside the insertion into a list.
"""

from bisect import bisect_left, insort

PAGE = 4096
ALIGNMENT = 64
"""Bytes that torch aligns tensors to."""
HEADER = 16
SPARE = ALIGNMENT + 32
"""Bytes by which a gap must be larger than an aligned block (_int_memalign): so the gap that a block leaves
does not fit one of the same size."""
FIRST_MAPPED, MOST_MAPPED = 128 * 1024, 32 * 2**20
"""Bytes from which a block is mapped by itself: at the start, and at most."""


class Heap:
    """One heap, and the blocks that are mapped beside it."""

    def __init__(self) -> None:
        self._gaps: list[tuple[int, int]] = []
        """(bytes, start), sorted."""
        self._ends: dict[int, int] = {}
        """End of a gap -> its start."""
        self._starts: dict[int, int] = {}
        """Start of a gap -> its end."""
        self._blocks: dict[int, tuple[int, int]] = {}
        """Block -> (start, bytes); start -1 = mapped."""
        self._top = self._end = 0
        """First byte after the last block, and the end of what the heap got from the kernel."""
        self._mapped_from = FIRST_MAPPED
        self._num_mapped_bytes = self._number = 0

    @property
    def resident_bytes(self) -> int:
        return self._end + self._num_mapped_bytes

    def take(self, num_bytes: int) -> int:
        """A block for `num_bytes`; its number, for `give`."""
        size = -(-(num_bytes + HEADER) // ALIGNMENT) * ALIGNMENT
        self._number += 1
        needed = size + SPARE
        place = bisect_left(self._gaps, (needed, -1))
        if place < len(self._gaps):
            gap, start = self._gaps[place]
            self._remove_gap(start, start + gap)
            if gap > size:
                self._add_gap(start + size, start + gap)
        elif self._end - self._top < needed and needed >= self._mapped_from:
            size = -(-size // PAGE) * PAGE
            self._num_mapped_bytes += size
            start = -1
        else:
            start, self._top = self._top, self._top + size
            self._end = max(self._end, -(-self._top // PAGE) * PAGE)
        self._blocks[self._number] = start, size
        return self._number

    def give(self, number: int) -> None:
        start, size = self._blocks.pop(number)
        if start < 0:
            self._num_mapped_bytes -= size
            if self._mapped_from < size <= MOST_MAPPED:
                self._mapped_from = size
            return
        stop = start + size
        if start in self._ends:
            before = self._ends[start]
            self._remove_gap(before, start)
            start = before
        if stop in self._starts:
            after = self._starts[stop]
            self._remove_gap(stop, after)
            stop = after
        if stop < self._top:
            self._add_gap(start, stop)
            return
        self._top = start

    def _add_gap(self, start: int, stop: int) -> None:
        insort(self._gaps, (stop - start, start))
        self._ends[stop], self._starts[start] = start, stop

    def _remove_gap(self, start: int, stop: int) -> None:
        del self._gaps[bisect_left(self._gaps, (stop - start, start))]
        del self._ends[stop], self._starts[start]
