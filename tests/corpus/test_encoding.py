"""Files of lines in other encodings than UTF-8, in plain Python without Spark. The expected values are the
texts before they were encoded, or written by hand."""

import encodings.aliases
import gzip
import io
import random
import tracemalloc
import zlib

import pytest

from pipelines.corpus.readers.format import Slice, SourceFile
from pipelines.corpus.readers.pages import find_codec
from tests.corpus.reading import make_source, read_bytes, texts

SIMPLIFIED = "客户张三住在北京市海淀区，他的银行卡还没有到。"
TRADITIONAL = "客戶張三住在臺北市大安區，他的銀行卡還沒有到。"
ENCODINGS = [
    ("gb18030", SIMPLIFIED),
    ("gbk", SIMPLIFIED),
    ("big5", TRADITIONAL),
    ("utf-16", SIMPLIFIED),
    ("utf-16-be", "\ufeff" + TRADITIONAL),
    ("shift_jis", "これは日本語の文章です。"),
    ("cp1251", "Клиент ещё не получил карту."),
    ("utf-8-sig", SIMPLIFIED),
]
FORMATS = {"csv": ",", "tsv": "\t", "lines": None}


def make_file(name, sentences, encoding):
    """The bytes of a file with one record a sentence. A mark at the start of the text is one of the file."""
    mark = "\ufeff" if sentences[0].startswith("\ufeff") else ""
    rows, separator = [sentence.removeprefix("\ufeff") for sentence in sentences], FORMATS[name]
    if separator:
        rows = [f"text{separator}label", *(f"{row}{separator}x" for row in rows)]
    return (mark + "\r\n".join(rows) + "\r\n").encode(encoding)


def make_encoded(name, encoding, **knobs):
    fields = {"text": "text"} if name == "lines" else {"text": "text", "label": "label"}
    return make_source(format=name, fields=fields, options={"encoding": encoding}, **knobs)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("encoding", "sentence"), ENCODINGS)
