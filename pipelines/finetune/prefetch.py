"""Batches made ahead in a thread, so that reading and padding cost the model no time. No torch."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")

NUM_AHEAD = 4
"""Micro-batches that wait, at most: enough for a slow page of the disk, little memory on a GPU."""


@contextmanager
def prefetch(items: Iterable[Item], num_ahead: int = NUM_AHEAD) -> Iterator[Iterator[Item]]:
    """The same items in the same order, made by one thread that is at most `num_ahead` of them ahead.

    An error of `items` is raised where the item would have come. The thread ends with the context, after the
    item that it is making.
    """
    made = SimpleQueue[tuple[str, Item | BaseException | None]]()
    free, stopped = SimpleQueue[None](), threading.Event()  # a semaphore costs 2 us more per item
    for _ in range(num_ahead):
        free.put(None)

    def make() -> None:
        try:
            source = iter(items)
            while True:
                free.get()
                if stopped.is_set():
                    return
                try:
                    item = next(source)
                except StopIteration:
                    break
                made.put(("item", item))
        except BaseException as error:
            made.put(("error", error))
        else:
            made.put(("end", None))

    def take() -> Iterator[Item]:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value  # type: ignore[misc]
            if kind == "end":
                return
            free.put(None)
            yield value  # type: ignore[misc]

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        free.put(None)
        thread.join()
