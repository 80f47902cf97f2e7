"""Lines of text: each line is one document. Blank lines are not records.

A record never spans lines, so files are read in byte slices, and gzip files by their members.
"""

from collections.abc import Generator, Iterator
from typing import BinaryIO

from pipelines.corpus.readers.encoding import UTF_8, Options
from pipelines.corpus.readers.format import Extent, Format, MalformedError, Record, Request, Slice
from pipelines.corpus.readers.lines import (
    BOM,
    Lines,
    cut_lines,
    find_encoding,
    read_lines,
    too_long,
    without_line_end,
)


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The lines that start in the slice."""
    encoding = find_encoding(stream, part, request.options.encoding)

    def parse(lines: Lines) -> Iterator[Record]:
        return _parse(lines, request, None if encoding == UTF_8 else encoding)

    return read_lines(stream, part, parse, encoding=encoding, resumes=True)


def _parse(lines: Lines, request: Request, encoding: str | None) -> Iterator[Record]:
    limit = request.max_record_bytes + len("\r\n")
    while not lines.exhausted and (data := lines.read(limit)):
        ended = data[-1:] == b"\n"
        offset, line, num_bytes = lines.offset - len(data), lines.line - ended, len(data)
        content = without_line_end(data)
        if len(content) > request.max_record_bytes:
            num_bytes += 0 if ended else lines.skip_line()
            yield Record(offset, line, num_bytes, data, None, too_long(request.max_record_bytes))
            continue
        if offset == 0:
            content = content.removeprefix(BOM)
        if not content.strip():
            continue
        try:
            values = {"text": lines.decode(content), "encoding": encoding}
            yield Record(offset, line, num_bytes, data, values, None)
        except MalformedError as error:
            yield Record(offset, line, num_bytes, data, None, str(error))


FORMAT = Format(read=read, cut=cut_lines, field_names=("text", "encoding"), options=Options)
