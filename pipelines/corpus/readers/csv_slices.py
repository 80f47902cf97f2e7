"""Where the first record of a slice of a CSV file starts: exactly where a reader of the whole file finds it.

A line break inside quotes is no end of a record, so a line in the middle of a file may start a record or
continue one. Both are followed. A record that contains the line ends with the next line that has an odd
number of quotes, because the reader joins lines up to the next odd one and no further. So there are two
readings only: the line starts a record, or the line after the next odd one does. Each of them is read with
the reader itself, mistakes included. From the first place on where both readings end a record, they are the
same, and whichever was right, a record starts there.

This begins 64 KiB before the slice. If the two readings do not meet before the slice starts, it begins
earlier, at last below the header. Cost: 64 KiB and the header a slice. If a file has no odd line for a long
stretch, max_record_bytes are searched for one.
"""

import io
from collections.abc import Generator, Iterator
from typing import BinaryIO

from pipelines.corpus.readers.csv_records import Header, parse, parse_records, read_header
from pipelines.corpus.readers.format import Extent, Record, Request, Slice
from pipelines.corpus.readers.lines import Lines, open_lines

_LOOK_BACK_BYTES = 2**16


def read_part(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The records that start in the slice, their lines counted from the first of them."""
    records = _read_from_before(stream, part, request)
    # The lines of the header belong to the first slice.
    lines_before = 0 if part.start == 0 else None
    for record in records:
        if record.offset < part.start:
            continue
        assert record.line is not None, "a CSV file has lines"
        if lines_before is None:
            lines_before = record.line - 1
        if part.stop is not None and record.offset >= part.stop:
            return Extent(record.line - 1 - lines_before)
        yield record._replace(line=record.line - lines_before)
    return Extent()  # the file ends here, so no slice asks for the number of lines


def _read_from_before(stream: BinaryIO, part: Slice, request: Request) -> Iterator[Record]:
    """The records from a certain start of a record on, at `part.start` or before it."""
    whole = open_lines(stream, part._replace(start=0, stop=None))
    header, _ = read_header(whole, request)
    if header is None or part.start <= whole.offset:
        return parse(open_lines(stream, part._replace(start=0, stop=None)), request)
    begin = _find_start(stream, part, whole.offset, header, request)
    return parse_records(_open_at(stream, part, begin), header, request)


def _find_start(stream: BinaryIO, part: Slice, below: int, header: Header, request: Request) -> int:
    """The offset of a line that starts a record, at most `part.start`. `below`: where the header ends."""
    look_back = _LOOK_BACK_BYTES
    while (guess := part.start - look_back) > below:
        found = _find_common_start(stream, part, guess, header, request)
        if found is not None:
            return found
        look_back *= 8
    return below


def _find_common_start(
    stream: BinaryIO, part: Slice, guess: int, header: Header, request: Request
) -> int | None:
    first = _open_at(stream, part, guess).offset
    closed = _find_line_after_quote(_open_at(stream, part, guess), request.max_record_bytes)
    if closed is None:
        return first if first <= part.start else None
    one, other = _follow(stream, part, first, header, request), _follow(stream, part, closed, header, request)
    here, there = next(one), next(other)
    while here is not None and there is not None and max(here, there) <= part.start:
        if here == there:
            return here
        if here < there:
            here = next(one, None)
        else:
            there = next(other, None)
    return None


def _follow(
    stream: BinaryIO, part: Slice, begin: int, header: Header, request: Request
) -> Iterator[int | None]:
    """The places where records end, if one starts at `begin`."""
    yield begin
    if begin > part.start:
        return
    lines = _open_at(stream, part, begin)
    for _ in parse_records(lines, header, request):
        yield lines.offset


def _find_line_after_quote(lines: Lines, max_record_bytes: int) -> int | None:
    """The offset behind the next line with an odd number of quotes, if a record can reach so far."""
    begin = lines.offset
    while data := lines.read(max_record_bytes + len("\r\n")):
        if lines.offset - begin > max_record_bytes + len("\r\n"):
            return None
        if data.count(b'"') % 2:
            return lines.offset
    return None


def _open_at(stream: BinaryIO, part: Slice, offset: int) -> Lines:
    """The lines from the first one on that starts at `offset` or behind it."""
    # A view of its own, because two readings go on at once.
    return open_lines(_View(stream), part._replace(start=offset, stop=None))  # type: ignore[arg-type]


class _View(io.RawIOBase):
    """A stream with a position of its own."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._position = stream, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET, "a view is only placed from the start"
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._stream.seek(self._position)
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
