"""The bytes of a file as a stream, decompressed, that says what is damaged."""

import io
from typing import BinaryIO, Protocol

from pipelines.corpus.readers.compression import DecodedStream, is_compressed, is_gzip
from pipelines.corpus.readers.format import Slice
from pipelines.corpus.readers.gzip import GzipStream

BUFFER_BYTES = 2**20


class ByteStream(Protocol):
    """What `Lines` needs from a stream. `broken` says why it ended early; None = it did not, or not yet."""

    @property
    def broken(self) -> str | None: ...
    @property
    def end(self) -> int | None:
        """Lines that start at this byte or behind it belong to the next slice; None = all lines are ours, or
        the next slice was not reached yet."""

    def readline(self, limit: int, /) -> bytes: ...
    def read(self, limit: int, /) -> bytes: ...
    def resume(self) -> bool: ...


class Bytes(io.BufferedReader):
    """A buffered binary stream that cannot break off."""

    broken: str | None = None

    def __init__(self, raw: BinaryIO, buffer_bytes: int, end: int | None = None) -> None:
        super().__init__(raw, buffer_bytes)  # type: ignore[arg-type]
        self.end = end

    def resume(self) -> bool:
        return False

    def close(self) -> None:
        """Leave the file open: it belongs to the caller. BufferedReader would close it when it is freed."""


def open_bytes(stream: BinaryIO, part: Slice) -> ByteStream:
    """The bytes of a file, decompressed; of a plain file from the byte before the slice."""
    if is_gzip(part.path):
        return GzipStream(stream)
    if is_compressed(part.path):
        return DecodedStream(stream, part.path)
    stream.seek(max(part.start - 1, 0))
    return Bytes(stream, BUFFER_BYTES, part.stop)
