"""Input that was made to hurt: little of it asks for much memory or time. Without Spark."""

import bz2
import gzip
import io
import json
import random
import tracemalloc
import unicodedata
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.clean import tidy_white_space
from pipelines.corpus.forms import MAX_MARKS, _find_marks, to_form
from pipelines.corpus.matching.units import fold
from pipelines.corpus.readers import compression, guard, lines, parquet, parquet_footer
from pipelines.corpus.readers.format import MalformedError, Slice
from pipelines.corpus.readers.http_body import decode_body
from pipelines.corpus.readers.mapping import Mapper
from pipelines.corpus.readers.markdown import split_front_matter
from pipelines.corpus.readers.parquet_footer import describe_footer, measure_dictionary
from pipelines.corpus.readers.rows import make_document, make_position, measure_document
from pipelines.corpus.readers.values import check_strings
from tests.corpus.documents import make_parquet
from tests.corpus.reading import make_source, read_bytes, texts
from tests.corpus.test_warc import make_record, make_response

LONG = 300_000
"""Characters that take minutes where cost grows with their square."""
JSONL = make_source(format="jsonl", fields={"text": "t"})
PARQUET = make_source(format="parquet", fields={"text": "t"})


def test_long_runs_of_spaces_take_linear_time():
    text = "a" + " \t" * LONG + "b" + " " * LONG + "\nc \n"
    assert tidy_white_space(text) == "a" + " \t" * LONG + "b\nc\n"


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("# " + "#" * LONG + "x", "#" * LONG + "x"),
        ("#  \n# #\n# a # \n", "a"),
        ("---\ntitle:  'a" + " " * LONG + "b' \n---\n", "a" + " " * LONG + "b"),
    ],
)
def test_long_lines_of_markdown_take_linear_time(content, title):
    assert split_front_matter(content)["title"] == title


def test_long_runs_of_marks_stay_as_they_are():
    run = "\u0316\u0300" * LONG
    text = f"e\u0301 a{run}b e\u0301"
    assert to_form("NFC", text) == f"é a{run}b é"
    assert fold(text).count("\u0300") == LONG
    assert to_form("NFC", to_form("NFC", text)) == to_form("NFC", text)


def test_forms_of_text_are_those_of_unicode():
    generator = random.Random(1)
    alphabet = "ab é\u0301\u0316ñ中文한글\u1100\u1161\uff76\uff9e\u3099हि\u093c\u0f71\ufdfa"
    for length in (10, 900, 3_000):
        text = "".join(generator.choices(alphabet, k=length)) + "\u0316\u0300" * (MAX_MARKS // 2)
        assert to_form("NFC", text) == unicodedata.normalize("NFC", text)
        assert to_form("NFKC", text) == unicodedata.normalize("NFKC", text)


def test_table_of_marks_has_each_character_that_becomes_one():
    marks = _find_marks()
    for code in [*range(0xD800), *range(0xE000, 0x30000)]:
        becomes = unicodedata.normalize("NFKD", chr(code))
        assert marks[code] == all(unicodedata.combining(each) for each in becomes), hex(code)


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "raw_unicode_escape", "punycode", "idna"])
def test_encodings_that_write_no_text_are_not_used(charset):
    body = b"\x1b +2AA- \\ud800 text that is long enough \xff"
    record = make_response(body, headers=f"Content-Type: text/plain; charset={charset}")
    (found,) = read_bytes(record, make_source(format="warc"), path="a.warc")
    found.columns.text.encode()
    with pytest.raises(ValueError, match=r"options\.encoding must be detect or an encoding"):
        make_source(format="text", options={"encoding": charset})


def test_batches_count_what_bodies_expand_to():
    source = make_source(format="warc")
    body = gzip.compress(b"<p>" + b"word " * 100_000)
    data = make_response(body, headers="Content-Type: text/html\r\nContent-Encoding: gzip")
    (record,) = source.reader.read(io.BytesIO(data), Slice("a.warc", 0, None), source.request)
    document = make_document("s", "a.warc", record, Mapper(source), None)
    assert len(record.raw) < 5_000
    assert measure_document(record, document) > 490_000


