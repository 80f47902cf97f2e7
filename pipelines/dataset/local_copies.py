"""Local copies that several processes share: made once, visible only when complete, continued after a kill,
deleted when old or when there is no room for a new one, and never while somebody uses them."""

import errno
import fcntl
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipelines.machine import cache_folder

STALE_SECONDS = 7 * 24 * 3600
COPY_NAME = re.compile(r"[0-9a-f-]{36}-\d+-[a-z]+(-\d+)?|[0-9a-f]{32}|\.(making|removed)-[\w-]+")
"""Names that may be deleted; other files in the folder are not ours."""
PAUSE_SECONDS = 0.01
_MAKING, _REMOVED = ".making-", ".removed-"


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
    """The copy `name` in `home`, protected against deletion while the context lasts.

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
        # Not to be waited for: another process may make the copy and then use it for days.
        with _try_lock(copy) as is_ours:
            if is_ours and not copy.is_dir():
                _prune(home)
                _make_copy(copy, make)
        if not is_ours:
            time.sleep(PAUSE_SECONDS)  # the next shared lock waits for a process that makes the copy


def make_room(home: Path, num_bytes: int, *, max_bytes: int | None = None) -> int:
    """Delete the copies in `home` that were opened longest ago until `num_bytes` fit on the disk, and with
    the copies that stay into `max_bytes` (None = no limit). Copies in use stay, and so do younger ones when
    enough is free; all stay if even without them it were too little. The bytes that can be had, which may be
    fewer.

    For `make`: the copy that is being made is in use.
    """
    copies = sorted((copy for copy in home.iterdir() if _is_ours(copy)), key=_find_opened)
    sizes = {copy: _measure(copy) for copy in copies}
    if _find_room(home, sizes, max_bytes) < num_bytes:
        unused = sum(sizes[copy] for copy in copies if _is_unused(copy))
        possible = _find_room(home, sizes, max_bytes, freed=unused)
        if possible < num_bytes:
            return possible
    for copy in copies:
        if _find_room(home, sizes, max_bytes) >= num_bytes:
            break
        if _delete(copy):
            del sizes[copy]
    return _find_room(home, sizes, max_bytes)


def _find_room(home: Path, sizes: dict[Path, int], max_bytes: int | None, *, freed: int = 0) -> int:
    """`freed`: bytes of the copies that would be deleted before."""
    free = shutil.disk_usage(home).free
    return freed + (free if max_bytes is None else min(free, max_bytes - sum(sizes.values())))


def _measure(copy: Path) -> int:
    """Bytes on the disk, or those that a file will have when it is filled. A file that another process
    deletes meanwhile counts 0."""
    total = 0
    for folder, _, names in os.walk(copy):
        for name in names:
            with suppress(FileNotFoundError):
                status = Path(folder, name).lstat()
                total += max(status.st_size, status.st_blocks * 512)
    return total


def _make_copy(copy: Path, make: Callable[[Path], None]) -> None:
    partial = copy.with_name(f"{_MAKING}{copy.name}")  # the lock makes it ours
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


@contextmanager
def _try_lock(copy: Path) -> Iterator[bool]:
    """Hold the lock of a copy alone, or yield False if somebody has it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock(copy, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _prune(home: Path) -> None:
    """Delete copies that were not opened for a week, and unfinished ones as old."""
    for copy in home.iterdir():
        if _is_ours(copy) and (_is_stale(copy) or copy.name.startswith(_REMOVED)):
            _delete(copy, still=_is_stale)


def _delete(copy: Path, *, still: Callable[[Path], bool] = Path.is_dir) -> bool:
    """Whether the copy could be deleted: not if it is in use, or no longer what `still` asks for."""
    removed = copy
    if not copy.name.startswith(_REMOVED):
        removed = copy.with_name(f"{_REMOVED}{copy.name.lstrip('.')}-{os.getpid()}")
        with _try_lock(copy.with_name(copy.name.removeprefix(_MAKING))) as is_ours:
            if not is_ours or not still(copy):  # in use, or opened since we looked
                return False
            # First out of sight, at once: half a copy must never be visible if we are killed now.
            copy.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)
    return True


def _is_unused(copy: Path) -> bool:
    if copy.name.startswith(_REMOVED):
        return True
    with _try_lock(copy.with_name(copy.name.removeprefix(_MAKING))) as is_free:
        return is_free


def _is_ours(copy: Path) -> bool:
    return COPY_NAME.fullmatch(copy.name) is not None and copy.is_dir() and not copy.is_symlink()


def _is_stale(copy: Path) -> bool:
    return copy.is_dir() and time.time() - _find_opened(copy) > STALE_SECONDS


def _find_opened(copy: Path) -> float:
    """When the copy was opened last, in seconds since 1970; infinity if another process just deleted it."""
    try:
        return copy.stat().st_mtime
    except FileNotFoundError:
        return math.inf
