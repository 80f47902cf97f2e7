"""Compressed files as streams, by the ending of their names: gzip, bzip2, xz and zstd.

As for gzip (`gzip.py`), streams may follow each other in one file, everything before a damage is returned,
and memory does not depend on how much a file expands. Only gzip files are cut and resumed behind a damage.
Limits: files that expand more than gzip can are read no further than the first GiB; xz and zstd files that
need more than 128 MiB for their window are refused, as by their own tools.
"""

import bz2
import io
import lzma
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from pipelines.corpus.readers.gzip import INPUT_BYTES, OUTPUT_BYTES

_WINDOW_BYTES = 2**27
_MAX_EXPANSION, _FREE_BYTES = 1_100, 2**30
"""gzip cannot expand more than 1,032 times. The others can a million times, and 10 MB would be read for days:
a file that expands more than this, beyond the first GiB, is read no further."""
_MIN_ZSTD_BYTES, _MAX_ZSTD_BYTES = 2**4, 2**10
"""zstandard cannot limit its output: 4 bytes give at most 128 KiB, so 1 KiB gives at most 32 MiB. Where a
file expands so much, it is given less."""


class Decoder(Protocol):
    """One stream of a file, as bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Zstd:
    """A zstd frame behind the interface of bz2 and lzma."""

    def __init__(self) -> None:
        from zstandard import ZstdDecompressor

        self._frame = ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        self._input, self._output = b"", io.BytesIO()
        self._num_left, self._step = 0, _MAX_ZSTD_BYTES

    @property
    def eof(self) -> bool:
        return self._frame.eof and not self._num_left

    @property
    def needs_input(self) -> bool:
        return not self._input and not self._num_left

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data + self._input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._input += data
        while not self._num_left and self._input and not self._frame.eof:
            given, self._input = self._input[: self._step], self._input[self._step :]
            output = self._frame.decompress(given)
            self._output, self._num_left = io.BytesIO(output), len(output)
            self._step = _MIN_ZSTD_BYTES if len(output) > 2**20 else min(2 * self._step, _MAX_ZSTD_BYTES)
        output = self._output.read(max_length)
        self._num_left -= len(output)
        return output


_CODECS: dict[str, tuple[str, Callable[[], Decoder]]] = {
    ".bz2": ("bz2", bz2.BZ2Decompressor),
    ".xz": ("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_WINDOW_BYTES)),
    ".zst": ("zstd", _Zstd),
    ".zstd": ("zstd", _Zstd),
}
_GZIP = (".gz", ".bgz")


def is_gzip(path: str) -> bool:
    return path.lower().endswith(_GZIP)


def is_compressed(path: str) -> bool:
    return path.lower().endswith((*_GZIP, *_CODECS))


def remove_suffix(path: str) -> str:
    """The path without the ending of its compression."""
    return path.rpartition(".")[0] if is_compressed(path) else path


class DecodedStream(io.BufferedReader):
    """The decompressed bytes of a bz2, xz or zstd file, buffered. After the last one, `broken` says what is
    damaged; None = nothing."""

    end: int | None = None

    def __init__(self, compressed: BinaryIO, path: str) -> None:
        suffix = next(suffix for suffix in _CODECS if path.lower().endswith(suffix))
        self._decoded = _Decoded(compressed, *_CODECS[suffix])
        super().__init__(self._decoded, OUTPUT_BYTES)

    @property
    def broken(self) -> str | None:
        return self._decoded.broken

    def resume(self) -> bool:
        """No stream is searched behind a damage."""
        return False


class _Decoded(io.RawIOBase):
    def __init__(self, compressed: BinaryIO, kind: str, make: Callable[[], Decoder]) -> None:
        self.broken: str | None = None
        self._compressed, self._kind, self._make = compressed, kind, make
        self._decoder: Decoder | None = make()  # an empty file is a failed upload
        self._input = b""
        self._consumed = self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._piece(min(len(buffer), OUTPUT_BYTES))
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self, max_bytes: int) -> bytes:
        """The next bytes; empty at the end and at a damage."""
        while self.broken is None:
            if not self._input and (self._decoder is None or self._decoder.needs_input):
                self._input = self._compressed.read(INPUT_BYTES)
                self._consumed += len(self._input)
                if not self._input:
                    self.broken = (
                        f"{self._kind}: the file ends before its end mark" if self._decoder else None
                    )
                    return b""
            if self._decoder is None:
                self._input = self._input.lstrip(b"\0")  # xz fills files up to multiples of 4 bytes
                self._decoder = self._make() if self._input else None
            elif output := self._decode(self._decoder, max_bytes):
                return output
        return b""

    def _decode(self, decoder: Decoder, max_bytes: int) -> bytes:
        given, self._input = self._input, b""
        try:
            output = decoder.decompress(given, max_bytes)
        except _errors() as error:
            at = self._consumed - len(given)
            self.broken = f"{self._kind}: {str(error) or 'damaged'}, near byte {at:,} of the file"
            return b""
        self._given += len(output)
        if self._given > max(_FREE_BYTES, _MAX_EXPANSION * self._consumed):
            self.broken = (
                f"{self._kind}: the file expands to more than {_MAX_EXPANSION:,} times its size, near byte "
                f"{self._consumed:,} of the file"
            )
        if decoder.eof:
            self._input, self._decoder = decoder.unused_data, None
        return output


def _errors() -> tuple[Any, ...]:
    """What decoders raise for damaged bytes. bz2 raises OSError; the file is not read meanwhile."""
    from zstandard import ZstdError

    return OSError, EOFError, ValueError, MemoryError, lzma.LZMAError, ZstdError
