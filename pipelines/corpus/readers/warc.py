"""WARC and WET: one record per response, resource and conversion record (ISO 28500). Plain or compressed.

Other kinds of records (warcinfo, request, metadata, revisit) describe a crawl and hold no document; they are
passed over and not counted. A record with another status than 2xx, or that is neither HTML nor text, is
quarantined, so that its reason can be counted.

- A .gz file holds one gzip member per record. It is read in slices, and behind a damage reading goes on with
  the next member. The offset of a record is the byte of the file where its member starts, as in a CDX index.
  A member with more than one record breaks this rule: its first record is read, the rest is one row of
  quarantine.
- Other files are read as a whole; the offset is the byte of the decompressed file. If a length in a header
  is wrong, reading goes on with the next line that starts a record.

This module finds records, because no library does so in damaged files; `warc_records.py` reads one. ARC, the
older format, is not read.
"""

import re
from collections.abc import Generator, Iterator
from typing import BinaryIO, NamedTuple

from pipelines.corpus.readers.compression import is_gzip
from pipelines.corpus.readers.format import (
    Extent,
    Format,
    MalformedError,
    Record,
    Request,
    Slice,
    SourceFile,
    cut_by_size,
    keep_whole,
)
from pipelines.corpus.readers.gzip import OUTPUT_BYTES, Members
from pipelines.corpus.readers.html import Options
from pipelines.corpus.readers.lines import Lines, open_lines, too_long
from pipelines.corpus.readers.warc_records import FIELD_NAMES, read_record

_MAX_HEADER_BYTES = 64 * 2**10
_SKIP_BYTES = 2**20
_PEEK_BYTES, _MAX_VERSION_BYTES = 2**16, 2**7
_VERSION = re.compile(rb"WARC/\d+\.\d+\s*\n")
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_NEXT_RECORD = re.compile(rb"\nWARC/\d+\.\d+\s*\n")


