"""TSV as IANA registers it (text/tab-separated-values): a header line, one record per line, fields between
tabs.

There is no quoting: a quote is a character like any other, and a field can't contain a tab or a line break.
Backslash sequences such as \\t stay as they are written. A file that quotes its fields is csv with options:
{delimiter: "\\t"}.

A record never spans lines, so files are read in byte slices, and each slice reads the header again: one more
request per slice. Every line has as many fields as the header. Empty lines are not records. LF or CRLF ends a
line.
"""

from collections.abc import Generator, Iterator
from typing import BinaryIO, NamedTuple

from pipelines.corpus.readers.csv_records import locate_names
from pipelines.corpus.readers.encoding import Options
from pipelines.corpus.readers.format import Extent, Format, MalformedError, Record, Request, Slice
from pipelines.corpus.readers.lines import (
    BOM,
    Lines,
    cut_plain,
    find_encoding,
    open_lines,
    read_lines,
    too_long,
    without_line_end,
)


class _Line(NamedTuple):
    offset: int
    line: int
    num_bytes: int
    raw: bytes
    is_too_long: bool


class _Header(NamedTuple):
    line: _Line | None
    """None = the file has no line that is not empty."""
    num_fields: int
    columns: tuple[tuple[str, int], ...]
    """(field that the source maps, its position)"""
    problem: str | None
    """Why no record of the file can be read."""


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The records whose lines start in the slice. An unusable header quarantines itself and every record."""
    whole = part._replace(start=0, stop=None)
    encoding = find_encoding(stream, part, request.options.encoding)
    header = _read_header(open_lines(stream, whole, encoding), request)
    stream.seek(0)

    def parse(lines: Lines) -> Iterator[Record]:
        return _parse(lines, request, header, part.start == 0)

    return (yield from read_lines(stream, part, parse, encoding=encoding))


def _parse(lines: Lines, request: Request, header: _Header, is_first: bool) -> Iterator[Record]:
    """`is_first`: the first slice of the file reports the header."""
    if is_first and header.line and header.problem:
        yield _quarantine(header.line, header.problem)
    for line in _read_filled(lines, request):
        # Compared by position, because a long header may end in a later slice.
        if header.line and line.offset > header.line.offset:
            yield _parse_record(line, header, lines, request)
    if is_first and not header.line and not lines.broken:
        yield Record(0, 1, 0, b"", None, "header: the file is empty")


def _read_filled(lines: Lines, request: Request) -> Iterator[_Line]:
    """The lines that are not empty."""
    limit = request.max_record_bytes + len("\r\n")
    while not lines.exhausted and (data := lines.read(limit)):
        offset, line = lines.offset - len(data), lines.line - (data[-1:] == b"\n")
        content = without_line_end(data)
        is_too_long = len(content) > request.max_record_bytes
        skipped = lines.skip_line() if is_too_long and data[-1:] != b"\n" else 0
        if content.removeprefix(BOM) if offset == 0 else content:
            yield _Line(offset, line, len(data) + skipped, data, is_too_long)


def _read_header(lines: Lines, request: Request) -> _Header:
    line = next(_read_filled(lines, request), None)
    if line is None:
        return _Header(None, 0, (), None)
    try:
        if line.is_too_long:
            raise MalformedError(too_long(request.max_record_bytes))
        names = lines.decode(without_line_end(line.raw.removeprefix(BOM))).split("\t")
        return _Header(line, len(names), locate_names(request.names, names), None)
    except MalformedError as error:
        return _Header(line, 0, (), f"header: {error}")


def _parse_record(line: _Line, header: _Header, lines: Lines, request: Request) -> Record:
    try:
        if header.problem or line.is_too_long:
            raise MalformedError(header.problem or too_long(request.max_record_bytes))
        text = lines.decode(without_line_end(line.raw))
        # Counted before they are split: a line of 16 MiB may have millions.
        if (num_fields := text.count("\t") + 1) != header.num_fields:
            raise MalformedError(f"number of fields: {num_fields}, but the header has {header.num_fields}")
    except MalformedError as error:
        return _quarantine(line, str(error))
    fields = text.split("\t")
    values = {name: fields[index] for name, index in header.columns}
    return Record(*line[:4], values, None)


def _quarantine(line: _Line, reason: str) -> Record:
    return Record(*line[:4], None, reason)


FORMAT = Format(read=read, cut=cut_plain, options=Options)
