"""Plain text: each file is one document, an empty file too. Other encodings than UTF-8 are an option, and
metadata names them."""

from collections.abc import Generator
from typing import BinaryIO

from pipelines.corpus.readers.encoding import UTF_8, Options
from pipelines.corpus.readers.format import Extent, Format, MalformedError, Record, Request, Slice
from pipelines.corpus.readers.lines import BOM, decode
from pipelines.corpus.readers.pages import Decoded, decode_bytes, find_codec
from pipelines.corpus.readers.whole import read_whole


def read(stream: BinaryIO, part: Slice, request: Request) -> Generator[Record, None, Extent]:
    """The one record of the file."""

    def convert(content: bytes) -> dict[str, object]:
        return decode_file(content, request.options.encoding)._asdict()

    return read_whole(stream, part, request, convert)


def decode_file(content: bytes, encoding: str) -> Decoded:
    """The text of a file, and its encoding if it is not UTF-8; for detect see `pages.decode_bytes`. Raises
    MalformedError if the bytes are not in the encoding."""
    if encoding == "detect":
        return decode_bytes(content)
    name = find_codec(encoding) or encoding
    if name == UTF_8:
        return Decoded(decode(content.removeprefix(BOM)), None)
    try:
        text = content.decode(name).removeprefix("\ufeff")
        return Decoded(decode(text.encode()), name)
    except UnicodeDecodeError as error:
        at = f"byte 0x{content[error.start]:02x} at {error.start}"
        raise MalformedError(f"encoding: {at} of the file is not valid {encoding}") from None
    except UnicodeEncodeError:
        raise MalformedError(f"encoding: the file is not valid {encoding}") from None


FORMAT = Format(read=read, field_names=Decoded._fields, options=Options)
