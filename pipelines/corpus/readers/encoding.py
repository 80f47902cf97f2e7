"""Files of lines in other encodings than UTF-8: the stream of their text in UTF-8, in bounded memory.

The readers of csv, tsv and lines read that stream as they read a file in UTF-8. So offset, num_bytes and raw
of a record, and max_record_bytes, are those of its text in UTF-8, as those of a compressed file are the ones
of its content. Such a file is not cut into slices, and nothing is read behind a damage of its compression.

A byte that the encoding does not have becomes U+DC00 plus its value. That is no UTF-8, so the record is
quarantined and its neighbours are not; raw.decode("utf-8", "surrogatepass") shows the byte.

detect reads the file up to the first bytes that are not UTF-8. The mark at the start counts first, then
UTF-8, then what resiliparse detects in the next MiB. If nothing fits, the file is read as UTF-8, and records
that are not are quarantined.
"""

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.pages import decode_bytes, find_codec
from pipelines.corpus.readers.streams import ByteStream

UTF_8 = "utf-8"
_INPUT_BYTES, _SAMPLE_BYTES = 2**18, 2**20
_MARKED = 0xDC00
_KEEP = "distributary.keep"
_ESCAPE = b"\x1b"
"""ISO-2022 escapes to other alphabets in 7 bits, which is valid UTF-8 too."""
_BYTE_ORDERS = {
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    encoding: str = UTF_8
    """detect, or an encoding such as utf-8 or gb18030."""

    def __post_init__(self) -> None:
        check_encoding(self.encoding)


def check_encoding(name: object) -> None:
    """Raises ValueError if it is neither detect nor a text encoding of Python."""
    if not (isinstance(name, str) and (name == "detect" or find_codec(name))):
        raise ValueError(f"encoding must be detect or an encoding such as utf-8 or gb18030, got {name!r}")


def may_be_recoded(options: object) -> bool:
    """Whether a file may have another encoding than UTF-8. Formats without the option are UTF-8."""
    return find_codec(getattr(options, "encoding", UTF_8)) != UTF_8


class RecodedStream(io.BufferedReader):
    """The text of a file in UTF-8, buffered. After the last byte, `broken` says what is damaged."""

    end: int | None = None

    def __init__(self, source: ByteStream, encoding: str) -> None:
        self._source = source
        super().__init__(_Recoded(source, encoding), _INPUT_BYTES)

    @property
    def broken(self) -> str | None:
        return self._source.broken

    def resume(self) -> bool:
        """Behind a damage nobody knows where a character of two or four bytes starts."""
        return False


class _Recoded(io.RawIOBase):
    def __init__(self, source: ByteStream, encoding: str) -> None:
        self._source = source
        first = source.read(_INPUT_BYTES)
        # Without a mark, UTF-16 is little-endian: Windows writes it, and bytes.decode reads it so.
        marks = _BYTE_ORDERS.get(encoding)
        name = f"{encoding}-le" if marks and not first.startswith(marks) else encoding
        self._decoder = codecs.getincrementaldecoder(name)(_KEEP)
        self._ended = not first
        self._output = io.BytesIO(self._recode(first))

    def _recode(self, piece: bytes) -> bytes:
        return self._decoder.decode(piece, not piece).encode(UTF_8, "surrogatepass")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not (num_bytes := self._output.readinto(buffer)) and not self._ended:
            piece = self._source.read(_INPUT_BYTES)
            self._ended = not piece
            self._output = io.BytesIO(self._recode(piece))
        return num_bytes


def _keep_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    kept = error.object[error.start : error.end]
    return "".join(chr(_MARKED + byte) for byte in kept), error.end


codecs.register_error(_KEEP, _keep_bytes)


def get_kept_byte(data: bytes, position: int) -> int:
    """The byte of the file that stands at a place where the UTF-8 of a `RecodedStream` is not valid."""
    return ord(data[position : position + 3].decode(UTF_8, "surrogatepass")) - _MARKED


def detect_encoding(source: ByteStream) -> str:
    """Python's name of the encoding of a file, read from its start."""
    decoder, pieces = codecs.getincrementaldecoder(UTF_8)(), iter(lambda: source.read(_INPUT_BYTES), b"")
    first = next(pieces, b"")
    if first.startswith((codecs.BOM_UTF8, *_BYTE_ORDERS["utf-16"])):
        return UTF_8 if first.startswith(codecs.BOM_UTF8) else "utf-16"
    piece: bytes | None = first
    while piece:
        following = next(pieces, b"")
        try:
            decoder.decode(piece, not following)
        except UnicodeDecodeError:
            return _detect_in_sample(piece + following, pieces)
        if _ESCAPE in piece:
            return _detect_in_sample(piece + following, pieces)
        piece = following
    return UTF_8


def _detect_in_sample(sample: bytes, pieces: Iterator[bytes]) -> str:
    while len(sample) < _SAMPLE_BYTES and (piece := next(pieces, b"")):
        sample += piece
    # At the end of a line no character is cut in two.
    whole = sample[: sample.rfind(b"\n") + 1] or sample
    try:
        return (decode_bytes(whole).encoding or UTF_8).partition(",")[0]
    except MalformedError:
        return UTF_8
