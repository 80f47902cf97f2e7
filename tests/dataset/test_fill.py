import numpy as np
import pytest

from pipelines.dataset.packing.best_fit import _cut_units, find_best_fit
from pipelines.dataset.packing.fill import Filling, Pieces, deal, fill_rooms

LENGTH = 32  # so a piece that is dealt has at least 2 tokens


def pack(sizes: list[int], length: int = LENGTH) -> Pieces:
    unit_of, starts, pieces = _cut_units(np.array(sizes), length)
    return Pieces(unit_of, starts, pieces, find_best_fit(pieces, length))


def list_rows(pieces: Pieces) -> dict[int, list[tuple[int, int, int]]]:
    """Row -> (unit, first token, number of tokens) of its pieces."""
    rows: dict[int, list[tuple[int, int, int]]] = {}
    for unit, start, size, row in zip(*(column.tolist() for column in pieces), strict=True):
        rows.setdefault(row, []).append((unit, start, size))
    return rows


def test_a_full_piece_of_a_long_unit_goes_where_rows_have_room():
    # Rows by hand: the full pieces of unit 0 in 0 and 1, then units 1 (20), 2 (20) and 3 (20) in 2, 3 and 4
    # with 12 empty places each. The second full piece of unit 0 fills them: 12, 12 and the 8 that are left.
    before = pack([64, 20, 20, 20])
    assert list_rows(before) == {
        0: [(0, 0, 32)],
        1: [(0, 32, 32)],
        2: [(1, 0, 20)],
        3: [(2, 0, 20)],
        4: [(3, 0, 20)],
    }
    assert list_rows(fill_rooms(before, LENGTH)) == {
        0: [(0, 0, 32)],
        2: [(0, 32, 12), (1, 0, 20)],
        3: [(0, 44, 12), (2, 0, 20)],
        4: [(0, 56, 8), (3, 0, 20)],
    }


@pytest.mark.parametrize(
    "sizes",
    [
        [32, 20, 20, 20],  # a unit that fills a row is whole
        [64, 20, 20],  # 24 empty places are less than a row
        [64, *[31] * 40],  # 40 empty places, one each: too few tokens for a piece
        [20, 20, 20],
    ],
)
def test_rows_stay_where_no_row_can_be_saved(sizes):
    before = pack(sizes)
    assert fill_rooms(before, LENGTH) is before


@pytest.mark.parametrize(
    ("rooms", "num_full", "expected"),
    [
        ([(16, 4), (16, 7)], 1, [[Filling(0, 16, 4), Filling(16, 16, 7)]]),
        # One token would be left behind the 31: the first piece gets one token less.
        ([(31, 0), (5, 1)], 1, [[Filling(0, 30, 0), Filling(30, 2, 1)]]),
        # The second piece goes on where the first one has left room.
        (
            [(30, 0), (30, 1), (4, 2)],
            2,
            [[Filling(0, 30, 0), Filling(30, 2, 1)], [Filling(0, 28, 1), Filling(28, 4, 2)]],
        ),
        # The rooms hold 64 tokens, but of 1 that is left no piece is made.
        ([(31, 0), (31, 1), (2, 2)], 2, [[Filling(0, 30, 0), Filling(30, 2, 1)]]),
        ([(8, 0), (8, 1)], 1, []),
    ],
)
def test_pieces_are_dealt_to_the_rooms_in_turn(rooms, num_full, expected):
    assert list(deal(rooms, num_full, LENGTH)) == expected


@pytest.mark.parametrize("seed", range(20))
def test_filling_keeps_all_tokens_and_saves_rows(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 150, size=int(generator.integers(1, 200)))
    before = pack(sizes.tolist())
    after = fill_rooms(before, LENGTH)
    assert sorted(zip(after.unit_of.tolist(), after.starts.tolist(), strict=True)) == list(
        zip(after.unit_of.tolist(), after.starts.tolist(), strict=True)
    )
    ends = after.starts + after.sizes
    continues = np.diff(after.unit_of) == 0
    assert (ends[:-1][continues] == after.starts[1:][continues]).all()
    assert np.bincount(after.unit_of, weights=after.sizes).astype(int).tolist() == sizes.tolist()
    assert np.bincount(after.row_of, weights=after.sizes).max() <= LENGTH
    is_whole = np.bincount(after.unit_of) == 1
    assert is_whole[sizes <= LENGTH].all()
    new = set(list_pieces(after)) - set(list_pieces(before))
    assert all(size >= 2 for _, _, size in new)
    num_saved = len(set(before.row_of.tolist())) - len(set(after.row_of.tolist()))
    assert num_saved == len(set(list_pieces(before)) - set(list_pieces(after)))


def list_pieces(pieces: Pieces) -> list[tuple[int, int, int]]:
    return list(zip(pieces.unit_of.tolist(), pieces.starts.tolist(), pieces.sizes.tolist(), strict=True))