def test_reasons_are_short_text():
    data = make_record(b"x", kind="resource", content_type="a/" + "b" * 30_000)
    source = make_source(format="warc")
    (record,) = source.reader.read(io.BytesIO(data), Slice("a.warc", 0, None), source.request)
    reason = make_position((0, 0, "s", "a.warc"), record, Mapper(source))[-2]
    assert reason.startswith("content type: a/bb")
    assert len(reason) == 1_000


def test_many_encodings_of_a_body_are_refused():
    data = make_response(b"x", headers="Content-Type: text/html\r\nContent-Encoding: " + "gzip, " * 9 + "br")
    (record,) = read_bytes(data, make_source(format="warc"), path="a.warc")
    assert record.reason == "http: 10 encodings around each other; at most 5"


def test_records_with_wrong_lengths_are_read_once(monkeypatch):
    record = make_record(b"x" * 900, kind="conversion", content_type="text/plain", length=15_000_000)
    data, taken = record * 400 + make_record(b"good", kind="conversion", content_type="text/plain"), []
    read_block = lines.Lines.read_block

    def read_and_count(self, size):
        block = read_block(self, size)
        taken.append(len(block))
        return block

    monkeypatch.setattr(lines.Lines, "read_block", read_and_count)
    records = read_bytes(data, make_source(format="warc"), path="a.warc")
    assert texts(records) == ["good"]
    assert all(record.reason.startswith("warc: ") for record in records[:-1])
    assert len(records) == 401
    assert sum(taken) < 80 * len(data)


