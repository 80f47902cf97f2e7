"""WARC and WET files, written by hand. Without Spark."""

import gzip
import io
import random
import re
import tracemalloc
import zlib

import brotli
import pytest
import zstandard

from pipelines.corpus.readers.format import Slice
from tests.corpus.reading import make_source, read_bytes, texts
from tests.corpus.test_members import read_in_slices, read_part

WARC = make_source(format="warc")
PAGE = "<html><head><title>{0}</title></head><body><p>{0} is the text.</p></body></html>"


def make_record(content, kind="response", uri="http://x/", content_type="application/http", length=None):
    size = len(content) if length is None else length
    header = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {size}\r\n\r\n"
    )
    return header.encode() + content + b"\r\n\r\n"


def make_response(body, headers="Content-Type: text/html", status="200 OK", **knobs):
    return make_record(f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body, **knobs)


def make_page(text, **knobs):
    return make_response(PAGE.format(text).encode(), **knobs)


def read_one(data, source=WARC, path="a.warc"):
    (record,) = read_bytes(data, source, path=path)
    return record


def test_response_gives_text_and_metadata():
    record = read_one(make_page("你好", uri="<http://x/y>"))
    assert record.columns.text == "你好 is the text."
    expected = {"url": "http://x/y", "timestamp": "2026-01-02T03:04:05Z", "title": "你好"}
    assert record.columns.metadata == expected | {"content_type": "text/html"}
    assert record.offset == 0


def test_only_records_with_documents_are_counted():
    wet = make_record("甲乙".encode(), "conversion", content_type="text/plain")
    picture = make_record(b"\x89PNG", "resource", content_type="image/png")
    others = [make_record(b"a: b", kind) for kind in ("warcinfo", "request", "metadata", "revisit", "new")]
    records = read_bytes(
        b"".join([others[0], make_page("a"), *others[1:], wet, picture]), WARC, path="a.warc"
    )
    assert texts(records) == ["a is the text.", "甲乙"]
    assert records[2].reason == "content type: image/png is neither HTML nor text"
    assert len(records) == 3


BIG5 = PAGE.format("繁體中文，網頁編碼測試。" * 20).encode("big5")
LATIN = PAGE.format("Ein schöner Tag für große Füße. " * 10).encode("latin-1")


@pytest.mark.parametrize(
    ("body", "headers", "expected", "encoding"),
    [
        (PAGE.format("汉字").encode("gbk"), "Content-Type: text/html; charset=gb2312", "汉字", "gb18030"),
        (PAGE.format("汉字").encode(), "Content-Type: text/html; charset=iso-8859-1", "汉字", None),
        (
            BIG5.replace(b"<head>", b'<head><meta charset="big5">'),
            "Content-Type: text/html",
            "繁體中文",
            "big5",
        ),
        (BIG5, "Content-Type: text/html; charset=nonsense", "繁體中文", "big5"),
        (LATIN, "Content-Type: text/html; charset=ISO-8859-1", "schöner", "cp1252"),
        (
            PAGE.format("日本").encode("iso2022_jp"),
            "Content-Type: text/html; charset=iso-2022-jp",
            "日本",
            "iso2022_jp",
        ),
        (
            b"\xff\xfe" + PAGE.format("汉字").encode("utf-16-le"),
            "Content-Type: text/html",
            "汉字",
            "utf-16-le",
        ),
    ],
)
def test_encoding_of_a_page_is_found(body, headers, expected, encoding):
    columns = read_one(make_response(body, headers)).columns
    assert expected in columns.text
    assert columns.metadata.get("encoding") == encoding


def test_few_invalid_bytes_are_replaced_and_counted():
    body = PAGE.format("好" * 300).encode().replace("<p>好".encode(), b"<p>\xe5\xa5", 1)
    columns = read_one(make_response(body, "Content-Type: text/html; charset=utf-8")).columns
    assert columns.text.startswith("\ufffd好好")
    assert columns.metadata["encoding"] == "utf-8, 1 characters replaced"
    broken = read_one(make_response(bytes(range(128, 256)) * 9, "Content-Type: text/plain; charset=utf-8"))
    assert broken.columns is None or "\ufffd" not in broken.columns.text


