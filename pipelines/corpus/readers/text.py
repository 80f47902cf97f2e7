"""Plain text: each file is one document, an empty file too. Other encodings than UTF-8 are an option."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import BinaryIO

from pipelines.corpus.readers.format import Extent, Format, MalformedError, Record, Request, Slice
from pipelines.corpus.readers.lines import BOM, decode
from pipelines.corpus.readers.pages import decode_bytes, find_codec
from pipelines.corpus.readers.whole import read_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    encoding: str = "utf-8"
    """detect (see `pages.decode_bytes`), or an encoding such as utf-8 or gb18030."""

    def __post_init__(self) -> None:
        known = isinstance(self.encoding, str) and (self.encoding == "detect" or find_codec(self.encoding))
        if not known:
            raise ValueError(
                f"encoding must be detect or an encoding such as utf-8 or gb18030, got {self.encoding!r}"
            )


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The one record of the file."""
    return read_whole(
        stream, part, request, lambda content: {"text": decode_file(content, request.options.encoding)}
    )


def decode_file(content: bytes, encoding: str) -> str:
    """The text of a file. Raises MalformedError if the bytes are not in the encoding."""
    if encoding == "detect":
        return decode_bytes(content).text
    name = find_codec(encoding) or encoding
    if name == "utf-8":
        return decode(content.removeprefix(BOM))
    try:
        text = content.decode(name).removeprefix("\ufeff")
        return decode(text.encode())
    except UnicodeDecodeError as error:
        at = f"byte 0x{content[error.start]:02x} at {error.start}"
        raise MalformedError(f"encoding: {at} of the file is not valid {encoding}") from None
    except UnicodeEncodeError:
        raise MalformedError(f"encoding: the file is not valid {encoding}") from None


FORMAT = Format(read=read, field_names=("text",), options=Options)
