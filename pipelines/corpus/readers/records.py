"""What every reader yields, and lines with exact positions, with bounded memory."""

import io
from typing import NamedTuple, Protocol

from pipelines.corpus.source import SPLITS

BOM = b"\xef\xbb\xbf"
_SKIP_BYTES = 2**16


class Record(NamedTuple):
    """One record of a file. Exactly one of `fields` and `reason` is given."""

    offset: int
    """Byte of the decompressed file at which it starts."""
    line: int
    """1-based line of the file on which it starts."""
    num_bytes: int
    """Bytes of the decompressed file that it covers, line ending included."""
    raw: bytes
    """Those bytes; only the first of them where the record is longer than the limit."""
    fields: dict[str, str] | None
    """Column of the document -> value. A column with no value is absent, text and a mapped key never are."""
    reason: str | None
    """Why it is broken, as 'kind: detail'."""


class MalformedError(ValueError):
    """The bytes are no record of the format; the message is the reason."""


class ByteStream(Protocol):
    """What `Lines` needs of a stream. `broken` says why it ended early; None while and where it did not."""

    @property
    def broken(self) -> str | None: ...
    def readline(self, limit: int, /) -> bytes: ...
    def read(self, limit: int, /) -> bytes: ...


class Bytes(io.BufferedReader):
    """A buffered binary stream that cannot end early."""

    broken: str | None = None


class Lines:
    """Lines of a stream, each ended by LF, with a way back.

    A line belongs to the slice [start, stop) that holds its first byte, so that consecutive slices read every line
    once. `start` above 0: the stream stands at byte start - 1, and `line` counts the LF in front of `start`, plus 1.
    """

    def __init__(self, stream: ByteStream, *, start: int = 0, stop: int | None = None, line: int = 1) -> None:
        self.offset = start
        """Byte of the next line."""
        self.line = line
        """1-based number of the next line."""
        self.tail = b""
        """What follows the last whole line of a stream that broke."""
        self._stream = stream
        self._returned = io.BytesIO()
        self._stop = stop
        if start > 0:
            self._leave_line_of_earlier_slice()

    def _leave_line_of_earlier_slice(self) -> None:
        start, line = self.offset, self.line
        self.offset -= 1
        if self.read(1) == b"\n":
            assert self.offset == start
            self.line = line  # the caller has counted this LF
            return
        while not self.exhausted and (piece := self.read(_SKIP_BYTES)) and piece[-1:] != b"\n":
            pass

    @property
    def broken(self) -> str | None:
        return self._stream.broken

    @property
    def exhausted(self) -> bool:
        """Whether the next line belongs to the next slice."""
        return self._stop is not None and self.offset >= self._stop

    def read(self, limit: int) -> bytes:
        """The next line, or the first `limit` bytes of it; empty at the end. A line cut by a broken stream is `tail`."""
        data = self._returned.readline(limit)
        if len(data) < limit and data[-1:] != b"\n":
            data += self._stream.readline(limit - len(data))
            if self._stream.broken and len(data) < limit and data[-1:] != b"\n":
                self.tail, data = data, b""
        self.offset += len(data)
        self.line += data[-1:] == b"\n"
        return data

    def skip_line(self) -> int:
        """Pass over the rest of the line; the number of bytes passed over."""
        before = self.offset
        while (piece := self.read(_SKIP_BYTES)) and piece[-1:] != b"\n":
            pass
        return self.offset - before

    def give_back(self, data: bytes) -> None:
        """Let `data`, the last bytes that were read, be read again."""
        self.offset -= len(data)
        self.line -= data.count(b"\n")
        position = self._returned.tell()
        if position < len(self._returned.getbuffer()):
            # some of it is still unread, so all of `data` came from here
            self._returned.seek(position - len(data))
        else:
            self._returned = io.BytesIO(data)

    def read_all(self, limit: int) -> bytes:
        """The first `limit` bytes of a stream of which nothing was read; those of a broken stream are `tail`."""
        data = self._stream.read(limit)
        if self._stream.broken:
            self.tail, data = data, b""
        self.offset += len(data)
        return data


def without_line_end(data: bytes) -> bytes:
    """The line without its LF or CRLF."""
    if data[-1:] != b"\n":
        return data
    return data[:-2] if data[-2:-1] == b"\r" else data[:-1]


def too_long(max_record_bytes: int) -> str:
    return f"too long: more than max_record_bytes = {max_record_bytes:,}"


def decode(data: bytes) -> str:
    """The text of the bytes. Raises MalformedError where they are not UTF-8 or hold NUL, which text never does."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(
            f"invalid UTF-8: byte 0x{data[error.start]:02x} at {error.start} of the record"
        ) from None
    if "\0" in text:
        raise MalformedError("NUL: the text holds the character U+0000; is the file UTF-16 or binary?")
    return text


def checked(fields: dict[str, str]) -> dict[str, str]:
    """The fields without empty label and split. Raises MalformedError for an empty key or a split of another name."""
    if fields.get("key") == "":
        raise MalformedError("key: it is empty")
    split = fields.get("split")
    if split and split not in SPLITS:
        raise MalformedError(f"split: {split[:40]!r} is none of {', '.join(SPLITS)}")
    if all(fields.values()):
        return fields
    return {column: value for column, value in fields.items() if value or column == "text"}