def read_peak(source, data, path="s"):
    """(records, most bytes of Python's memory while they were read)"""
    tracemalloc.start()
    records = read_bytes(data, source, path=path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return records, peak


@pytest.mark.parametrize("inner", [b"[],", b"1,", b'"ab",', b'{"a":0},'])
def test_json_of_millions_of_values_is_refused(inner):
    data = b'{"t":"x\\u0001","j":[' + inner * 1_000_001 + b"0]}\n"
    records, peak = read_peak(JSONL, data)
    assert records[0].reason == "too many values: more than 1,000,000 in one record"
    assert peak < 6 * len(data)


def test_commas_in_strings_are_no_values():
    text = 'a,[{"\\' * 300_000
    data = json.dumps({"t": text}).encode()
    assert texts(read_bytes(data, JSONL)) == [text]


@pytest.mark.parametrize(
    ("record", "reason"),
    [(b'"' + b'""' * 500_000 + b'",1\n', None), (b"ab," * 500_000 + b"1\n", "number of fields: 500001, b")],
)
def test_csv_takes_memory_for_its_fields_only(record, reason):
    source = make_source(format="csv", fields={"text": "t"})
    records, peak = read_peak(source, b"t,n\n" + record + b"good,1\n")
    assert (records[0].reason or None) == (reason and records[0].reason)
    assert (records[0].reason or "").startswith(reason or "")
    assert texts(records)[-1] == "good"
    assert peak < 16 * len(record)


def test_values_of_any_depth_are_checked():
    value = "\ud800"
    for _ in range(5_000):
        value = [{"a": value}]
    with pytest.raises(MalformedError, match=r"^lone surrogate: U\+D800 in field 't'$"):
        check_strings(value, "t")


@pytest.mark.parametrize(("limit", "is_read"), [(2**20, False), (2**30, True)])
def test_bombs_that_gzip_cannot_make_are_cut_off(monkeypatch, limit, is_read):
    monkeypatch.setattr(compression, "_FREE_BYTES", limit)
    data = bz2.compress(b"first\n" + bytes(2**26) + b"\nlast\n")
    records = read_bytes(data, make_source(format="lines"), path="a.bz2")
    assert texts(records) == (["first", "last"] if is_read else ["first"])
    last = "too long" if is_read else "bz2: the file expands to more than 1,100 times its size, near byte"
    assert [record.reason for record in records if record.reason][-1].startswith(last)


def test_bits_flipped_in_footers_cost_only_their_file():
    """Arrow ends the process for some of them."""
    expected = [f"text {number}" for number in range(30)]
    data, reasons = make_parquet(expected), []
    begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    generator = random.Random(3)
    for _ in range(120):
        damaged = bytearray(data)
        damaged[generator.randrange(begin, len(data))] ^= 1 << generator.randrange(8)
        records = read_bytes(bytes(damaged), PARQUET)
        assert records
        assert len({record.offset for record in records}) == len(records)
        reasons += [record.reason for record in records if record.reason]
    assert any("crashed (SIGABRT)" in reason for reason in reasons)
    assert any("does not end with a footer" in reason for reason in reasons)


def test_footer_must_agree_with_its_row_groups():
    target = io.BytesIO()
    pq.write_table(pa.table({"t": ["a"] * 5}), target)
    data = target.getvalue()
    place = data.rindex(b"\x16\x0a")  # 5 rows, as the file counts them
    wrong = data[:place] + b"\x16\x0c" + data[place + 2 :]
    with pytest.raises(MalformedError, match=r"says \d rows, but its row groups have \d"):
        describe_footer(wrong, len(wrong), ("t",))
    with pytest.raises(MalformedError, match="names places behind its end"):
        describe_footer(data, 3, ("t",))


def test_row_group_that_expands_without_measure_is_not_read(monkeypatch):
    target = io.BytesIO()
    table = pa.table({"t": ["x" * 3_000_000], "u": ["a"]})
    pq.write_table(table, target, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(parquet_footer, "_FREE_BYTES", 2**20)
    data = target.getvalue()
    found = json.loads(describe_footer(data, len(data), ("t",)))
    assert "row group 0 cannot be read: 't' expands from" in found[1][0][-1]
    assert json.loads(describe_footer(data, len(data), ("u",)))[1][0][-1] is None
    monkeypatch.setattr(
        parquet,
        "read_footer",
        lambda *_: parquet_footer.Footer(["t"], [parquet_footer.RowGroup(*found[1][0])]),
    )
    (record,) = read_bytes(data, PARQUET)
    assert record.reason.startswith("parquet: row group 0 cannot be read: 't' expands from")


def test_rows_that_repeat_a_long_value_take_memory_once():
    target, value = io.BytesIO(), "x" * 500_000
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), pa.array([value]))
    pq.write_table(pa.table({"t": repeated}), target)
    data = target.getvalue()
    place = pq.ParquetFile(target).metadata.row_group(0).column(0).dictionary_page_offset
    assert measure_dictionary(io.BytesIO(data), place) == len(value) + 4
    assert measure_dictionary(io.BytesIO(b"\xff" * 40), 0) == 0
    batches = [
        batch.num_rows
        for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(
            parquet._choose_batch_rows(
                parquet_footer.RowGroup(600, 4, 2_000_000, [place], None), io.BytesIO(data)
            )
        )
    ]
    assert max(batches) * len(value) <= 2**26
    assert texts(read_bytes(data, PARQUET)) == [value] * 600


def test_content_stream_that_expands_is_one_record(monkeypatch):
    from tests.corpus.test_guard import make_endless_pdf

    monkeypatch.setattr(guard, "MAX_MEMORY_BYTES", 2**25)
    guard.close_guard()
    records = read_bytes(make_endless_pdf(), make_source(format="pdf"))
    guard.close_guard()
    assert len(records) == 1
    assert records[0].reason.startswith("pdf: ")


def test_body_bomb_of_zlib_needs_no_memory():
    deflated = zlib.compress(bytes(2**26), 9)
    data = make_response(deflated, headers="Content-Type: text/html\r\nContent-Encoding: deflate")
    records, peak = read_peak(make_source(format="warc", max_record_bytes=2**20), data, path="a.warc")
    assert records[0].reason.startswith("too long")
    assert peak < 2**24


def test_many_small_members_of_a_body_take_no_time():
    """With copies of the rest for each member it would be hours."""
    assert decode_body(gzip.compress(b"") * 400_000 + gzip.compress(b"end"), "gzip", 10) == b"end"


def test_quotes_in_a_string_without_end_take_no_time():
    line = b"[" + b"," * 1_000_001 + b'"' + b'\\"' * 1_000_000
    (record,) = read_bytes(line, make_source(format="jsonl", fields={"text": "text"}))
    assert record.reason.startswith("too many values")
