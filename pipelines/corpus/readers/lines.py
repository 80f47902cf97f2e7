"""Lines with exact positions and bounded memory: what formats with lines share.

A line ends with LF. gzip files (name ends with .gz) are decompressed; positions are those of the decompressed
bytes.
"""

import io
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO, Protocol

from pipelines.corpus.readers.format import MalformedError, Record, Slice, SourceFile, cut_by_size, keep_whole
from pipelines.corpus.readers.gzip import GzipStream

BOM = b"\xef\xbb\xbf"
_SKIP_BYTES = 2**16
_BUFFER_BYTES = 2**20


class ByteStream(Protocol):
    """What `Lines` needs from a stream. `broken` says why it ended early; None = it did not, or not yet."""

    @property
    def broken(self) -> str | None: ...
    def readline(self, limit: int, /) -> bytes: ...
    def read(self, limit: int, /) -> bytes: ...


class Bytes(io.BufferedReader):
    """A buffered binary stream that cannot break off."""

    broken: str | None = None

    def close(self) -> None:
        """Leave the file open: it belongs to the caller. BufferedReader would close it when it is freed."""


class Lines:
    """Lines of a stream, each ended by LF. Lines can be given back and read again.

    A line belongs to the slice [start, stop) that holds its first byte, so consecutive slices read every line
    exactly once. If `start` is above 0, the stream must be at byte start - 1.
    """

    def __init__(self, stream: ByteStream, *, start: int = 0, stop: int | None = None) -> None:
        self.offset = start
        """Byte of the next line."""
        self.line = 1
        """Number of the next line: 1 for the first one that belongs to the slice."""
        self.tail = b""
        """Bytes after the last complete line of a stream that broke off."""
        self._stream = stream
        self._returned, self._has_returned = io.BytesIO(), False
        self._stop = stop
        if start > 0:
            self._skip_line_of_earlier_slice()

    def _skip_line_of_earlier_slice(self) -> None:
        self.offset -= 1
        if self.read(1) != b"\n":
            while not self.exhausted and (piece := self.read(_SKIP_BYTES)) and piece[-1:] != b"\n":
                pass
        self.line = 1  # whatever was skipped was counted by an earlier slice

    @property
    def broken(self) -> str | None:
        return self._stream.broken

    @property
    def exhausted(self) -> bool:
        """Whether the next line belongs to the next slice."""
        return self._stop is not None and self.offset >= self._stop

    def read(self, limit: int) -> bytes:
        """The next line or its first `limit` bytes; empty at the end. A line cut off goes to `tail`."""
        data = self._returned.readline(limit) if self._has_returned else b""
        if len(data) < limit and data[-1:] != b"\n":
            self._has_returned = False
            data += self._stream.readline(limit - len(data))
            if data[-1:] != b"\n" and data and len(data) < limit and self._stream.broken:
                self.tail, data = data, b""
        self.offset += len(data)
        self.line += data[-1:] == b"\n"
        return data

    def skip_line(self) -> int:
        """Skip the rest of the line. Returns the number of bytes skipped."""
        before = self.offset
        while (piece := self.read(_SKIP_BYTES)) and piece[-1:] != b"\n":
            pass
        return self.offset - before

    def give_back(self, data: bytes) -> None:
        """Make the last bytes that were read, `data`, readable again."""
        self.offset -= len(data)
        self.line -= data.count(b"\n")
        self._has_returned = True
        position = self._returned.tell()
        if position < len(self._returned.getbuffer()):
            # some returned bytes are still unread, so all of `data` came from here
            self._returned.seek(position - len(data))
        else:
            self._returned = io.BytesIO(data)

    def read_all(self, limit: int) -> bytes:
        """The first `limit` bytes of an unread stream; those of a stream that broke off go to `tail`."""
        data = self._stream.read(limit)
        if self._stream.broken:
            self.tail, data = data, b""
        self.offset += len(data)
        return data


def read_lines(
    stream: BinaryIO, part: Slice, parse: Callable[["Lines"], Iterator[Record]]
) -> Generator[Record, None, int]:
    """The records that `parse` makes of the slice, and one that says where the file broke off, if it did.

    Returns the number of line feeds of the slice.
    """
    lines = open_lines(stream, part)
    yield from parse(lines)
    if lines.broken:
        yield Record(lines.offset, lines.line, len(lines.tail), lines.tail, None, lines.broken)
    return lines.line - 1


def open_lines(stream: BinaryIO, part: Slice) -> "Lines":
    """The lines of a slice. A gzip file is read from its beginning, since it is not cut."""
    if is_gzip(part.path):
        return Lines(GzipStream(stream))
    stream.seek(max(part.start - 1, 0))
    return Lines(Bytes(stream, _BUFFER_BYTES), start=part.start, stop=part.stop)  # type: ignore[arg-type]


def is_gzip(path: str) -> bool:
    return path.lower().endswith(".gz")


def cut_lines(file: SourceFile, slice_bytes: int) -> Iterator[tuple[int, int | None]]:
    """Ranges by size; gzip files stay whole, as they cannot be entered midway."""
    return (keep_whole if is_gzip(file.path) else cut_by_size)(file, slice_bytes)


def without_line_end(data: bytes) -> bytes:
    """The line without its LF or CRLF."""
    if data[-1:] != b"\n":
        return data
    return data[:-2] if data[-2:-1] == b"\r" else data[:-1]


def too_long(max_record_bytes: int) -> str:
    """The reason for a record above the limit."""
    return f"too long: more than max_record_bytes = {max_record_bytes:,}"


def decode(data: bytes) -> str:
    """The text of the bytes. Raises MalformedError if they are not UTF-8 or contain NUL."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(
            f"invalid UTF-8: byte 0x{data[error.start]:02x} at {error.start} of the record"
        ) from None
    if "\0" in text:
        raise MalformedError("NUL: the text contains the character U+0000; is the file UTF-16 or binary?")
    return text
