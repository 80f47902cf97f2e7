"""What all readers guarantee, on random bytes and damaged files: no byte is lost."""

import gzip
import io
import random
import zlib

import pytest

from pipelines.corpus.clean import normalise
from pipelines.corpus.readers.format import Slice
from pipelines.corpus.readers.gzip import GzipStream
from pipelines.corpus.readers.lines import Lines
from pipelines.corpus.readers.streams import Bytes
from tests.corpus.reading import make_source, read_bytes

TOKENS = {
    "csv": [
        [b'"', b"\n", b",", b"a"],
        [b'"', b"\r", b"\n", b",", b"ab", b"\0"],
        [b"a,", b'"', b"\n", b"\n", "你".encode(), b"\xff"],
    ],
    "tsv": [
        [b"\t", b"\n", b"a", b'"'],
        [b"\t", b"\n", b"a", b"a", b"b\nc", b"\0"],
        [b"a", b"\r\n", b"\n", "你".encode(), b"\xff"],
    ],
    "jsonl": [
        [b'{"text":"', b'"}\n', b"a"],
        [b'{"text":"', b'"}', b"\n", b"\r", b"a" * 9],
        [b"{", b"}", b'"', b"\n", b"\0", b"\xff"],
    ],
}
HEADERS = {"csv": b"text,label\n", "jsonl": b"", "tsv": b"text\tlabel\n"}


@pytest.mark.parametrize("name", ["csv", "jsonl", "tsv"])
def test_each_random_byte_is_in_one_record(name, monkeypatch):
    generator = random.Random(20_261_121)
    num_good = num_broken = 0
    for case in range(3_000):
        body = b"".join(generator.choices(TOKENS[name][case % 3], k=generator.randrange(100)))
        header = HEADERS[name]
        data = header + body
        limit = generator.choice([12, 30, 10_000])
        source = make_source(format=name, fields={"text": "text"}, max_record_bytes=limit)
        monkeypatch.setattr("pipelines.corpus.readers.streams.BUFFER_BYTES", generator.choice([1, 7, 8192]))
        records = list(source.reader.read(io.BytesIO(data), Slice("s", 0, None), source.request))
        end = len(header)
        for record in records:
            assert data[end : record.offset].strip(b"\r\n") == b"", (data, records)
            assert data[record.offset :].startswith(record.raw)
            assert record.line == 1 + data[: record.offset].count(b"\n")
            assert len(record.raw) == record.num_bytes or record.reason.startswith("too long")
            end = record.offset + record.num_bytes
        assert data[end:].strip() == b""
        num_good += sum(record.values is not None for record in records)
        num_broken += sum(record.values is None for record in records)
    assert num_broken > 1_000
    assert num_good > 1_000


@pytest.mark.parametrize("buffer_bytes", [1, 7, 8192])
def test_lines_can_be_given_back_at_any_buffer_size(buffer_bytes):
    lines = Lines(Bytes(io.BytesIO(b"one\ntwo\nthree"), buffer_bytes))
    assert [lines.read(100), lines.read(2), lines.read(100)] == [b"one\n", b"tw", b"o\n"]
    lines.give_back(b"two\n")
    assert (lines.offset, lines.line) == (4, 2)
    assert [lines.read(100), lines.read(100), lines.read(100)] == [b"two\n", b"three", b""]
    assert (lines.offset, lines.line) == (13, 3)


def inflate(data, buffer_bytes=64):
    stream = GzipStream(io.BytesIO(data), buffer_bytes)
    return stream.read(), stream.broken


@pytest.mark.parametrize("content", [b"", b"a", bytes(range(256)) * 4_000, b"\0" * 3_000_000])
def test_gzip_members_are_read_one_after_another(content):
    member = gzip.compress(content)
    assert inflate(member) == (content, None)
    assert inflate(member + gzip.compress(b"") + member + b"\0" * 512) == (content * 2, None)


def test_gzip_cut_at_any_byte_gives_a_prefix():
    content = random.Random(1).randbytes(200) + b"b" * 500
    member = gzip.compress(content)
    lengths = set()
    for cut in range(len(member)):
        output, broken = inflate(member[:cut])
        assert content.startswith(output)
        assert broken == "gzip: the file ends before its end mark"
        lengths.add(len(output))
    assert max(lengths) == len(content)
    assert len(lengths) > 100


def test_gzip_keeps_everything_before_a_wrong_checksum():
    content = b"line\n" * 100_000
    member = bytearray(gzip.compress(content))
    member[-8] ^= 1
    output, broken = inflate(bytes(member), 2**18)
    assert output == content
    assert "incorrect data check" in broken


@pytest.mark.parametrize(
    "data", [b"no gzip at all", gzip.compress(b"a")[:-4] + b"\2\0\0\0", gzip.compress(b"a") + b"garbage"]
)
def test_bytes_that_are_not_gzip_are_reported(data):
    output, broken = inflate(data)
    assert output in (b"", b"a")
    assert broken.startswith("gzip: Error -3")


def test_damaged_gzip_loses_only_what_zlib_cannot_read():
    generator = random.Random(7)
    content = b"".join(b"%d,%d\n" % (number, number * 7919) for number in range(2_000))
    num_broken = 0
    for _ in range(200):
        member = bytearray(gzip.compress(content))
        member[generator.randrange(10, len(member))] ^= 1 << generator.randrange(8)
        output, broken = inflate(bytes(member), 2**16)
        twin, single = bytearray(), zlib.decompressobj(31)
        try:
            for byte in member:
                twin += single.decompress(bytes([byte]))
        except zlib.error:
            pass
        assert output == twin
        num_broken += broken is not None
    assert num_broken > 150


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ""),
        ("\ufeff你好\n世界\n".encode(), "你好\n世界"),
        (b"a" * 20, "a" * 20),
        (b"a" * 21, "too long"),
        (b"\xff", "invalid UTF-8"),
        (b"a\0", "NUL"),
    ],
)
def test_text_file_is_one_document(data, expected):
    (record,) = read_bytes(data, make_source(max_record_bytes=20))
    found = record.columns.text if record.columns else record.reason.split(":")[0]
    assert (found, record.offset, record.line) == (expected, 0, 1)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("e\u0301", "\u00e9"),
        ("a\r\nb\rc\n", "a\nb\nc"),
        ("\u3000　你好，世界。\u3000", "你好，世界。"),
        ("ＡＢＣ１２３", "ＡＢＣ１２３"),
        ("\uf900", "\u8c48"),
        (" \t\n", ""),
        ("한글", "한글"),
        ("\u1112\u1161\u11ab", "한"),
    ],
)
def test_normalise_gives_each_text_one_form(raw, expected):
    assert normalise(raw) == expected
    assert normalise(expected) == expected
