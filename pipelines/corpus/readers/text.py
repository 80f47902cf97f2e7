"""Plain text: the whole file is one document, the empty file too."""

from collections.abc import Iterator

from pipelines.corpus.readers.records import BOM, Lines, MalformedError, Record, decode, too_long
from pipelines.corpus.source import Source


def records(lines: Lines, source: Source) -> Iterator[Record]:
    """The one record of the file; none where the stream broke, since half a document is no document."""
    content = lines.read_all(source.max_record_bytes + 1)
    if lines.broken:
        return
    try:
        if len(content) > source.max_record_bytes:
            raise MalformedError(too_long(source.max_record_bytes))
        yield Record(0, 1, len(content), content, {"text": decode(content.removeprefix(BOM))}, None)
    except MalformedError as error:
        yield Record(0, 1, len(content), content, None, str(error))
