from collections import Counter

import numpy as np
import pytest

from pipelines.dataset.order import Order, find_positions, num_steps, permute


@pytest.mark.parametrize("num_rows", [1, 2, 3, 16, 17, 1000, 4097])
def test_an_epoch_is_a_permutation(num_rows):
    rows = permute(np.arange(num_rows), num_rows, seed=3, epoch=1)
    assert sorted(rows) == list(range(num_rows))


def test_order_changes_with_epoch_and_seed_only():
    base = permute(np.arange(500), 500, seed=1, epoch=0)
    assert np.array_equal(base, permute(np.arange(500), 500, seed=1, epoch=0))
    for seed, epoch in ((1, 1), (2, 0)):
        assert np.mean(base == permute(np.arange(500), 500, seed=seed, epoch=epoch)) < 0.05


def test_a_permutation_looks_random():
    # The mean distance of neighbours in a random permutation of n is about n/3.
    rows = permute(np.arange(3000), 3000, seed=0, epoch=0)
    assert 900 < np.abs(np.diff(rows)).mean() < 1100


@pytest.mark.parametrize(
    ("num_rows", "global_batch", "window"), [(100, 8, 4), (7, 4, 3), (64, 16, 1), (50, 1, 25)]
)
def test_whole_epochs_see_every_row_equally_often(num_rows, global_batch, window):
    steps = num_steps(num_rows, global_batch=global_batch, num_epochs=2)
    order = Order(
        np.arange(num_rows) % 5, global_batch=global_batch, total_steps=steps, seed=0, window_batches=window
    )
    seen = Counter(np.concatenate([order.batch(step) for step in range(steps)]).tolist())
    assert set(seen) == set(range(num_rows))
    borrowed = steps * global_batch - 2 * num_rows
    assert sorted(seen.values()) == [2] * (num_rows - borrowed) + [3] * borrowed


def test_a_step_does_not_depend_on_earlier_steps():
    lengths = np.random.default_rng(0).integers(1, 60, 300)

    def order() -> Order:
        return Order(lengths, global_batch=8, total_steps=70, seed=5, window_batches=10)

    through = order()
    all_steps = [through.batch(step).tolist() for step in range(70)]
    assert [order().batch(step).tolist() for step in (69, 33, 0, 34)] == [
        all_steps[step] for step in (69, 33, 0, 34)
    ]


def test_windows_gather_rows_of_similar_length():
    lengths = np.random.default_rng(0).integers(1, 100, 2000)

    def padding(window: int) -> float:
        order = Order(lengths, global_batch=20, total_steps=100, seed=0, window_batches=window)
        return float(
            np.mean(
                [lengths[order.batch(step)].max() - lengths[order.batch(step)].mean() for step in range(100)]
            )
        )

    assert padding(25) < padding(1) / 4


def test_every_window_shuffles_its_batches_differently():
    # Rows are ordered by length inside a window, so the place of the shortest batch tells how the batches
    # were shuffled.
    lengths = np.arange(8000)
    order = Order(lengths, global_batch=8, total_steps=1000, seed=0, window_batches=25)
    shortest = [
        int(np.argmin([order.batch(first + step).min() for step in range(25)]))
        for first in range(0, 1000, 25)
    ]
    assert len(set(shortest)) > 15  # of 25 places, over 40 windows


def test_empty_split_and_step_beyond_the_end_are_refused():
    with pytest.raises(ValueError, match="no sequences to train on"):
        Order(np.empty(0), global_batch=2, total_steps=1, seed=0, window_batches=1)
    with pytest.raises(IndexError, match=r"\[0, 3\), got 3"):
        Order(np.ones(5), global_batch=2, total_steps=3, seed=0, window_batches=1).batch(3)


def test_order_is_the_one_of_earlier_versions():
    # Written down when checkpoints of that order existed: a resumed training must see the same rows.
    order = Order(np.arange(10) % 4, global_batch=4, total_steps=5, seed=7, window_batches=2)
    assert [order.batch(step).tolist() for step in range(5)] == [
        [5, 6, 3, 7],
        [0, 8, 9, 1],
        [2, 6, 2, 7],
        [4, 0, 1, 5],
        [8, 4, 9, 3],
    ]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 17, 1000, 4097])
def test_positions_are_the_inverse_of_the_permutation(num_rows):
    rows = permute(np.arange(num_rows), num_rows, seed=3, epoch=2)
    positions = find_positions(rows, num_rows, seed=3, epoch=2)
    assert positions.tolist() == list(range(num_rows))
    assert positions.dtype == rows.dtype == np.int64


@pytest.mark.parametrize(
    ("num_rows", "global_batch", "window", "num_epochs"),
    [(100, 8, 4, 2.0), (7, 4, 3, 2.5), (64, 16, 1, 1.0), (5, 8, 25, 3.0)],
)
def test_visits_of_a_row_are_where_the_batches_have_it(num_rows, global_batch, window, num_epochs):
    steps = num_steps(num_rows, global_batch=global_batch, num_epochs=num_epochs)
    order = Order(
        np.arange(num_rows) % 5, global_batch=global_batch, total_steps=steps, seed=4, window_batches=window
    )
    batches = [order.batch(step).tolist() for step in range(steps)]
    for row in range(num_rows):
        # The twin looks through all batches.
        expected = [
            (step, place) for step, batch in enumerate(batches) for place, r in enumerate(batch) if r == row
        ]
        visits = order.find_visits(row)
        assert sorted(visit[1:] for visit in visits) == expected
        assert [visit.epoch for visit in visits] == list(range(len(visits)))


@pytest.mark.parametrize(("num_rows", "num_epochs", "window"), [(7, 4.0, 3), (40, 2.5, 4), (40, 0.2, 4)])
def test_steps_are_read_with_the_epochs_of_their_rows(num_rows, num_epochs, window):
    steps = num_steps(num_rows, global_batch=4, num_epochs=num_epochs)
    given = {"global_batch": 4, "total_steps": steps, "seed": 4, "window_batches": window}
    order = Order(np.arange(num_rows) % 5, **given)
    epochs = {visit[1:]: visit.epoch for row in range(num_rows) for visit in order.find_visits(row)}
    for steps_read in (range(steps), range(1, steps), range(steps - 1, steps), range(steps // 2)):
        rows, found = order.read_steps(steps_read)
        assert rows.tolist() == [order.batch(step).tolist() for step in steps_read]
        assert found.tolist() == [[epochs[step, place] for place in range(4)] for step in steps_read]


def test_every_epoch_visits_every_row_once():
    # 7 rows, batches of 4, windows of 3 batches: each window crosses the end of an epoch.
    order = Order(np.ones(7), global_batch=4, total_steps=14, seed=0, window_batches=3)
    visits = [visit for row in range(7) for visit in order.find_visits(row)]
    assert len(visits) == len({visit[1:] for visit in visits}) == 56
    assert Counter(visit.epoch for visit in visits) == dict.fromkeys(range(8), 7)
    first = [visit.step * 4 + visit.place for visit in visits if visit.epoch == 0]
    assert max(first) < 12  # epoch 0 lies in the first window
