"""A sign of life while the libraries load: the first time on a machine that takes half a minute."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

QUIET_SECONDS = 4.0


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say on standard error every few seconds that `what` is being loaded; nothing if it is quick."""
    done, begun = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(QUIET_SECONDS):
            print(f"  loading {what} {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        done.set()
