"""HTTP bodies, decoded in bounded memory: gzip, deflate, brotli and zstd (RFC 9110, section 8.4).

Crawlers often store a body decoded but keep the header that says it is not, so a body that cannot be decoded
as declared is taken as it is, unless it holds NUL bytes. A body that breaks off is an error: half a document
is not a document.
"""

import zlib
from collections.abc import Callable

from pipelines.corpus.readers.format import MalformedError
from pipelines.corpus.readers.lines import too_long

_WINDOW_BYTES = 2**27
_SMALL_MEMBER_BYTES = 512
_MAX_ENCODINGS = 5
"""Servers use one. Each costs as much as the longest record."""
_Decode = Callable[[bytes, int], tuple[bytes, bool]]
"""(body, limit) to at most limit + 1 bytes, and whether the body was complete."""


def decode_body(body: bytes, encodings: str, limit: int) -> bytes:
    """The body without its encodings, named in the order in which they were applied, with commas between.

    Raises MalformedError if it is longer than the limit, breaks off, or has an unknown encoding.
    """
    names = [name.strip() for name in encodings.split(",")]
    if len(names) > _MAX_ENCODINGS:
        raise MalformedError(f"http: {len(names):,} encodings around each other; at most {_MAX_ENCODINGS}")
    for name in reversed(names):
        if name in ("", "identity"):
            continue
        if name not in _DECODERS:
            raise MalformedError(f"http: Content-Encoding {name[:40]!r} is not known")
        try:
            body, is_complete = _DECODERS[name](body, limit)
        except _errors() as error:
            if b"\0" in body[:1024]:
                raise MalformedError(f"http: the body cannot be decoded: {error}") from None
            return body
        if len(body) > limit:
            raise MalformedError(too_long(limit))
        if not is_complete:
            raise MalformedError(f"http: the body ends before the end mark of its encoding {name}")
    return body


def _inflate(body: bytes, limit: int, bits: int) -> tuple[bytes, bool]:
    stream = zlib.decompressobj(bits)
    return stream.decompress(body, limit + 1), stream.eof


def _decode_gzip(body: bytes, limit: int) -> tuple[bytes, bool]:
    """All members (RFC 1952): some servers send one for each piece of a page."""
    output, at = bytearray(), 0
    while len(output) <= limit:
        stream, size = zlib.decompressobj(16 + zlib.MAX_WBITS), _SMALL_MEMBER_BYTES
        # By pieces, because what is behind a member is copied: with all of the body, many small members would
        # take the square of their number.
        while not stream.eof and at < len(body) and len(output) <= limit:
            piece = body[at : at + size]
            output += stream.decompress(piece, limit + 1 - len(output))
            at += len(piece) - len(stream.unused_data) - len(stream.unconsumed_tail)
            size *= 4
        if not stream.eof or not body.startswith(b"\x1f\x8b", at):
            return bytes(output), stream.eof
    return bytes(output), True


def _decode_deflate(body: bytes, limit: int) -> tuple[bytes, bool]:
    """With the header of zlib, as the standard says, or without it, as some servers send it."""
    try:
        return _inflate(body, limit, zlib.MAX_WBITS)
    except zlib.error:
        return _inflate(body, limit, -zlib.MAX_WBITS)


def _decode_brotli(body: bytes, limit: int) -> tuple[bytes, bool]:
    import brotli

    stream, output, given = brotli.Decompressor(), bytearray(), body
    while len(output) <= limit and not stream.is_finished():
        piece = stream.process(given, output_buffer_limit=limit + 1 - len(output))
        output, given = output + piece, b""
        if not piece and stream.can_accept_more_data():
            break
    return bytes(output), stream.is_finished()


def _decode_zstd(body: bytes, limit: int) -> tuple[bytes, bool]:
    from zstandard import ZstdDecompressor

    decompressor = ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    with decompressor.stream_reader(body) as stream:
        output = stream.read(limit + 1)
    if len(output) > limit:
        return output, True
    # A reader does not tell the end of the frame from the end of the body.
    frame = decompressor.decompressobj()
    frame.decompress(body)
    return output, frame.eof


_DECODERS: dict[str, _Decode] = {
    "gzip": _decode_gzip,
    "x-gzip": _decode_gzip,
    "deflate": _decode_deflate,
    "br": _decode_brotli,
    "zstd": _decode_zstd,
}


def _errors() -> tuple[type[Exception], ...]:
    import brotli
    from zstandard import ZstdError

    return zlib.error, brotli.error, ZstdError
