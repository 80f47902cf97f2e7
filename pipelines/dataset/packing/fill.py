"""Long documents cut once more, so that they fill what best_fit left empty. NumPy only.

At the end of a group, best_fit has pieces that no row has room for and rooms that no piece is small enough
for. Whole documents stay whole. But a document longer than a row is cut anyway, and where is free: some of
its pieces that would take a row each are dealt to the widest rooms instead, and their rows are not needed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

LEAST_FRACTION = 16
"""A piece that is dealt has at least 1/16 of a row: its first token is predicted from nothing, and what came
before it in its document is not seen."""


class Pieces(NamedTuple):
    """Pieces of units and their rows. All arrays are (num_pieces,) int64, in order of unit and start."""

    unit_of: np.ndarray
    starts: np.ndarray
    """First token in the unit."""
    sizes: np.ndarray
    row_of: np.ndarray


class Filling(NamedTuple):
    """Some tokens of a dealt piece."""

    start: int
    """Place in the dealt piece."""
    size: int
    row: int


def fill_rooms(pieces: Pieces, length: int) -> Pieces:
    """The pieces with some full ones of cut units dealt to rows with room, if that saves a row for each.

    The last full pieces are dealt, to the widest rooms first, of equal ones to the first row. Rows keep their
    numbers, and those that are not needed any more have no piece.
    """
    rooms = length - np.bincount(pieces.row_of, weights=pieces.sizes).astype(np.int64)  # (num_rows,)
    wide = np.flatnonzero(rooms >= _least(length))
    wide = wide[np.argsort(-rooms[wide], kind="stable")]
    is_cut = np.bincount(pieces.unit_of) > 1  # (num_units,)
    full = np.flatnonzero((pieces.sizes == length) & is_cut[pieces.unit_of])
    num_full = min(len(full), int(rooms[wide].sum()) // length)
    dealt = list(deal(list(zip(rooms[wide].tolist(), wide.tolist(), strict=True)), num_full, length))
    if not dealt:
        return pieces
    gone = full[len(full) - len(dealt) :]
    new = [
        (pieces.unit_of[piece], pieces.starts[piece] + filling.start, filling.size, filling.row)
        for piece, fillings in zip(gone, dealt, strict=True)
        for filling in fillings
    ]
    kept = (np.delete(column, gone) for column in pieces)
    columns = (np.concatenate(both) for both in zip(kept, np.array(new, np.int64).T, strict=True))
    joined = Pieces(*columns)
    order = np.lexsort((joined.starts, joined.unit_of))
    return Pieces(*(column[order] for column in joined))


def deal(rooms: list[tuple[int, int]], num_full: int, length: int) -> Iterator[list[Filling]]:
    """What becomes of full pieces, one after the other: at most num_full, as long as the rooms, (tokens, row)
    each, take one whole."""
    least, left_rooms = _least(length), list(reversed(rooms))
    for _ in range(num_full):
        fillings: list[Filling] = []
        start = 0
        while start < length and left_rooms:
            room, row = left_rooms.pop()
            left = length - start
            # What is left after this room must be enough for a piece of its own.
            size = min(room, left) if left <= room or left - room >= least else left - least
            if size < least:
                continue
            fillings.append(Filling(start, size, row))
            start += size
            if room - size >= least:
                left_rooms.append((room - size, row))
        if start < length:
            return
        yield fillings


def _least(length: int) -> int:
    return -(-length // LEAST_FRACTION)
