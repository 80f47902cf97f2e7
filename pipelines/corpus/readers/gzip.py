"""A gzip file as a stream that returns everything before a damage and then says what is damaged;
gzip.GzipFile would raise.

Several members may follow each other (`cat a.gz b.gz` and Hadoop write such files), and zero bytes may follow
the last one (tape blocks). Memory: one buffer of input and one of output, no matter how much the file
expands.
"""

import io
import zlib
from typing import BinaryIO

_INPUT_BYTES = 2**16
_OUTPUT_BYTES = 2**18
_GZIP_ONLY = 16 + zlib.MAX_WBITS


class _Inflated(io.RawIOBase):
    def __init__(self, compressed: BinaryIO) -> None:
        self.broken: str | None = None
        self._compressed = compressed
        self._member = zlib.decompressobj(_GZIP_ONLY)
        self._input = b""
        self._consumed = 0
        self._may_hold_output = False
        self._in_member = True  # an empty file is a failed upload, not an archive of nothing

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._piece(min(len(buffer), _OUTPUT_BYTES))
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self, max_bytes: int) -> bytes:
        """The next bytes; empty at the end and at a damage."""
        while self.broken is None:
            # zlib may still hold output of earlier input: ask it before reading more input
            if not self._input and not (self._in_member and self._may_hold_output):
                self._input = self._compressed.read(_INPUT_BYTES)
                self._consumed += len(self._input)
                if not self._input:
                    self.broken = "gzip: the file ends before its end mark" if self._in_member else None
                    return b""
            if not self._in_member and not self._next_member():
                continue
            if output := self._inflate(max_bytes):
                return output
        return b""

    def _next_member(self) -> bool:
        self._input = self._input.lstrip(b"\0")
        if self._input:
            self._member, self._in_member = zlib.decompressobj(_GZIP_ONLY), True
        return self._in_member

    def _inflate(self, max_bytes: int) -> bytes:
        before, given = self._member.copy(), self._input
        try:
            output = self._member.decompress(given, max_bytes)
        except zlib.error as error:
            self.broken = f"gzip: {error}, near byte {self._consumed - len(given):,} of the file"
            return _up_to_error(before, given, max_bytes)
        self._may_hold_output = len(output) == max_bytes
        if self._member.eof:
            self._input, self._in_member = self._member.unused_data, False
        else:
            self._input = self._member.unconsumed_tail
        return output


def _up_to_error(member: "zlib._Decompress", given: bytes, max_bytes: int) -> bytes:
    """The output before the damage. zlib drops the output of a failed call, so repeat it byte by byte."""
    output = bytearray()
    for position in range(len(given)):
        try:
            output += member.decompress(given[position : position + 1], max_bytes)
        except zlib.error:
            break
    return bytes(output)


class GzipStream(io.BufferedReader):
    """The decompressed bytes, buffered. After the last one, `broken` says what is damaged; None = nothing."""

    def __init__(self, compressed: BinaryIO, buffer_bytes: int = _OUTPUT_BYTES) -> None:
        self._inflated = _Inflated(compressed)
        super().__init__(self._inflated, buffer_bytes)

    @property
    def broken(self) -> str | None:
        return self._inflated.broken
