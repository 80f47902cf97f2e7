"""The order of training data. NumPy only.

The order is a pure function of (number of rows, their lengths, seed, step) and does not depend on the number
of ranks. Positions 0, 1, 2, ... count through the epochs. A keyed permutation (a Feistel network with cycle
walking, Black and Rogaway 2002) maps each position of an epoch to a row without storing the permutation, so
memory is O(window), not O(rows).

Within a window of some batches, rows are sorted by length, cut into global batches, and the batches are
shuffled: the rows stay the same, with little padding. Every step is a full global batch, so the last epoch
may borrow a few rows from the next one.
"""

import numpy as np

NUM_ROUNDS = 6
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64 (Steele 2014)


def permute(positions: np.ndarray, num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """Rows at `positions` (each in [0, num_rows)) of an epoch: a bijection on [0, num_rows). int64 in, int64
    out."""
    half_bits = np.uint64(max(1, ((num_rows - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    keys = _generator(seed, epoch).integers(0, 2**64, NUM_ROUNDS, dtype=np.uint64)
    rows = positions.astype(np.uint64)  # (num_positions,)
    # The network permutes [0, 4**half_bits), at most 4 * num_rows numbers. A result beyond num_rows goes
    # through
    # the network again until it falls below (cycle walking): at most 4 rounds on average.
    pending = np.ones(len(rows), dtype=bool)
    while pending.any():
        left, right = rows[pending] >> half_bits, rows[pending] & mask  # (num_pending,) each
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        rows[pending] = (left << half_bits) | right
        pending = rows >= num_rows
    return rows.astype(np.int64)


def _generator(seed: int, word: int) -> np.random.Generator:
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


class Order:
    """Rows of every step. `lengths` is (num_rows,) tokens per row and may be a memory map."""

    def __init__(
        self, lengths: np.ndarray, *, global_batch: int, total_steps: int, seed: int, window_batches: int
    ) -> None:
        if not len(lengths):
            raise ValueError(
                "the split has no sequences to train on; look at drop_reason and split in the documents table"
            )
        self._lengths, self._seed = lengths, seed
        self._global_batch = global_batch
        self._total_steps = total_steps
        self._window_batches = window_batches
        self._window = -1
        self._batches = np.empty((0, global_batch), dtype=np.int64)

    def batch(self, step: int) -> np.ndarray:
        """(global_batch,) rows of `step`, shortest first: dealt out in turn, all ranks get rows of similar
        length."""
        if not 0 <= step < self._total_steps:
            raise IndexError(f"step must be in [0, {self._total_steps}), got {step}")
        window, inside = divmod(step, self._window_batches)
        if window != self._window:
            self._batches, self._window = self._draw(window), window
        return self._batches[inside]

    def _draw(self, window: int) -> np.ndarray:
        """The batches of a window, (num_batches, global_batch) rows. Its last window may be shorter than the
        others."""
        first = window * self._window_batches
        num_batches = min(self._window_batches, self._total_steps - first)
        start, stop = first * self._global_batch, (first + num_batches) * self._global_batch
        positions = np.arange(start, stop, dtype=np.int64)  # (num_batches * global_batch,)
        epochs, inside = np.divmod(positions, len(self._lengths))  # (num_batches * global_batch,) each
        rows = np.empty_like(positions)  # (num_batches * global_batch,)
        for epoch in np.unique(epochs):  # two where a window crosses the end of an epoch
            chosen = epochs == epoch
            rows[chosen] = permute(inside[chosen], len(self._lengths), seed=self._seed, epoch=int(epoch))
        # Stable: rows of equal length keep the random order of the permutation.
        by_length = rows[np.argsort(self._lengths[rows], kind="stable")]  # (num_batches * global_batch,)
        batches = by_length.reshape(num_batches, self._global_batch)  # (num_batches, global_batch)
        # Shuffle the batches, not the rows in them. The high bit keeps window keys distinct from epoch keys.
        return _generator(self._seed, window | 1 << 63).permutation(batches)
