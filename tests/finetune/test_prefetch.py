"""Batches made ahead by a thread: same items, same order, errors where they belong, no thread left."""

import threading

import pytest

from pipelines.finetune.prefetch import prefetch


def list_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


def test_items_come_once_and_in_order():
    with prefetch(range(100), 3) as items:
        assert list(items) == list(range(100))
    assert not list_threads()


def test_items_are_made_while_the_consumer_works():
    made = threading.Event()

    def make():
        yield "first"
        made.set()
        yield "second"

    with prefetch(make(), 2) as items:
        assert next(items) == "first"
        assert made.wait(30)  # nobody asked for the second one yet
        assert list(items) == ["second"]


@pytest.mark.parametrize("num_ahead", [1, 4])
def test_the_thread_is_at_most_so_many_items_ahead(num_ahead):
    most, lock, num_made, num_taken = 0, threading.Lock(), 0, 0

    def make():
        nonlocal most, num_made
        for number in range(200):
            with lock:
                num_made += 1
                most = max(most, num_made - num_taken)
            yield number

    with prefetch(make(), num_ahead) as items:
        for _ in range(200):
            with lock:
                num_taken += 1  # before it is taken: the thread may go on at once
            next(items)
    assert num_made == 200
    assert most <= num_ahead


def test_an_error_comes_where_its_item_would_have_come():
    def make():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    with prefetch(make()) as items:
        assert [next(items), next(items)] == [1, 2]
        with pytest.raises(OSError, match="the disk is gone"):
            next(items)
    assert not list_threads()


def test_a_consumer_that_fails_leaves_no_thread():
    def make():
        while True:
            yield 1

    def consume():
        with prefetch(make()) as items:
            next(items)
            assert list_threads()
            raise FloatingPointError("loss is nan")

    with pytest.raises(FloatingPointError):
        consume()
    assert not list_threads()
