"""Local copies that several processes share: made once, visible only when complete, continued after a kill,
and pruned when old."""

import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.machine import cache_folder

STALE_SECONDS = 7 * 24 * 3600
COPY_NAME = re.compile(r"[0-9a-f-]{36}-\d+-[a-z]+(-\d+)?|[0-9a-f]{32}|\.making-[\w-]+")
"""Names that may be pruned; other files in the folder are not ours."""


def copies_folder(kind: str = "sequences") -> Path:
    """Where this machine keeps its copies of one kind; private to the user."""
    folder = cache_folder() / kind
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # the user of an executor may have no home
        folder = Path(tempfile.gettempdir()) / f"distributary-{kind}-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
            raise PermissionError(
                f"{folder} belongs to another user; set DISTRIBUTARY_CACHE to a folder of your own"
            ) from None
    return folder


@contextmanager
def open_copy(home: Path, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """The copy `name` in `home`, protected against pruning while the context lasts.

    The first caller on a machine lets `make` fill a folder; the others wait until it is complete, and then
    use it at the same time. A folder that `make` did not finish is never visible under `name`. It stays for
    the next caller, whose `make` may continue it; if the disk is full, it is deleted.
    """
    copy = home / name
    while True:
        with _lock(copy, fcntl.LOCK_SH):
            if copy.is_dir():
                os.utime(copy)
                yield copy
                return
        with _lock(copy, fcntl.LOCK_EX):
            if not copy.is_dir():
                _prune(home)
                _make_copy(copy, make)


def _make_copy(copy: Path, make: Callable[[Path], None]) -> None:
    partial = copy.with_name(f".making-{copy.name}")  # the lock makes it ours
    partial.mkdir(mode=0o700, exist_ok=True)
    os.utime(partial)  # one that is continued may be old, and others prune what is old
    try:
        make(partial)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(copy)
    os.utime(copy)


@contextmanager
def _lock(copy: Path, kind: int) -> Iterator[None]:
    """Hold the lock of a copy, shared or exclusive. Raises BlockingIOError if it is taken and `kind` says not
    to wait."""
    with copy.with_name(f"{copy.name}.lock").open("w") as lock:
        fcntl.flock(lock, kind)
        yield


def _prune(home: Path) -> None:
    """Delete copies that were not opened for a week, and unfinished ones as old. Copies in use stay."""
    for copy in home.iterdir():
        if COPY_NAME.fullmatch(copy.name) and not copy.is_symlink() and _is_stale(copy):
            if copy.name.startswith("."):
                shutil.rmtree(copy, ignore_errors=True)
                continue
            with suppress(BlockingIOError), _lock(copy, fcntl.LOCK_EX | fcntl.LOCK_NB):
                if _is_stale(copy):  # nobody opened it since we looked
                    shutil.rmtree(copy, ignore_errors=True)


def _is_stale(copy: Path) -> bool:
    return copy.is_dir() and time.time() - copy.stat().st_mtime > STALE_SECONDS
