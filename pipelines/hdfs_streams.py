"""Open files in HDFS that survive a data node that goes away and comes back."""

import io
from collections.abc import Callable
from typing import Any

from pipelines.repeating import is_restarting

Ask = Callable[[Callable[[], Any]], Any]
"""Calls a function, again while servers restart, and returns its answer."""
KEPT_BYTES = 16 * 2**20
"""Of a file that is being written, per open file."""


class PatientReader(io.RawIOBase):
    """A file that is read. It is opened again if a read fails: blocks may have moved to other data nodes."""

    def __init__(self, path: str, open_file: Callable[[], Any], ask: Ask) -> None:
        self._path, self._open, self._ask = path, open_file, ask
        self._file, self._at = ask(open_file), 0
        self._num_bytes = len(self._file)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes from the current position; all that are left if it is negative.

        Raises OSError if the file has another length when it is opened again.
        """
        is_open = True

        def attempt() -> bytes:
            nonlocal is_open
            if not is_open:
                self._reopen()
            is_open = False
            if self._file.tell() != self._at:  # `seek`, or a read that failed half way
                self._file.seek(min(self._at, self._num_bytes))
            return bytes(self._file.read(size))

        content: bytes = self._ask(attempt)
        self._at += len(content)
        return content

    def _reopen(self) -> None:
        self._file = self._open()
        if len(self._file) != self._num_bytes:
            raise OSError(
                f"{self._path} changed while it was read: it had {self._num_bytes} bytes, and has "
                f"{len(self._file)}; run the stage again"
            )


class PatientWriter(io.RawIOBase):
    """A file that grows. It belongs to this writer alone.

    A data node that goes away loses the block that is being written. So the first KEPT_BYTES are kept, and
    the file is begun again. A longer file fails: Spark runs its task again, whose new file waits here for the
    data node.
    """

    _file: Any = None
    _failed: Exception | None = None

    def __init__(self, path: str, create: Callable[[], Any], ask: Ask) -> None:
        self._path, self._create, self._ask = path, create, ask
        self._kept: list[bytes] | None = []
        self._num_bytes = 0
        self._file = ask(create)

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        # Memory of Arrow is valid during this call only.
        piece = bytes(content)
        self._num_bytes += len(piece)
        if self._kept is not None:
            self._kept.append(piece)
        self._do(lambda: self._file.write(piece))
        if self._num_bytes > KEPT_BYTES:
            self._kept = None
        return len(piece)

    def close(self) -> None:
        """Complete the file. Raises OSError if that failed: the file is not to be used."""
        try:
            if not self.closed and self._file is not None:
                self._do(self._file.close, closes=True)
        finally:
            super().close()

    def _do(self, step: Callable[[], Any], *, closes: bool = False) -> None:
        """Do the step; after a failure, write a new file with all pieces instead."""
        if self._failed is not None:  # nothing more is tried, and waited for, with this file
            raise self._failed
        try:
            if self._kept is None:
                step()
            else:
                self._do_or_begin_again(step, self._kept, closes=closes)
        except Exception as error:
            self._failed = error
            if self._kept is None and is_restarting(error):
                why = str(error).partition("\n")[0]
                self._failed = OSError(f"{self._path}: HDFS lost the file at {self._num_bytes} bytes: {why}")
            raise self._failed from None

    def _do_or_begin_again(self, step: Callable[[], Any], pieces: list[bytes], *, closes: bool) -> None:
        is_first = True

        def attempt() -> None:
            nonlocal is_first
            if is_first:
                is_first = False
                step()
                return
            self._file = self._create()
            for piece in pieces:
                self._file.write(piece)
            if closes:
                self._file.close()

        self._ask(attempt)
