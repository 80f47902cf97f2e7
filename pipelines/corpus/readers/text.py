"""Plain text: each file is one document, an empty file too."""

from collections.abc import Generator, Iterator
from typing import BinaryIO

from pipelines.corpus.readers.format import Extent, Format, MalformedError, Record, Request, Slice
from pipelines.corpus.readers.lines import BOM, Lines, decode, read_lines, too_long


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The one record of the file; none if the file breaks off, because half a document is not a document."""
    return read_lines(stream, part, lambda lines: parse(lines, request))


def parse(lines: Lines, request: Request) -> Iterator[Record]:
    content = lines.read_all(request.max_record_bytes + 1)
    if lines.broken:
        return
    try:
        if len(content) > request.max_record_bytes:
            raise MalformedError(too_long(request.max_record_bytes))
        yield Record(0, 1, len(content), content, {"text": decode(content.removeprefix(BOM))}, None)
    except MalformedError as error:
        yield Record(0, 1, len(content), content, None, str(error))


FORMAT = Format(read=read, field_names=("text",))
