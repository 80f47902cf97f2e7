"""bz2, xz and zstd files as streams. Without Spark."""

import bz2
import io
import lzma
import random
import tracemalloc

import pytest
import zstandard

from pipelines.corpus.readers.compression import DecodedStream, is_compressed, remove_suffix
from tests.corpus.reading import make_source, read_bytes, texts

COMPRESS = {
    "a.bz2": bz2.compress,
    "a.xz": lzma.compress,
    "a.zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
NAMES = ["a.bz2", "a.xz", "a.zst"]


def decode(data, path):
    stream = DecodedStream(io.BytesIO(data), path)
    return stream.read(), stream.broken


@pytest.mark.parametrize("path", NAMES)
@pytest.mark.parametrize("content", [b"", b"a", bytes(range(256)) * 4_000, b"\0" * 3_000_000])
def test_streams_of_a_file_are_read_one_after_another(path, content):
    one = COMPRESS[path](content)
    assert decode(one, path) == (content, None)
    assert decode(one + COMPRESS[path](b"") + one + b"\0" * 512, path) == (content * 2, None)


def test_zstd_frames_without_size_and_skippable_frames_are_read():
    writer = zstandard.ZstdCompressor().compressobj()
    frame = writer.compress(b"a" * 500_000) + writer.flush()
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    assert decode(skippable + frame + skippable + frame, "A.ZSTD") == (b"a" * 1_000_000, None)


@pytest.mark.parametrize("path", NAMES)
def test_file_cut_at_any_byte_gives_a_prefix(path):
    content = random.Random(1).randbytes(200) + b"b" * 500
    data = COMPRESS[path](content)
    for cut in range(len(data)):
        output, broken = decode(data[:cut], path)
        assert content.startswith(output)
        kind = {"a.zst": "zstd"}.get(path, path[2:])
        assert broken == f"{kind}: the file ends before its end mark"


@pytest.mark.parametrize("path", NAMES)
def test_damaged_bytes_are_reported_and_never_raised(path):
    generator = random.Random(2)
    content = b"".join(b"%d,%d\n" % (number, number * 7919) for number in range(20_000))
    data = COMPRESS[path](content)
    num_broken = 0
    for _ in range(60):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        _, broken = decode(bytes(damaged), path)
        num_broken += broken is not None
    assert num_broken > 50
    assert decode(data + b"garbage behind the end", path)[0] == content
    assert "near byte" in decode(data + b"garbage behind the end", path)[1]


@pytest.mark.parametrize("path", ["a.bz2", "a.xz", "a.zst"])
def test_bomb_is_skipped_in_bounded_memory(path):
    """256 MiB of zero bytes in one line, between two records."""
    zeros, good = COMPRESS[path](b"\0" * 2**25), b'{"t": "good"}\n'
    data = COMPRESS[path](good) + zeros * 8 + COMPRESS[path](b"\n" + good)
    source = make_source(format="jsonl", fields={"text": "t"}, max_record_bytes=2**20)
    tracemalloc.start()
    records = read_bytes(data, source, path=f"x/{path}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert texts(records) == ["good", "good"]
    assert records[1].reason == "too long: more than max_record_bytes = 1,048,576"
    assert records[1].num_bytes == 2**28 + 1
    assert peak < 50 * 2**20


def test_window_above_the_limit_is_a_damage():
    # Header of a frame with a window of 1 GiB: exponent 20 in the window descriptor.
    data = b"\x28\xb5\x2f\xfd\x00" + bytes([20 << 3]) + b"\x01\0\0"
    assert decode(data, "a.zst") == (
        b"",
        "zstd: zstd decompressor error: Frame requires too much memory for decoding, near byte 0 of the file",
    )


@pytest.mark.parametrize(
    ("path", "expected"), [("a.txt.GZ", "a.txt"), ("a.md.zst", "a.md"), ("a.gz.d/b", "a.gz.d/b")]
)
def test_names_tell_how_a_file_is_compressed(path, expected):
    assert remove_suffix(path) == expected
    assert is_compressed(path) == (path != expected)
