"""An action that is repeated in a thread while other work goes on: displays, measurements."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeat_every(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` in a thread every so many seconds while the context lasts; the first call comes after
    `seconds`.

    No call runs any more when the context has ended. If `action` raises, Python prints the error and the
    calls stop.
    """
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
