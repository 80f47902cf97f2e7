"""Formats with one document per file: the whole content becomes the fields of one record."""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import BinaryIO

from pipelines.corpus.readers.format import Extent, MalformedError, Record, Request, Slice
from pipelines.corpus.readers.lines import Lines, read_lines, too_long

Convert = Callable[[bytes], Mapping[str, object]]
"""Content to fields; raises MalformedError."""


def read_whole(
    stream: BinaryIO, part: Slice, request: Request, convert: Convert
) -> Generator[Record, None, Extent]:
    """The one record of the file; none if the file breaks off, because half a document is not a document."""
    return read_lines(stream, part, lambda lines: _parse(lines, request, convert))


def _parse(lines: Lines, request: Request, convert: Convert) -> Iterator[Record]:
    content = lines.read_all(request.max_record_bytes + 1)
    if lines.broken:
        return
    try:
        if len(content) > request.max_record_bytes:
            raise MalformedError(too_long(request.max_record_bytes))
        yield Record(0, 1, len(content), content, convert(content), None)
    except MalformedError as error:
        yield Record(0, 1, len(content), content, None, str(error))
