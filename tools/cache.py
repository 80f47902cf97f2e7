"""The one folder outside the checkout that the set-up writes to, shared by all checkouts of a user."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from tools.progress import HEARTBEAT_SECONDS, lock_descriptors, say


def cache_folder() -> Path:
    """$DISTRIBUTARY_CACHE, else distributary under $XDG_CACHE_HOME, else ~/.cache/distributary."""
    named = os.environ.get("DISTRIBUTARY_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "distributary"


def sha256(path: Path) -> str:
    """Checksum of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold `name` against other set-ups of this user.

    None goes stale: the system frees it when we and the command that we run under it (it inherits the lock) are both dead.
    """
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as stream:
        last = 0.0
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - last > HEARTBEAT_SECONDS:
                    say(f"waiting for another set-up of yours that holds {stream.name}")
                    last = time.monotonic()
                time.sleep(0.5)
        lock_descriptors.append(stream.fileno())
        try:
            yield
        finally:
            lock_descriptors.remove(stream.fileno())
