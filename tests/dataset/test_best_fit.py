import numpy as np
import pytest

from pipelines.dataset.packing.best_fit import find_best_fit, pack_best_fit
from pipelines.dataset.packing.packed import join_rows
from tests.dataset.units import example, random_examples


def fit_by_search(sizes: list[int], length: int) -> list[int]:
    """Best-fit decreasing by the book: look at every open row for every piece."""
    rooms: list[int] = []
    row_of = [-1] * len(sizes)
    for piece in sorted(range(len(sizes)), key=lambda piece: (-sizes[piece], piece)):
        fitting = [(room, row) for row, room in enumerate(rooms) if room >= sizes[piece]]
        if not fitting:
            fitting = [(length, len(rooms))]
            rooms.append(length)
        row_of[piece] = min(fitting)[1]
        rooms[row_of[piece]] -= sizes[piece]
    return row_of


def lengths_of(pieces) -> list[int]:
    return [len(unit.input_ids) for _, unit in pieces]


@pytest.mark.parametrize("length", [2, 5, 64, 100, 1024])
@pytest.mark.parametrize("seed", range(6))
def test_rows_are_those_of_a_search_through_all_rows(seed, length):
    generator = np.random.default_rng(seed)
    num_rows = 0
    # Small pieces, all sizes, and few different sizes: the last one has many ties.
    for sizes in (
        generator.integers(1, max(2, length // 5), size=300),
        generator.integers(1, length + 1, size=300),
        generator.choice(generator.integers(1, length + 1, size=4), size=300),
    ):
        row_of = find_best_fit(sizes, length).tolist()
        assert row_of == fit_by_search(sizes.tolist(), length)
        num_rows += len(set(row_of))
    assert num_rows < 3 * 300 - 100


@pytest.mark.parametrize("length", [2, 5, 11, 16, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_every_token_is_in_one_row_under_its_document(seed, length):
    examples = random_examples(seed, longest=30)
    rows = list(pack_best_fit(examples, length=length))
    owner = {int(token): one.doc_id for one in examples for unit in one.units for token in unit.input_ids}
    found = [(int(t), doc_id) for row in rows for doc_id, unit in row.pieces for t in unit.input_ids]
    assert sorted(found) == sorted(owner.items())
    assert len(found) > 300
    assert all(1 <= sum(lengths_of(row.pieces)) <= length for row in rows)


@pytest.mark.parametrize("length", [5, 11, 16])
@pytest.mark.parametrize("seed", range(6))
def test_only_units_longer_than_a_row_are_cut(seed, length):
    examples = random_examples(seed, longest=30)
    rows = list(pack_best_fit(examples, length=length))
    pieces = {int(unit.input_ids[0]): len(unit.input_ids) for row in rows for _, unit in row.pieces}
    num_cut = 0
    for unit in (unit for one in examples for unit in one.units if len(unit.input_ids)):
        first, size = int(unit.input_ids[0]), len(unit.input_ids)
        found = sorted(start for start in pieces if first <= start < first + size)
        assert len(found) == 1 or size > length
        assert sum(pieces.pop(start) for start in found) == size
        num_cut += len(found) - 1
    assert pieces == {}
    assert sum(row.num_continued for row in rows) == num_cut > 5


def test_rows_follow_their_first_documents_and_name_their_segments():
    examples = [example("a", 0, 4), example("b", 4, 13), example("c", 17, 6), example("d", 23, 1)]
    rows = list(pack_best_fit(examples, length=10))
    # From the longest: b's first 10, c 6, a 4 fills c's row, b's last 3, d fits only there.
    assert [[doc_id for doc_id, _ in row.pieces] for row in rows] == [["a", "c"], ["b"], ["b", "d"]]
    joined = join_rows(rows)
    assert joined.segment_num_tokens.tolist() == [4, 6, 10, 3, 1]
    assert joined.segment_first_token.tolist() == [0, 4, 0, 0, 3]
    assert joined.segment_char_start.tolist() == [0, 0, 0, 10, 0]
    assert joined.num_continued.tolist() == [0, 0, 1]
    assert joined.num_targets.tolist() == [8, 9, 2]  # no first token of a segment


def test_of_rows_with_equal_room_the_first_one_is_taken():
    assert find_best_fit(np.array([7, 7, 7, 3, 2, 1]), 10).tolist() == [0, 1, 2, 0, 1, 1]


def test_tokens_cut_off_by_the_builder_are_counted_once():
    rows = list(pack_best_fit([example("a", 0, 25, 3, cut=7), example("b", 28, 0, 4, cut=2)], length=10))
    assert sum(row.num_cut_tokens for row in rows) == 9


def test_no_tokens_make_no_rows():
    assert list(pack_best_fit([], length=8)) == []
    assert list(pack_best_fit([example("a", 0, 0)], length=8)) == []


@pytest.mark.parametrize(("num_documents", "efficiency"), [(550, 0.997), (1_700, 0.998), (8_000, 0.999)])
def test_documents_of_many_lengths_fill_the_rows(num_documents, efficiency):
    """1, 3 and 16 million tokens (4, 12 and 58 MiB of text): documents of 50 to 4,000 tokens, all lengths
    equally often."""
    sizes = np.random.default_rng(0).integers(50, 4_001, size=num_documents)
    places = np.cumsum(sizes) - sizes
    examples = [
        example(str(n), place, size)
        for n, (place, size) in enumerate(zip(places.tolist(), sizes.tolist(), strict=True))
    ]
    num_rows = sum(1 for _ in pack_best_fit(examples, length=1024))
    assert efficiency <= sizes.sum() / (num_rows * 1024) <= 1