def test_encoding_of_lines_is_named_or_detected(name, encoding, sentence):
    expected = [f"{sentence}{number}".removeprefix("\ufeff") for number in range(500)]
    data = make_file(name, [sentence[:1] * (sentence[0] == "\ufeff") + row for row in expected], encoding)
    for wanted in (encoding, "detect"):
        records = read_bytes(data, make_encoded(name, wanted))
        assert texts(records) == expected
        assert not [record.reason for record in records if record.reason]
    as_today = read_bytes(data, make_encoded(name, "utf-8"))
    assert bool(texts(as_today)) == (encoding == "utf-8-sig")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_detected_utf_8_gives_the_records_of_utf_8(name, suffix):
    generator = random.Random(7)
    data = bytearray(make_file(name, [f"{SIMPLIFIED}{number}" for number in range(3_000)], "utf-8"))
    for _ in range(5):
        data[generator.randrange(len(data) // 2, len(data))] = 0xFF
    content = gzip.compress(bytes(data)) if suffix else bytes(data)
    expected = read_bytes(content, make_encoded(name, "utf-8"), path=f"a{suffix}")
    assert 1 <= sum(record.reason is not None for record in expected) <= 5
    assert read_bytes(content, make_encoded(name, "detect"), path=f"a{suffix}") == expected


def test_detection_looks_past_a_long_beginning_in_ascii():
    expected = ["plain ASCII"] * 60_000 + [SIMPLIFIED] * 50
    data = make_file("csv", expected, "gb18030")
    assert data.index("客".encode("gb18030")) > 2**19
    assert texts(read_bytes(data, make_encoded("csv", "detect"))) == expected


def test_excel_table_with_line_breaks_in_quotes_is_read():
    table = '文本,标签\r\n"第一行\n第二行, ""引号""",好\r\n你好,坏\r\n'
    source = make_source(
        format="csv", fields={"text": "文本", "label": "标签"}, options={"encoding": "gb18030"}
    )
    records = read_bytes(table.encode("gb18030"), source)
    assert texts(records) == ['第一行\n第二行, "引号"', "你好"]
    # Places are those of the text in UTF-8.
    assert [record.raw for record in records] == [
        table.encode()[record.offset :][: record.num_bytes] for record in records
    ]
    assert [record.line for record in records] == [2, 4]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("encoding", "bad", "byte"),
    [
        ("gb18030", b"\xff", "ff"),
        ("gb18030", b"\x81", "81"),
        ("big5", b"\x80", "80"),
        ("cp1252", b"\x81", "81"),
    ],
)
def test_bad_byte_costs_one_record_and_is_named(name, encoding, bad, byte):
    first, last = make_file(name, ["first"], encoding), b"last" + (b"" if name == "lines" else b"\tx")
    last = last.replace(b"\t", (FORMATS[name] or "").encode())
    data = first + b"ab" + bad + b"\r\n" + last + b"\r\n"
    records = read_bytes(data, make_encoded(name, encoding))
    assert texts(records) == ["first", "last"]
    assert records[1].reason == f"encoding: byte 0x{byte} at 2 of the record is not valid {encoding}"
    assert records[1].raw.decode("utf-8", "surrogatepass") == f"ab{chr(0xDC00 + bad[0])}\r\n"


def test_bad_byte_in_the_header_is_named():
    records = read_bytes(b"text,lab\xffel\na,x\nb,y\n", make_encoded("csv", "gb18030"))
    assert {record.reason for record in records} == {
        "header: encoding: byte 0xff at 8 of the record is not valid gb18030"
    }
    assert len(records) == 3


def test_half_a_character_at_the_end_is_reported():
    data = "第一\n第二".encode("utf-16")[:-1]
    first, last = read_bytes(data, make_encoded("lines", "utf-16"))
    assert first.columns.text == "第一"
    assert last.reason.startswith("encoding: byte 0x8c at 3 of the record is not valid utf-16")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_without_a_mark_the_low_byte_comes_first(encoding):
    assert texts(read_bytes("甲\n乙\n".encode(f"{encoding}-le"), make_encoded("lines", encoding))) == [
        "甲",
        "乙",
    ]


def test_lines_keep_their_encoding_in_metadata():
    data = f"{SIMPLIFIED}\n".encode("gbk")
    (detected,) = read_bytes(data * 9, make_encoded("lines", "detect"))[:1]
    (plain,) = read_bytes(f"{SIMPLIFIED}\n".encode(), make_encoded("lines", "detect"))
    assert detected.columns.metadata == {"encoding": "gb18030"}
    assert plain.columns.metadata is None


@pytest.mark.parametrize("name", ["text", "markdown"])
def test_files_keep_their_encoding_in_metadata(name):
    (record,) = read_bytes(
        (SIMPLIFIED * 9).encode("gbk"), make_source(format=name, options={"encoding": "gbk"})
    )
    assert record.columns.metadata == {"encoding": "gb18030"}
    (replaced,) = read_bytes(
        (TRADITIONAL * 40).encode("big5") + b"\xff", make_source(format=name, options={"encoding": "detect"})
    )
    assert replaced.columns.metadata == {"encoding": "big5, 1 characters replaced"}
    (plain,) = read_bytes(SIMPLIFIED.encode(), make_source(format=name, options={"encoding": "detect"}))
    assert plain.columns.metadata is None


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_gzip_keeps_what_comes_before(name):
    generator = random.Random(3)
    expected = [f"{generator.getrandbits(99)}{SIMPLIFIED}" for _ in range(5_000)]
    whole = make_file(name, expected, "gb18030")
    data = gzip.compress(whole)[:-20_000]
    member = zlib.decompressobj(31)
    num_lines = member.decompress(data).count(b"\n")
    records = read_bytes(data, make_encoded(name, "gb18030"), path="a.gz")
    found = texts(records)
    assert found == expected[: num_lines - (name != "lines")]
    assert records[-1].reason == "gzip: the file ends before its end mark"
    assert len(records) == len(found) + 1


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("encoding", "num_slices"), [("utf-8", 3), ("UTF8", 3), ("gb18030", 1), ("detect", 1)]
)
def test_only_files_in_utf_8_are_cut(name, encoding, num_slices):
    source = make_encoded(name, encoding)
    file = SourceFile(path="a", relative="a", size=300, modified_ns=0)
    assert len(list(source.reader.cut(file, 100, source.request.options))) == num_slices


def test_memory_does_not_grow_with_the_file():
    source, peaks = make_encoded("lines", "detect"), []
    for num_lines in (50_000, 200_000):
        data = make_file("lines", [SIMPLIFIED] * num_lines, "gb18030")
        assert len(data) > 40 * num_lines
        tracemalloc.start()
        records = source.reader.read(io.BytesIO(data), Slice("a", 0, None), source.request)
        assert sum(1 for _ in records) == num_lines
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[0] < 12 * 2**20


def test_random_bytes_in_any_encoding_never_raise():
    names = {codec for alias in encodings.aliases.aliases.values() if (codec := find_codec(alias))}
    assert len(names) > 80
    generator = random.Random(11)
    num_good = num_broken = 0
    for encoding in sorted(names):
        for name in FORMATS:
            rows = [generator.randbytes(generator.randrange(60)) for _ in range(20)]
            data = generator.choice([b"", b"text,label\n", "text,label\n".encode(encoding)]) + b"\n".join(
                rows
            )
            part, source = Slice("a", 0, None), make_encoded(name, encoding)
            records = list(source.reader.read(io.BytesIO(data), part, source.request))
            assert records, (encoding, name)
            assert all((record.values is None) != (record.reason is None) for record in records)
            offsets = [record.offset for record in records]
            assert offsets == sorted(set(offsets))
            num_good += sum(record.values is not None for record in records)
            num_broken += sum(record.reason is not None for record in records)
    assert min(num_good, num_broken) > 500


@pytest.mark.parametrize("name", FORMATS)
def test_unknown_encoding_of_lines_is_refused(name):
    with pytest.raises(ValueError, match=r"options\.encoding must be detect or an encoding .* got 'utf-9'"):
        make_encoded(name, "utf-9")
