"""Waiting for other processes."""

import time
from collections.abc import Callable


def wait_for(happened: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: "") -> None:
    """Return when `happened()` is true; AssertionError with `explain()` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {explain()}"
        time.sleep(0.1)
