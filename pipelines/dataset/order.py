"""The order of training data. NumPy only.

The order is a pure function of (number of rows, their lengths, seed, step) and does not depend on the number
of ranks. Positions 0, 1, 2, ... count through the epochs. A keyed permutation (a Feistel network with cycle
walking, Black and Rogaway 2002) maps each position of an epoch to a row without storing the permutation, so
memory is O(window), not O(rows).

Within a window of some batches, rows are sorted by length, cut into global batches, and the batches are
shuffled: the rows stay the same, with little padding. Every step is a full global batch, so the last epoch
may borrow a few rows from the next one.

That is the order without a mixture and without a curriculum (`Epochs`). With one, other rows stand at the
positions (`mixing.mixed`); windows and batches are the same.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

NUM_ROUNDS = 6
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64 (Steele 2014)


def permute(positions: np.ndarray, num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """Rows at `positions` (each in [0, num_rows)) of an epoch: a bijection on [0, num_rows). int64 in, int64
    out."""
    return _walk(positions, num_rows, _forward, _Network.of(num_rows, seed, epoch))


def find_positions(rows: np.ndarray, num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """The inverse of `permute`: where `rows` stand in an epoch. int64 in, int64 out. No other row is looked
    at."""
    return _walk(rows, num_rows, _backward, _Network.of(num_rows, seed, epoch))


class _Network(NamedTuple):
    """A Feistel network on [0, 4**half_bits), at most 4 * num_rows numbers."""

    half_bits: np.uint64
    mask: np.uint64
    keys: np.ndarray
    """(NUM_ROUNDS,) uint64."""

    @classmethod
    def of(cls, num_rows: int, seed: int, epoch: int) -> "_Network":
        half_bits = np.uint64(max(1, ((num_rows - 1).bit_length() + 1) // 2))
        keys = make_generator(seed, epoch).integers(0, 2**64, NUM_ROUNDS, dtype=np.uint64)
        return cls(half_bits, (np.uint64(1) << half_bits) - np.uint64(1), keys)


def _walk(
    numbers: np.ndarray, num_rows: int, apply: Callable[[np.ndarray, _Network], np.ndarray], network: _Network
) -> np.ndarray:
    """A result beyond num_rows goes through the network again until it falls below (cycle walking): at most 4
    rounds on average."""
    values = numbers.astype(np.uint64)  # (num_numbers,)
    pending = np.ones(len(values), dtype=bool)
    while pending.any():
        values[pending] = apply(values[pending], network)
        pending = values >= num_rows
    return values.astype(np.int64)


def _forward(values: np.ndarray, network: _Network) -> np.ndarray:
    left, right = values >> network.half_bits, values & network.mask  # (num_values,) each
    for key in network.keys:
        left, right = right, left ^ (_mix(right ^ key) & network.mask)
    return (left << network.half_bits) | right


def _backward(values: np.ndarray, network: _Network) -> np.ndarray:
    left, right = values >> network.half_bits, values & network.mask  # (num_values,) each
    for key in network.keys[::-1]:
        left, right = right ^ (_mix(left ^ key) & network.mask), left
    return (left << network.half_bits) | right


def make_generator(seed: int, word: int) -> np.random.Generator:
    """Philox (Salmon 2011) keyed by two 64-bit words."""
    # Name the type: NumPy turns a list that holds a number from 2**63 on into floats, where neighbours are
    # equal.
    return np.random.Generator(np.random.Philox(key=np.array([seed, word], dtype=np.uint64)))


def _mix(values: np.ndarray) -> np.ndarray:
    mixed = (values ^ (values >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def num_steps(num_rows: int, *, global_batch: int, num_epochs: float) -> int:
    """Steps after which every row was seen `num_epochs` times; the next epoch fills up the last batch."""
    return max(1, int(np.ceil(num_rows * num_epochs / global_batch)))


class Visit(NamedTuple):
    """One time that a training sees a row."""

    epoch: int
    """From 0: the pass over the rows, or over those of its source."""
    step: int
    """From 0."""
    place: int
    """In the global batch."""


class RowSequence(Protocol):
    """Which row stands at each position of a training: a pure function with random access."""

    def list_rows(self, first: int, stop: int) -> np.ndarray:
        """(stop - first,) int64 rows at the positions of one window."""

    def list_epochs(self, first: int, stop: int) -> np.ndarray:
        """(stop - first,) int64 epochs of these rows, from 0."""

    def find(self, row: int, num_positions: int) -> list[tuple[int, int]]:
        """Epoch and position of every time that `row` stands at one of the first `num_positions`."""


class Epochs:
    """All rows in a new random order in every epoch."""

    def __init__(self, num_rows: int, *, seed: int) -> None:
        self._num_rows, self._seed = num_rows, seed

    def list_rows(self, first: int, stop: int) -> np.ndarray:
        positions = np.arange(first, stop, dtype=np.int64)
        epochs, inside = np.divmod(positions, self._num_rows)  # (num_positions,) each
        rows = np.empty_like(positions)  # (num_positions,)
        for epoch in np.unique(epochs):  # two where a window crosses the end of an epoch
            chosen = epochs == epoch
            rows[chosen] = permute(inside[chosen], self._num_rows, seed=self._seed, epoch=int(epoch))
        return rows

    def list_epochs(self, first: int, stop: int) -> np.ndarray:
        return np.arange(first, stop, dtype=np.int64) // self._num_rows

    def find(self, row: int, num_positions: int) -> list[tuple[int, int]]:
        found = []
        for epoch in range(-(-num_positions // self._num_rows)):
            (inside,) = find_positions(np.array([row]), self._num_rows, seed=self._seed, epoch=epoch).tolist()
            found.append((epoch, epoch * self._num_rows + inside))
        return [visit for visit in found if visit[1] < num_positions]  # the last epoch may end early


class Order:
    """Rows of every step. `lengths` is (num_rows,) tokens per row and may be a memory map."""

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        global_batch: int,
        total_steps: int,
        seed: int,
        window_batches: int,
        rows: RowSequence | None = None,
    ) -> None:
        """`rows`: the row at each position; None = `Epochs`."""
        if not len(lengths):
            raise ValueError(
                "the split has no sequences to train on; look at drop_reason and split in the documents table"
            )
        self._lengths, self._seed = lengths, seed
        self._rows = rows or Epochs(len(lengths), seed=seed)
        self._global_batch = global_batch
        self.total_steps = total_steps
        self._window_batches = window_batches
        self._window = -1
        self._batches = np.empty((0, global_batch), dtype=np.int64)

    def batch(self, step: int) -> np.ndarray:
        """(global_batch,) rows of `step`, shortest first: dealt out in turn, all ranks get rows of similar
        length."""
        if not 0 <= step < self.total_steps:
            raise IndexError(f"step must be in [0, {self.total_steps}), got {step}")
        window, inside = divmod(step, self._window_batches)
        if window != self._window:
            self._batches, self._window = self._deal(window)[1], window
        return self._batches[inside]

    def read_steps(self, steps: range) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `steps`, in the order of `batch`, and the epoch of each, from 0: (num_steps, global_batch)
        int64 each. It leaves the window of `batch` as it is, so that another thread may use that."""
        windows = range(steps.start // self._window_batches, -(-steps.stop // self._window_batches))
        rows, epochs = [], []
        for window in windows:
            positions, batches = self._deal(window)  # (num_batches, global_batch) each
            first = int(positions.min())
            rows.append(batches)
            epochs.append(self._rows.list_epochs(first, first + positions.size)[positions - first])
        start = steps.start - windows.start * self._window_batches
        inside = slice(start, start + len(steps))
        return np.concatenate(rows)[inside], np.concatenate(epochs)[inside]

    def find_visits(self, row: int) -> list[Visit]:
        """When the training sees `row`, in the order of the epochs. Costs one window per epoch, wherever the
        row is."""
        window_rows = self._window_batches * self._global_batch
        visits = []
        for epoch, position in self._rows.find(row, self.total_steps * self._global_batch):
            window = position // window_rows
            # Rows are equal in a window that two epochs share; positions are not.
            (found,) = np.argwhere(self._deal(window)[0] == position).tolist()
            visits.append(Visit(epoch, window * self._window_batches + found[0], found[1]))
        return visits

    def _deal(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        """The positions and the rows of the batches of a window, (num_batches, global_batch) each. The last
        window may be shorter than the others."""
        first = window * self._window_batches
        stop = min(first + self._window_batches, self.total_steps)
        positions = np.arange(first * self._global_batch, stop * self._global_batch, dtype=np.int64)
        rows = self._rows.list_rows(int(positions[0]), int(positions[-1]) + 1)  # (num_positions,)
        # Stable: rows of equal length keep the random order of the permutation.
        by_length = np.argsort(self._lengths[rows], kind="stable")  # (num_positions,)
        batches = by_length.reshape(-1, self._global_batch)  # (num_batches, global_batch)
        # Shuffle the batches, not the rows in them. The high bit keeps window keys distinct from epoch keys.
        shuffled = make_generator(self._seed, window | 1 << 63).permutation(batches)
        return positions[shuffled], rows[shuffled]