def chunk(body):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


HTML = PAGE.format("a").encode()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Transfer-Encoding: chunked", chunk(HTML)),
        ("Transfer-Encoding: chunked", HTML),
        ("Content-Encoding: gzip", gzip.compress(HTML)),
        ("Content-Encoding: gzip", HTML),
        ("Content-Encoding: deflate", zlib.compress(HTML)),
        ("Content-Encoding: gzip\r\nTransfer-Encoding: chunked", chunk(gzip.compress(HTML))),
        ("Content-Encoding: gzip\r\nTransfer-Encoding: chunked", gzip.compress(HTML)),
    ],
)
def test_http_bodies_are_decoded_as_declared_or_taken_as_text(headers, body):
    record = read_one(make_response(body, f"Content-Type: text/html\r\n{headers}"))
    assert record.columns.text == "a is the text."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make_page("a", status="404 Not Found"), "http: status 404"),
        (make_page("a", length=900), "warc: the record ends after"),
        (make_page("a", length=10), "warc: no blank line follows the record; Content-Length is 10"),
        (make_record(b"nonsense"), "http: the response has no status line"),
        (make_response(gzip.compress(HTML)[:20] + b"\0" * 9, "Content-Encoding: gzip"), "http: the body"),
        (b"filedesc://x 1 2\n\n", "warc: b'filedesc:.* ARC files must be converted"),
        (b"WARC/1.0\r\nWARC-Type: response\r\n\r\n", "warc: the header has no valid Content-Length"),
        (b"WARC/1.0\r\nContent-Length: 0\r\n\r\n\r\n", "warc: the header has no WARC-Type"),
        (b"WARC/1.0\r\n" + b"a: b\r\n" * 20_000, "warc: the header does not end within 65,536 bytes"),
        (make_record(b"\xff", "conversion", content_type="text/plain"), "invalid UTF-8"),
        (make_page("b" * 2_000), "too long: more than max_record_bytes = 1,000"),
        (make_response(gzip.compress(b"b" * 9_999), "Content-Encoding: gzip"), "too long: more than max_rec"),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_broken_record_is_one_row_and_the_next_is_read(data, reason, compress):
    source = make_source(format="warc", max_record_bytes=1_000)
    path = "a.warc" if compress is bytes else "a.warc.gz"
    before, after = make_page("before"), make_page("after")
    records = read_bytes(compress(before) + compress(data) + compress(after), source, path=path)
    assert texts(records) == ["before is the text.", "after is the text."]
    assert [record.offset for record in records] == sorted({record.offset for record in records})
    (broken,) = [record for record in records if record.reason]
    expected = reason
    if compress is not bytes and "no blank line" in reason:
        expected = "content type: none|http|warc|a gzip member holds more than one record"
    assert re.match(expected, broken.reason)
    assert broken.offset == len(compress(before))


BOMBS = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstandard.compress}


@pytest.mark.parametrize("encoding", BOMBS)
def test_bomb_in_a_body_needs_no_memory(encoding):
    body = BOMBS[encoding](bytes(2**24))
    good = BOMBS[encoding](HTML)
    data = make_response(body, f"Content-Type: text/html\r\nContent-Encoding: {encoding}")
    tracemalloc.start()
    record = read_one(data, make_source(format="warc", max_record_bytes=10**6))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record.reason.startswith("too long")
    assert peak < 2**23
    read = read_one(make_response(good, f"Content-Type: text/html\r\nContent-Encoding: {encoding}"))
    assert read.columns.text == "a is the text."