class _Header(NamedTuple):
    num_bytes: int
    """Version line to blank line."""
    content_length: int


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The records that start in the slice."""
    if is_gzip(part.path):
        return (yield from _read_members(stream, part, request))
    yield from _read_lines(open_lines(stream, part), request)
    return Extent()


def _read_members(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    members = Members(stream, start=part.start, stop=part.stop)
    while members.start_member() and members.next_slice is None:
        start = members.member_start
        data, num_bytes = _read_member(members, request.max_record_bytes + _MAX_HEADER_BYTES)
        if members.broken:
            yield Record(start, None, num_bytes, data, None, members.broken)
            members.resume()
        else:
            yield from _read_member_content(start, data, num_bytes, request)
    if part.start == 0 and part.stop is None:
        return Extent()
    return Extent(num_bytes=0, first_member=members.first, next_member=members.next_slice)


def _read_member(members: Members, limit: int) -> tuple[bytes, int]:
    """The first `limit` bytes of a member, and how many bytes it has."""
    data, num_bytes = bytearray(), 0
    while piece := members.read_piece(OUTPUT_BYTES, within_member=True):
        data += piece[: limit - len(data)]
        num_bytes += len(piece)
    return bytes(data), num_bytes


def _read_member_content(start: int, data: bytes, num_bytes: int, request: Request) -> Iterator[Record]:
    blank = len(data) - len(data.lstrip(b"\r\n"))
    if blank == len(data) == num_bytes:
        return
    try:
        header = _read_header(data[blank:])
        length = blank + header.num_bytes + header.content_length
        if header.content_length > request.max_record_bytes:
            raise MalformedError(too_long(request.max_record_bytes))
        if num_bytes < length:
            raise MalformedError(f"warc: the record ends after {num_bytes:,} of {length:,} bytes")
        behind = data[length:].lstrip(b"\r\n")
        yield from read_record(start, data[blank:length], request)
    except MalformedError as error:
        yield Record(start, None, num_bytes, data, None, str(error))
        return
    if behind or num_bytes > len(data):
        # An offset of its own: the magic bytes of the member are no other record's place.
        reason = "warc: a gzip member holds more than one record; compress each record as a member of its own"
        yield Record(start + 1, None, num_bytes - length, data[length:], None, reason)


def _read_header(data: bytes) -> _Header:
    """Where the content of a record begins, and how long it is. Raises MalformedError."""
    if not _VERSION.match(data):
        arc = "; ARC files must be converted to WARC first" if data.startswith(b"filedesc:") else ""
        raise MalformedError(f"warc: {data[:40]!r} does not start a record{arc}")
    end = re.search(rb"\r?\n\r?\n", data[:_MAX_HEADER_BYTES])
    if end is None:
        raise MalformedError(f"warc: the header does not end within {_MAX_HEADER_BYTES:,} bytes")
    length = _LENGTH.search(data[: end.end()])
    if length is None:
        raise MalformedError("warc: the header has no valid Content-Length")
    return _Header(end.end(), int(length[1]))


def _read_lines(lines: Lines, request: Request) -> Iterator[Record]:
    is_wrong = False
    while True:
        start, line = lines.offset, lines.read(_MAX_HEADER_BYTES)
        if not line:
            break
        if line in (b"\r\n", b"\n"):
            continue
        data = line
        try:
            data += _read_header_lines(lines) if _VERSION.match(line) else b""
            content_length = _read_header(data).content_length
            if is_wrong and content_length <= request.max_record_bytes:
                _refuse_record_inside(lines, content_length)
            content, is_wrong = _read_content(lines, content_length, request), False
        except MalformedError as error:
            is_wrong = True
            _skip_to_record(lines)
            yield Record(start, None, lines.offset - start, data, None, str(error))
            continue
        try:
            yield from read_record(start, data + content, request)
        except MalformedError as error:
            yield Record(start, None, lines.offset - start, data + content, None, str(error))
    if lines.broken:
        yield Record(lines.offset, None, len(lines.tail), lines.tail, None, lines.broken)


def _read_header_lines(lines: Lines) -> bytes:
    """The lines to the blank one."""
    data = bytearray()
    while len(data) < _MAX_HEADER_BYTES and (line := lines.read(_MAX_HEADER_BYTES - len(data))):
        data += line
        if line in (b"\r\n", b"\n"):
            break
    return bytes(data)


def _read_content(lines: Lines, num_bytes: int, request: Request) -> bytes:
    """The content of a record. Raises MalformedError if it is too long, or if neither a blank line nor a
    record follows it. If another record starts within it, that one is given back."""
    if num_bytes > request.max_record_bytes:
        while num_bytes > 0 and (piece := lines.read_block(min(num_bytes, _SKIP_BYTES))):
            num_bytes -= len(piece)
        raise MalformedError(too_long(request.max_record_bytes))
    content = lines.read_block(num_bytes)
    behind = lines.read(_MAX_HEADER_BYTES)
    if _VERSION.match(behind):
        lines.give_back(behind)
        behind = b""
    if len(content) == num_bytes and behind in (b"", b"\n", b"\r\n"):
        return content
    taken = content + behind
    if found := _NEXT_RECORD.search(taken):
        lines.give_back(taken[found.start() + 1 :])
    if len(content) < num_bytes:
        raise MalformedError(f"warc: the record ends after {len(content):,} of {num_bytes:,} bytes")
    raise MalformedError(f"warc: no blank line follows the record; Content-Length is {num_bytes:,}")


def _refuse_record_inside(lines: Lines, num_bytes: int) -> None:
    """Raises MalformedError if another record starts within the next bytes, and leaves them to be read.

    Behind a record with a wrong length the next one may be wrong too. If each of a thousand small records
    says that it has 16 MiB, reading and giving back all of them takes hours, so here few bytes are read.
    """
    read = b""
    while len(read) < num_bytes and (piece := lines.read_block(min(_PEEK_BYTES, num_bytes - len(read)))):
        begin = max(len(read) - _MAX_VERSION_BYTES, 0)
        read += piece
        if found := _NEXT_RECORD.search(read, begin):
            lines.give_back(read[found.start() + 1 :])
            raise MalformedError(f"warc: the record ends after {found.start() + 1:,} of {num_bytes:,} bytes")
        if len(read) > _PEEK_BYTES * 16:
            break
    lines.give_back(read)


def _skip_to_record(lines: Lines) -> None:
    """Skip to the next line that starts a record."""
    is_line_start = True
    while line := lines.read(_MAX_HEADER_BYTES):
        if is_line_start and _VERSION.match(line):
            lines.give_back(line)
            return
        is_line_start = line[-1:] == b"\n"


def cut(file: SourceFile, slice_bytes: int, options: Options) -> Iterator[tuple[int, int | None]]:
    """gzip files by size, others whole."""
    return (cut_by_size if is_gzip(file.path) else keep_whole)(file, slice_bytes, options)


FORMAT = Format(read=read, cut=cut, field_names=FIELD_NAMES, options=Options)
