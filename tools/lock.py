"""A lock between set-ups of the same user, kept in the cache folder."""

from __future__ import annotations

import fcntl
import time
from contextlib import contextmanager
from typing import Iterator

from pipelines.machine import cache_folder
from tools.progress import HEARTBEAT_SECONDS, lock_descriptors, say


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock `name`; wait while another set-up holds it, and print a line every few seconds.

    A lock cannot become stale: the running command inherits its file descriptor, and the system releases the
    lock when both this process and that command have ended.
    """
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as stream:
        last = float("-inf")
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - last > HEARTBEAT_SECONDS:
                    say(f"waiting for another set-up that holds {stream.name}")
                    last = time.monotonic()
                time.sleep(0.5)
        lock_descriptors.append(stream.fileno())
        try:
            yield
        finally:
            lock_descriptors.remove(stream.fileno())
