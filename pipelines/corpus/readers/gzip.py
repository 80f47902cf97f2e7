"""A gzip file as a stream that returns everything before a damage and then says what is damaged;
gzip.GzipFile would raise.

A file may have many members, each a gzip stream of its own (`cat a.gz b.gz`, bgzip, Hadoop and WARC files).
So a large file is read in slices: each slice searches for the first member that starts in it and reads up to
the first member of the next slice. Behind a damage, the next member that can be read is found in the same
way. A candidate is tested by decompressing its first 64 KiB. That can still find a member inside the bytes
of another one (a gzip file that was compressed again), so `settle.py` compares where the slices begin
and end.

Zero bytes may follow the last member (tape blocks). Memory: one buffer of input and one of output, no matter
how much the file expands.
"""

import io
import zlib
from typing import BinaryIO

INPUT_BYTES = 2**16
OUTPUT_BYTES = 2**18
_MAGIC = b"\x1f\x8b\x08"
_HEADER_BYTES = 10
_GZIP_ONLY = 16 + zlib.MAX_WBITS
_SEARCH_BYTES, _TRIAL_BYTES = 2**20, 2**16
_LOOK_BACK_BYTES = 2**20
"""A damaged member may run over the start of the next one before zlib finds the error."""


class Members(io.RawIOBase):
    """The decompressed members that start in the bytes [start, stop) of a file, and what follows them."""

    def __init__(
        self, compressed: BinaryIO, *, start: int = 0, stop: int | None = None, base: int = 0
    ) -> None:
        self.broken: str | None = None
        """What is damaged; None = nothing, or not yet."""
        self.base, self.num_bytes = base, 0
        """Decompressed bytes of the file before the first member, and those given since then."""
        self.first = start if start == 0 else find_member(compressed, start, stop)
        """Byte of the file where the first member starts; None = no member starts in the slice."""
        self.member_start = self.first or 0
        """Byte of the file where the current member starts."""
        self.next_slice: int | None = None
        """Byte of the file where the first member of the next slice starts; None = not reached."""
        self.end: int | None = None
        """Decompressed bytes of the file before that member."""
        self._compressed, self._stop = compressed, stop
        self._done, self._damaged_at = self.first is None, 0
        self._place(self.member_start)
        self._in_member = True  # an empty file is a failed upload, not an archive of nothing

    def _place(self, position: int) -> None:
        self._compressed.seek(position)
        self._consumed, self._input = position, b""
        self._may_hold_output = False
        self._open_member(position)

    def _open_member(self, position: int) -> None:
        self._member, self._in_member, self.member_start = zlib.decompressobj(_GZIP_ONLY), True, position
        if self._stop is not None and position >= self._stop and self.next_slice is None:
            self.next_slice, self.end = position, self.base + self.num_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self.read_piece(min(len(buffer), OUTPUT_BYTES))
        buffer[: len(piece)] = piece
        return len(piece)

    def read_piece(self, max_bytes: int, *, within_member: bool = False) -> bytes:
        """The next bytes; empty at the end, at a damage and, if `within_member`, at the end of the member."""
        while self.broken is None and not self._done:
            if within_member and not self._in_member:
                return b""
            # zlib may still hold output of earlier input: ask it before reading more input
            if not self._input and not (self._in_member and self._may_hold_output):
                self._input = self._compressed.read(INPUT_BYTES)
                self._consumed += len(self._input)
                if not self._input:
                    self.broken = "gzip: the file ends before its end mark" if self._in_member else None
                    self._done, self._damaged_at = self.broken is None, self._consumed
                    return b""
            if not self._in_member and not self._start_next_member():
                continue
            if output := self._inflate(max_bytes):
                self.num_bytes += len(output)
                return output
        return b""

    def start_member(self) -> bool:
        """Whether there is a member to read: the current one if it is not finished, or the next one."""
        while not self._in_member and not self._done:
            if not self._input:
                self._input = self._compressed.read(INPUT_BYTES)
                self._consumed += len(self._input)
                self._done = not self._input
            self._start_next_member()
        return not self._done

    def _start_next_member(self) -> bool:
        self._input = self._input.lstrip(b"\0")
        if self._input:
            self._open_member(self._consumed - len(self._input))
        return self._in_member

    def _inflate(self, max_bytes: int) -> bytes:
        before, given = self._member.copy(), self._input
        try:
            output = self._member.decompress(given, max_bytes)
        except zlib.error as error:
            output, length = _up_to_error(before, given, max_bytes)
            self._damaged_at = self._consumed - len(given) + length
            self.broken = f"gzip: {error}, near byte {self._damaged_at:,} of the file"
            return output
        self._may_hold_output = len(output) == max_bytes
        if self._member.eof:
            self._input, self._in_member = self._member.unused_data, False
        else:
            self._input = self._member.unconsumed_tail
        return output

    def resume(self) -> bool:
        """Go on behind a damage, at the next member that can be read. False = there is none."""
        behind = max(self.member_start + 1, self._damaged_at - _LOOK_BACK_BYTES)
        found = find_member(self._compressed, behind)
        self.broken, self._done = None, found is None
        if found is not None:
            self._place(found)
        return not self._done


