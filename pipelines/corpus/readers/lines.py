"""Lines with exact positions and bounded memory: what formats with lines share.

A line ends with LF. Files whose names end as in `compression.py` are decompressed; positions are those of the
decompressed bytes. Other encodings than UTF-8 are for `encoding.py`.

A line belongs to the slice that holds its first byte. A slice of a gzip file cannot know whether a line
starts with its first member, so there the first line of a slice always belongs to the slice before, as in
Hadoop.
"""

import io
from collections.abc import Callable, Generator, Iterator
from typing import Any, BinaryIO

from pipelines.corpus.readers.compression import is_compressed, is_gzip
from pipelines.corpus.readers.encoding import (
    UTF_8,
    RecodedStream,
    detect_encoding,
    get_kept_byte,
    may_be_recoded,
)
from pipelines.corpus.readers.format import (
    Extent,
    MalformedError,
    Record,
    Slice,
    SourceFile,
    cut_by_size,
    keep_whole,
)
from pipelines.corpus.readers.gzip import GzipStream
from pipelines.corpus.readers.pages import find_codec
from pipelines.corpus.readers.streams import BUFFER_BYTES, ByteStream, open_bytes

BOM = b"\xef\xbb\xbf"
_SKIP_BYTES = 2**16


class Lines:
    """Lines of a stream, each ended by LF. Lines can be given back and read again.

    A line belongs to the slice [start, stop) that holds its first byte, so consecutive slices read every line
    exactly once. If `start` is above 0, the stream must be at byte start - 1.
    """

    def __init__(self, stream: ByteStream, *, start: int = 0, encoding: str = UTF_8) -> None:
        self.offset = start
        """Byte of the next line."""
        self.line = 1
        """Number of the next line: 1 for the first one that belongs to the slice."""
        self.tail = b""
        """Bytes after the last complete line of a stream that broke off."""
        self._stream, self._encoding = stream, encoding
        self._returned, self._has_returned = io.BytesIO(), False

    def skip_line_of_earlier_slice(self) -> None:
        """Skip the line that starts before the slice. The stream must be one byte before the slice."""
        self.offset -= 1
        if self.read(1) != b"\n":
            while not self.exhausted and (piece := self.read(_SKIP_BYTES)) and piece[-1:] != b"\n":
                pass
        self.line = 1  # whatever was skipped was counted by an earlier slice

    def skip_first_line(self) -> bool:
        """Skip the line that has already begun, and any damage in it. False = the stream or the slice ends
        before the line does."""
        line = self.line
        while True:
            while not self.exhausted and (piece := self.read(_SKIP_BYTES)):
                if piece[-1:] == b"\n":
                    self.line = line
                    return True
            if self.exhausted or not self.broken or not self._pass_damage():
                return False

    def resume(self) -> bool:
        """Go on behind a damage, at the first line that starts there. False = nothing can be read there."""
        return self._pass_damage() and self.skip_first_line()

    def _pass_damage(self) -> bool:
        self.offset, self.tail = self.offset + len(self.tail), b""
        return self._stream.resume()

    @property
    def broken(self) -> str | None:
        return self._stream.broken

    @property
    def exhausted(self) -> bool:
        """Whether the next line belongs to the next slice."""
        end = self._stream.end
        return end is not None and self.offset >= end

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

    def read_block(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end. Lines are not counted."""
        data = self._returned.read(size) if self._has_returned else b""
        if len(data) < size:
            self._has_returned = False
            data += self._stream.read(size - len(data))
        self.offset += len(data)
        return data

    def decode(self, data: bytes) -> str:
        """The text of a whole line or record. Raises MalformedError."""
        return decode(data, self._encoding)

    def read_all(self, limit: int) -> bytes:
        """The first `limit` bytes of an unread stream; those of a stream that broke off go to `tail`."""
        data = self._stream.read(limit)
        if self._stream.broken:
            self.tail, data = data, b""
        self.offset += len(data)
        return data


def read_lines(
    stream: BinaryIO,
    part: Slice,
    parse: Callable[["Lines"], Iterator[Record]],
    *,
    encoding: str = UTF_8,
    resumes: bool = False,
) -> Generator[Record, None, Extent]:
    """The records that `parse` makes of the slice, and one for each place where the file is damaged.

    `resumes`: whether a record may start at any line, so that reading goes on behind a damage of a gzip file.
    """
    if is_gzip(part.path) and (part.start or part.stop is not None):
        return (yield from _read_members(stream, part, parse))
    lines = open_lines(stream, part, encoding)
    while True:
        yield from parse(lines)
        if not lines.broken:
            break
        yield _describe_damage(lines)
        if not (resumes and lines.resume()):
            break
    return Extent(lines.line - 1)


def _read_members(
    stream: BinaryIO, part: Slice, parse: Callable[["Lines"], Iterator[Record]]
) -> Generator[Record, None, Extent]:
    """The same for the members of a gzip file that start in the slice, and for the line that follows them."""
    found = GzipStream(stream, start=part.start, stop=part.stop, base=part.base)
    members, lines = found.members, Lines(found, start=part.base)
    if members.first is None:
        return Extent(num_bytes=0)
    has_more = part.start == 0 or lines.skip_first_line()
    while has_more:
        yield from parse(lines)
        if lines.exhausted or not lines.broken:
            break
        yield _describe_damage(lines)
        has_more = lines.resume()
    while members.end is None and (found.read(BUFFER_BYTES) or (found.broken and found.resume())):
        pass  # pass over the rest of a member that no line of the slice needs
    num_bytes = members.num_bytes if members.end is None else members.end - part.base
    return Extent(
        lines.line - 1, first_member=members.first, next_member=members.next_slice, num_bytes=num_bytes
    )


def _describe_damage(lines: "Lines") -> Record:
    return Record(lines.offset, lines.line, len(lines.tail), lines.tail, None, lines.broken)


def find_encoding(stream: BinaryIO, part: Slice, wanted: str) -> str:
    """Python's name of the encoding of a file; `wanted` may be detect. Leaves the stream at byte 0."""
    if wanted != "detect":
        return find_codec(wanted) or wanted
    found = detect_encoding(open_bytes(stream, part._replace(start=0, stop=None)))
    stream.seek(0)
    return found


def open_lines(stream: BinaryIO, part: Slice, encoding: str = UTF_8) -> "Lines":
    """The lines of a slice. A file that is compressed or not UTF-8 is read from its beginning."""
    opened = open_bytes(stream, part)
    if encoding != UTF_8:
        assert part[1:3] == (0, None), "a file that is not UTF-8 is one slice"
        return Lines(RecodedStream(opened, encoding), encoding=encoding)
    if is_compressed(part.path):
        return Lines(opened)
    lines = Lines(opened, start=part.start)
    if part.start > 0:
        lines.skip_line_of_earlier_slice()
    return lines


def cut_lines(file: SourceFile, slice_bytes: int, options: Any) -> Iterator[tuple[int, int | None]]:
    """Ranges by size, for formats whose records are single lines. bz2, xz and zstd files stay whole, and so
    do files that may not be UTF-8."""
    is_whole = (is_compressed(file.path) and not is_gzip(file.path)) or may_be_recoded(options)
    return (keep_whole if is_whole else cut_by_size)(file, slice_bytes, options)


def cut_plain(file: SourceFile, slice_bytes: int, options: Any) -> Iterator[tuple[int, int | None]]:
    """Ranges by size, for formats with a header line or longer records. Compressed files stay whole, and so
    do files that may not be UTF-8."""
    is_whole = is_compressed(file.path) or may_be_recoded(options)
    return (keep_whole if is_whole else cut_by_size)(file, slice_bytes, options)


def without_line_end(data: bytes) -> bytes:
    """The line without its LF or CRLF."""
    if data[-1:] != b"\n":
        return data
    return data[:-2] if data[-2:-1] == b"\r" else data[:-1]


def too_long(max_record_bytes: int) -> str:
    """The reason for a record above the limit."""
    return f"too long: more than max_record_bytes = {max_record_bytes:,}"


def decode(data: bytes, encoding: str = UTF_8) -> str:
    """The text of bytes in UTF-8. `encoding`: of the file that they come from. Raises MalformedError if they
    are not UTF-8 or contain NUL."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if encoding != UTF_8:
            kept = get_kept_byte(data, error.start)
            raise MalformedError(
                f"encoding: byte 0x{kept:02x} at {error.start} of the record is not valid {encoding}"
            ) from None
        raise MalformedError(
            f"invalid UTF-8: byte 0x{data[error.start]:02x} at {error.start} of the record"
        ) from None
    if "\0" in text:
        raise MalformedError("NUL: the text contains the character U+0000; is the file UTF-16 or binary?")
    return text
