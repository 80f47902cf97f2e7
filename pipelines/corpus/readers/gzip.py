"""A gzip file as a stream that keeps what stands in front of a break and then says what broke, where gzip.GzipFile raises.

Members may follow each other (as `cat a.gz b.gz` and Hadoop write them), zero bytes may follow the last one (tape blocks).
Memory: one piece of input and one of output, whatever the file claims to hold.
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
        self._in_member = True  # a file of no bytes is an upload that failed, not an archive of nothing

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._piece(min(len(buffer), _OUTPUT_BYTES))
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self, max_bytes: int) -> bytes:
        """The next bytes; none at the end and at the break."""
        while self.broken is None:
            # zlib may still hold output of earlier input, so it is asked before more input is read
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
    """What zlib had made when it found the fault: it throws that away together with the call, so repeat it by single bytes."""
    output = bytearray()
    for position in range(len(given)):
        try:
            output += member.decompress(given[position : position + 1], max_bytes)
        except zlib.error:
            break
    return bytes(output)


class GzipStream(io.BufferedReader):
    """The decompressed bytes, buffered. `broken` says why they ended early, once the end is reached."""

    def __init__(self, compressed: BinaryIO, buffer_bytes: int = _OUTPUT_BYTES) -> None:
        self._inflated = _Inflated(compressed)
        super().__init__(self._inflated, buffer_bytes)

    @property
    def broken(self) -> str | None:
        return self._inflated.broken
