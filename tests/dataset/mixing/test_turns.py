from collections import Counter

import numpy as np
import pytest

from pipelines.dataset.mixing.source_rows import split_rows
from pipelines.dataset.mixing.turns import Turns

AMOUNTS = [[7], [1, 99], [30, 30, 30], [500, 1, 0, 3, 96], [1, 1, 1, 1], [64, 32, 16, 8, 4, 2, 1, 1]]


def twin(amounts):
    """Sources in the order of their times: in the tick in which a sequence is due, ties by source."""
    total = sum(amounts)
    due = [
        ((2 * turn + 1) * total // (2 * amount), source)
        for source, amount in enumerate(amounts)
        for turn in range(amount)
    ]
    return [source for _, source in sorted(due)]


@pytest.mark.parametrize("amounts", AMOUNTS)
def test_counts_at_every_position_are_those_of_the_sorted_times(amounts):
    turns, order = Turns(amounts, window_rows=1, seed=0), twin(amounts)
    for position in range(sum(amounts) + 1):
        before = Counter(order[:position])
        assert turns.count(position).tolist() == [before[source] for source in range(len(amounts))]


@pytest.mark.parametrize("amounts", AMOUNTS)
def test_every_prefix_is_close_to_the_shares(amounts):
    turns, total = Turns(amounts, window_rows=1, seed=0), sum(amounts)
    shares = np.array(amounts) / total
    for position in range(total + 1):
        off = np.abs(turns.count(position) - shares * position)
        assert (off <= 1 + shares * len(amounts) / 2).all()


@pytest.mark.parametrize("amounts", AMOUNTS)
@pytest.mark.parametrize("window_rows", [1, 6, 32, 1000])
def test_every_turn_comes_once_and_is_found_where_it_is(amounts, window_rows):
    turns = Turns(amounts, window_rows=window_rows, seed=3)
    windows = [turns.list_turns(at) for at in range(-(-sum(amounts) // window_rows))]
    listed = [
        (source, turn)
        for sources, numbers in windows
        for source, turn in zip(sources.tolist(), numbers.tolist(), strict=True)
    ]
    assert sorted(listed) == [(source, turn) for source, n in enumerate(amounts) for turn in range(n)]
    for position, (source, turn) in enumerate(listed):
        assert turns.find_position(source, turn) == position


def test_sources_do_not_alternate_in_a_pattern():
    # A pattern a b a b ... would have 999 changes in 1,000 positions; a random order has about 500.
    sources, _ = Turns([5000, 5000], window_rows=1000, seed=0).list_turns(4)
    assert 400 < np.count_nonzero(np.diff(sources)) < 600


def test_numbers_beyond_64_bits_are_counted_exactly():
    amounts = [10**13, 3 * 10**13, 1]
    turns = Turns(amounts, window_rows=800, seed=0)
    middle = turns.count(2 * 10**13)
    assert middle.sum() == 2 * 10**13
    assert np.abs(middle - [5 * 10**12, 15 * 10**12, 0]).max() <= 2
    sources, numbers = turns.list_turns(10**10)
    place = 123
    found = turns.find_position(int(sources[place]), int(numbers[place]))
    assert found == 10**10 * 800 + place


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_a_source_are_numbered_in_the_order_of_the_split(seed):
    random = np.random.default_rng(seed)
    codes = np.repeat(random.integers(0, 4, 60), random.integers(1, 9, 60)).astype(np.int32)
    for source, rows in enumerate(split_rows(codes, 5)):
        expected = np.flatnonzero(codes == source)
        assert len(rows) == len(expected)
        assert rows.list_rows(np.arange(len(rows))).tolist() == expected.tolist()
        assert [rows.find_number(row) for row in expected.tolist()] == list(range(len(expected)))


def test_runs_are_found_across_chunks(monkeypatch):
    monkeypatch.setattr("pipelines.dataset.mixing.source_rows.CHUNK", 7)
    codes = np.array([0] * 7 + [1] * 7 + [0] * 3 + [2] * 9 + [2] * 2 + [0])
    for source, rows in enumerate(split_rows(codes, 3)):
        assert rows.list_rows(np.arange(len(rows))).tolist() == np.flatnonzero(codes == source).tolist()