def find_member(file: BinaryIO, start: int, stop: int | None = None) -> int | None:
    """The byte of the first member that starts in [start, stop); None = there is none.

    The result depends on the file and on the two places only, so all slices of a file agree on its members.
    """
    position, kept = start, b""
    while stop is None or position < stop:
        file.seek(position + len(kept))
        data = kept + file.read(_SEARCH_BYTES)
        found = data.find(_MAGIC)
        while found >= 0 and found + _HEADER_BYTES <= len(data):
            if stop is not None and position + found >= stop:
                return None
            header = data[found : found + _HEADER_BYTES]
            if _is_header(header) and _starts_member(file, position + found):
                return position + found
            found = data.find(_MAGIC, found + 1)
        if len(data) - len(kept) == 0:
            return None
        kept = data[-(_HEADER_BYTES - 1) :]
        position += len(data) - len(kept)
    return None


def _is_header(header: bytes) -> bool:
    """Whether the bytes can be the header of a member: reserved flags are 0, extra flags and system known."""
    return not header[3] & 0xE0 and header[8] in (0, 2, 4) and (header[9] <= 13 or header[9] == 255)


def _starts_member(file: BinaryIO, position: int) -> bool:
    """Whether the first 64 KiB at the place can be decompressed and, if the member ends there, another one or
    nothing follows."""
    file.seek(position)
    given, member, has_output = file.read(_TRIAL_BYTES), zlib.decompressobj(_GZIP_ONLY), False
    try:
        while given and not member.eof:
            has_output |= bool(member.decompress(given, OUTPUT_BYTES))
            given = member.unconsumed_tail
    except zlib.error:
        return False
    if not member.eof:
        return has_output
    return _MAGIC.startswith(member.unused_data.lstrip(b"\0")[: len(_MAGIC)])


def _up_to_error(member: "zlib._Decompress", given: bytes, max_bytes: int) -> tuple[bytes, int]:
    """The output before the damage, and the number of bytes that give it. zlib drops the output of a failed
    call, so it is repeated byte by byte."""
    output, position = bytearray(), 0
    for position in range(len(given)):
        try:
            output += member.decompress(given[position : position + 1], max_bytes)
        except zlib.error:
            break
    return bytes(output), position


class GzipStream(io.BufferedReader):
    """The decompressed bytes, buffered. After the last one, `broken` says what is damaged; None = nothing."""

    def __init__(
        self,
        compressed: BinaryIO,
        buffer_bytes: int = OUTPUT_BYTES,
        *,
        start: int = 0,
        stop: int | None = None,
        base: int = 0,
    ) -> None:
        self.members = Members(compressed, start=start, stop=stop, base=base)
        super().__init__(self.members, buffer_bytes)

    @property
    def broken(self) -> str | None:
        return self.members.broken

    @property
    def end(self) -> int | None:
        """Lines that start behind this byte belong to the next slice."""
        end = self.members.end
        return None if end is None else end + 1

    def resume(self) -> bool:
        """Go on behind a damage. False = the stream has ended."""
        return self.members.resume()
