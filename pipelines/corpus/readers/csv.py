"""CSV after RFC 4180, with a header line. `csv_records.py` reads records and says what a broken one costs;
`csv_slices.py` finds the first record of a slice.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import BinaryIO

from pipelines.corpus.readers.csv_records import parse
from pipelines.corpus.readers.csv_slices import read_part
from pipelines.corpus.readers.encoding import UTF_8, check_encoding
from pipelines.corpus.readers.format import Extent, Format, Record, Request, Slice
from pipelines.corpus.readers.lines import cut_plain, find_encoding, read_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    delimiter: str = ","
    """Between the fields; one character."""
    encoding: str = UTF_8
    """detect, or an encoding such as utf-8 or gb18030."""

    def __post_init__(self) -> None:
        valid = isinstance(self.delimiter, str) and len(self.delimiter) == 1
        if not valid or self.delimiter in '"\r\n\0':
            raise ValueError(
                f"delimiter must be one character, not a quote or line break, got {self.delimiter!r}"
            )
        check_encoding(self.encoding)


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The records that start in the slice."""
    if part.start == 0 and part.stop is None:
        encoding = find_encoding(stream, part, request.options.encoding)
        return read_lines(stream, part, lambda lines: parse(lines, request), encoding=encoding)
    return read_part(stream, part, request)


FORMAT = Format(read=read, cut=cut_plain, options=Options)
