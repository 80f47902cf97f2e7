"""Files that appear at their place completely or not at all: written under a temporary name beside it, on
local disks and in HDFS."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow.fs as pafs

from pipelines.hdfs import HdfsHandler


def put_local(writing: Path, target: str, chunks: Iterable[bytes | memoryview], *, replace: bool) -> bool:
    """Write `writing`, then give it the name `target`; True unless there is a file of that name that is not
    to be replaced. Flushed to disk first."""
    try:
        with writing.open("wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            writing.replace(target)
        else:
            _link(writing, Path(target))
    except FileExistsError:
        if replace:
            raise
        return False
    finally:
        writing.unlink(missing_ok=True)
    return True


def _link(writing: Path, target: Path) -> None:
    """Give the file the name `target` too. Raises FileExistsError if something has it."""
    try:
        target.hardlink_to(writing)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        with target.open("xb") as stream:  # a mount without hard links
            stream.write(writing.read_bytes())


def put_hdfs(
    hdfs: HdfsHandler, writing: str, target: str, chunks: Iterable[bytes | memoryview], *, replace: bool
) -> bool:
    """As `put_local`, in HDFS, which shows a file while it grows."""
    try:
        hdfs.write_file(writing, chunks)
        if replace:
            hdfs.move(writing, target)
        else:
            hdfs.move_to_new(writing, target)
    except (FileExistsError, FileNotFoundError):
        # The client repeats a rename whose answer was lost. If it had been done, our file has its new name.
        moved = not _exists(hdfs, writing) and _exists(hdfs, target)
        if not moved and (replace or not _exists(hdfs, target)):
            raise
        return moved
    finally:
        if _exists(hdfs, writing):
            hdfs.delete_file(writing)
    return True


def _exists(hdfs: HdfsHandler, path: str) -> bool:
    return hdfs.get_file_info([path])[0].type != pafs.FileType.NotFound