@pytest.mark.parametrize("encoding", BOMBS)
def test_body_that_breaks_off_is_reported(encoding):
    body = BOMBS[encoding](random.Random(1).randbytes(5_000))[:-900]
    record = read_one(make_response(body, f"Content-Type: text/html\r\nContent-Encoding: {encoding}"))
    assert record.reason == f"http: the body ends before the end mark of its encoding {encoding}"
    unknown = read_one(make_response(body, "Content-Type: text/html\r\nContent-Encoding: lzw"))
    assert unknown.reason == "http: Content-Encoding 'lzw' is not known"


def test_body_of_two_gzip_members_is_read_whole():
    body = gzip.compress(HTML[:20]) + gzip.compress(HTML[20:])
    record = read_one(make_response(body, "Content-Type: text/html\r\nContent-Encoding: gzip"))
    assert record.columns.text == "a is the text."


def test_member_with_two_records_is_reported_with_its_remedy():
    data = gzip.compress(make_page("a") + make_page("b")) + gzip.compress(make_page("c"))
    first, rest, last = read_bytes(data, WARC, path="a.warc.gz")
    assert (first.columns.text, last.columns.text) == ("a is the text.", "c is the text.")
    assert rest.reason.startswith("warc: a gzip member holds more than one record; compress each record")


def test_damaged_member_loses_no_other_record():
    members = [bytearray(gzip.compress(make_page(f"page {number}"), mtime=0)) for number in range(9)]
    members[3][-8] ^= 1
    members[6][30] ^= 0xFF
    cut = b"".join(members)[:-5]
    records = read_bytes(cut, WARC, path="a.warc.gz")
    assert texts(records) == [f"page {number} is the text." for number in (0, 1, 2, 4, 5, 7)]
    kinds = [record.reason for record in records if record.reason]
    assert len(kinds) == 3
    assert all(kind.startswith("gzip: ") for kind in kinds)


@pytest.mark.parametrize("slice_bytes", [300, 1_000, 10_000])
def test_slices_of_warc_members_give_the_whole_file(slice_bytes):
    generator = random.Random(slice_bytes)
    members = []
    for number in range(60):
        # A body that is compressed already holds a gzip header inside the member.
        body = gzip.compress(PAGE.format(f"{number} {generator.random()}" * 9).encode(), mtime=0)
        record = make_response(body, "Content-Type: text/html\r\nContent-Encoding: gzip")
        members.append(gzip.compress(record, generator.randrange(2) * 6, mtime=0))
    members[20] = members[20][:100]
    data = b"".join(members)
    whole = read_part(data, Slice("a.warc.gz", 0, None), WARC)[0]
    sliced, num_used, is_whole = read_in_slices(data, slice_bytes, WARC, "a.warc.gz")
    assert sliced == whole
    assert sum(record.values is not None for record in whole) == 59
    assert num_used > 1 or is_whole


def test_wrong_length_hides_no_later_record():
    data = make_page("a") + make_page("b", length=700) + make_page("c") + make_page("d") + make_page("e")
    records = read_bytes(data, WARC, path="a.warc")
    assert texts(records) == ["a is the text.", "c is the text.", "d is the text.", "e is the text."]
    assert "Content-Length is 700" in records[1].reason


@pytest.mark.parametrize("path", ["a.warc", "a.warc.gz"])
def test_random_damage_never_raises(path):
    generator, good = random.Random(4), 0
    records = [make_page(f"p{number}") for number in range(20)]
    for _ in range(200):
        data = bytearray(b"".join(gzip.compress(r) if path.endswith("gz") else r for r in records))
        for _ in range(3):
            at = generator.randrange(len(data))
            if generator.random() < 0.5:
                data[at] ^= 1 << generator.randrange(8)
            else:
                del data[at : at + generator.randrange(200)]
        found = list(WARC.reader.read(io.BytesIO(bytes(data)), Slice(path, 0, None), WARC.request))
        offsets = [record.offset for record in found]
        assert offsets == sorted(set(offsets))
        assert all((record.values is None) != (record.reason is None) for record in found)
        good += sum(record.values is not None for record in found)
    assert good > 200 * 13
