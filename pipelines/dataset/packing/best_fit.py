"""Best-fit decreasing: every unit that fits a row stays whole, and few places of the rows stay empty.

All units of a group are looked at together. A unit longer than a row is cut every `length` tokens; its rest
is packed like a whole unit. The pieces are taken from the longest to the shortest, and each goes to the row
with the least room that is enough (Johnson 1974). Rooms are 1 .. length - 1 tokens, so one integer with a bit
per room says which exist, and its lowest bit from the size of a piece on is the answer. Wide rooms that stay
empty are filled with long units that are cut once more (fill.py).

Cost: O(pieces x length / 64) words, about 1 us a piece at 1,024 tokens. Memory: the group, 17 bytes a token.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import islice

import numpy as np

from pipelines.dataset.arrays import expand
from pipelines.dataset.examples.example import Example, Unit
from pipelines.dataset.packing.fill import Pieces, fill_rooms
from pipelines.dataset.packing.packed import PackedSequence, slice_unit


def pack_best_fit(examples: Iterable[Example], *, length: int) -> Iterator[PackedSequence]:
    """Rows in the order of their first pieces, pieces in the order of the examples. A unit of at most
    `length` tokens is never cut; a longer one every `length` tokens, and where a row has room."""
    units: list[tuple[str, Unit]] = []
    cut_tokens: list[int] = []  # per unit; those of an example stand at its first unit
    for example in examples:
        filled = [unit for unit in example.units if len(unit.input_ids)]
        units += [(example.doc_id, unit) for unit in filled]
        cut_tokens += [example.num_cut_tokens if number == 0 else 0 for number in range(len(filled))]
    if not units:
        return
    unit_of, starts, sizes = _cut_units(np.array([len(unit.input_ids) for _, unit in units]), length)
    pieces = Pieces(unit_of, starts, sizes, find_best_fit(sizes, length))
    unit_of, starts, sizes, row_of = fill_rooms(pieces, length)
    _, first_pieces, row_numbers = np.unique(row_of, return_index=True, return_inverse=True)  # by row
    first_of = first_pieces[row_numbers]  # (num_pieces,) first piece of the row of each piece
    order = np.argsort(first_of, kind="stable")
    ends = np.flatnonzero(np.diff(first_of[order], append=-1)) + 1  # (num_rows,)
    begins = np.concatenate([[0], ends[:-1]])
    is_first = starts[order] == 0
    num_cut = np.add.reduceat(np.where(is_first, np.array(cut_tokens)[unit_of[order]], 0), begins)
    num_continued = np.add.reduceat(~is_first, begins, dtype=np.int64)
    places = zip(unit_of[order].tolist(), starts[order].tolist(), sizes[order].tolist(), strict=True)
    taken = (_take(units[number], start, size) for number, start, size in places)
    counts = zip((ends - begins).tolist(), num_cut.tolist(), num_continued.tolist(), strict=True)
    for num_pieces, cut, continued in counts:
        yield PackedSequence(list(islice(taken, num_pieces)), None, cut, continued)


def find_best_fit(sizes: np.ndarray, length: int) -> np.ndarray:
    """The row of each piece, (num_pieces,): rows are numbered in the order in which they are opened.

    Pieces of equal size are taken in their order. Of rows with equal room, the one opened first is taken.
    """
    order = np.argsort(-sizes, kind="stable")
    rows_by_room: list[list[int]] = [[] for _ in range(length)]  # a heap of row numbers for each room
    rooms = 0  # bit r is set if a row has room for exactly r more tokens
    num_rows = 0
    chosen = []
    for size in sizes[order].tolist():
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            row = heappop(rows_by_room[room])
            if not rows_by_room[room]:
                rooms ^= 1 << room
        else:
            row, room = num_rows, length
            num_rows += 1
        chosen.append(row)
        left = room - size
        if left:
            heappush(rows_by_room[left], row)
            rooms |= 1 << left
    row_of = np.empty(len(sizes), np.int64)
    row_of[order] = chosen
    return row_of


def _cut_units(num_tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(unit, first token, number of tokens) of every piece, (num_pieces,) each, in order."""
    counts = -(-num_tokens // length)  # (num_units,)
    unit_of = np.repeat(np.arange(len(num_tokens)), counts)
    starts = expand(np.zeros(len(counts), np.int64), counts) * length
    return unit_of, starts, np.minimum(length, num_tokens[unit_of] - starts)


def _take(owned: tuple[str, Unit], start: int, size: int) -> tuple[str, Unit]:
    doc_id, unit = owned
    # Most units of a corpus of short documents are whole: five views less for each.
    return owned if size == len(unit.input_ids) else (doc_id, slice_unit(unit, start, start + size))
