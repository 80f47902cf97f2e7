"""CSV in plain Python, without Spark. Expected values are written by hand."""

import csv as python_csv
import gzip
import io
import random
from pathlib import Path

import pytest

from pipelines.corpus.readers.format import Slice
from tests.corpus.reading import kinds, make_source, read_bytes, read_in_slices, texts

BANKING77 = Path(__file__).parents[2] / "data" / "banking77"


def read(data, path="s", **knobs):
    source = make_source(format="csv", **{"fields": {"text": "text", "label": "label"}, **knobs})
    return read_bytes(data, source, path=path)


def test_quoted_fields_contain_delimiters_quotes_line_breaks():
    records = read('text,label\n"a, ""b""\nc",x\n你好,y\n'.encode())
    assert texts(records) == ['a, "b"\nc', "你好"]
    assert [(record.offset, record.line, record.num_bytes) for record in records] == [(11, 2, 15), (26, 4, 9)]


def test_crlf_ends_lines_but_not_inside_quotes():
    records = read(b'text,label\r\n"a\r\nb",x\r\nc,y')
    assert [record.values["text"] for record in records] == ["a\r\nb", "c"]
    assert [record.columns.label for record in records] == ["x", "y"]


def test_byte_order_mark_is_not_in_the_header():
    assert texts(read(b'\xef\xbb\xbf"text",label\na,x\n')) == ["a"]


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf\n", b"\xef\xbb\xbf\r\n\n", b"\r\n\n", b"\n\xef\xbb\xbf"])
def test_empty_lines_before_the_header_are_skipped(start):
    records = read(start + b"text,label\na,x\n")
    assert texts(records) == ["a"]
    assert records[0].line == 2 + start.count(b"\n")


def test_blank_lines_between_records_are_skipped():
    records = read(b"\ntext,label\n\na,x\n\r\n\nb,y\n\n")
    assert texts(records) == ["a", "b"]
    assert [record.line for record in records] == [4, 7]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "^", "]", "-", "，"])
def test_any_single_character_can_be_the_delimiter(delimiter):
    data = 'text,label\n"a,b",x\nc,"d""e"\n'.replace(",", delimiter)
    records = read(data.encode(), options={"delimiter": delimiter})
    assert texts(records) == [f"a{delimiter}b", "c"]
    assert records[1].columns.label == 'd"e'


def test_open_quote_quarantines_one_line():
    records = read(b'text,label\na,x\n"b,x\nc,y\n"d\nd",y\ne,z\n')
    assert kinds(records) == {3: "quote or line break"}
    assert texts(records) == ["a", "c", "d\nd", "e"]


def test_quote_open_at_end_of_file_quarantines_one_line():
    records = read(b'text,label\na,x\n"b,x\nc,y\nd,z\n')
    assert kinds(records) == {3: "open quote"}
    assert texts(records) == ["a", "c", "d"]


def test_quote_open_beyond_limit_quarantines_one_line():
    lines = b"".join(b"%d,x\n" % number for number in range(100))
    records = read(b'text,label\n"open,x\n' + lines + b'"a\nb",x\n', max_record_bytes=50)
    assert kinds(records) == {2: "open quote"}
    assert texts(records) == [str(number) for number in range(100)] + ["a\nb"]


def test_late_closing_quote_quarantines_two_lines():
    lines = b"".join(b"%d,x\n" % number for number in range(1_000))
    records = read(b'text,label\n"open,x\n' + lines + b'it is y"\n"a\nb",y\n')
    assert texts(records) == [str(number) for number in range(1_000)] + ["a\nb"]
    assert kinds(records) == {2: "open quote", 1003: "quote or line break"}
    assert records[0].reason == "open quote: closed 1,001 lines below, where the number of fields is 1, not 2"
    assert records[0].raw == b'"open,x\n'


@pytest.mark.parametrize(
    ("below", "given_back"),
    [
        (b'c,y\nit is y"', False),  # one of two lines is a record alone
        (b'c,y\nd,y\nit is y"', True),
        (b'c,y\n\nd,y\nprose\nit is y"', False),
        (b'c,y\nd,y\n\xff,y\ne,y\nit is y"', True),
        (b'c,y,z\nd,y,z\nit is y"', False),
        (b'c""c,y\n"d",y\n"e",y\nit is y"', True),
    ],
)
def test_joined_lines_are_read_again_if_most_are_records(below, given_back):
    records = read(b'text,label\n"open,x\n' + below + b"\nlast,y\n")
    assert texts(records)[-1] == "last"
    assert records[0].raw == (b'"open,x\n' if given_back else b'"open,x\n' + below + b"\n")
    assert (len(texts(records)) > 1) == given_back


def test_single_column_lines_stay_joined():
    records = read(b'text\n"Dear Sir\nthanks\nfor all\nbye",x\nlast\n', fields={"text": "text"})
    assert texts(records) == ["last"]
    assert records[0].num_bytes == len(b'"Dear Sir\nthanks\nfor all\nbye",x\n')


def test_undetectable_bad_quote_makes_one_long_record():
    # RFC 4180 gives no way to detect it; the docstring says so.
    lines = b"".join(b"%d,x\n" % number for number in range(1_000))
    (record,) = read(b'text,label\n"open,x\n' + lines + b'it is 5",y\n')
    assert record.columns.text.count("\n") == 1_001


@pytest.mark.parametrize(
    ("block", "num_good", "num_broken"),
    [(b'5" pipe,x\nok,y\n', 1, 1), (b'"open,x\n' + b"ok,y\n" * 3 + b'it is y"\n', 3, 2)],
)
def test_many_open_quotes_take_linear_time(block, num_good, num_broken):
    # each of 20,000 bad lines joins only as far as the next one; quadratic reading would take minutes
    records = read(b"text,label\n" + block * 20_000)
    assert len(texts(records)) == 20_000 * num_good
    assert len(kinds(records)) == 20_000 * num_broken


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (b"a", "number of fields"),
        (b"a,x,y", "number of fields"),
        (b'a"b,x"', "quote or line break"),
        (b'"a"b,x', "quote or line break"),
        (b"a\rb,x", "quote or line break"),
        (b"\xff,x", "invalid UTF-8"),
        (b"a\0,x", "NUL"),
        (b'"a\n\xff\n",x', "invalid UTF-8"),
        (b'"a\nb",x,y', "number of fields"),
    ],
)
def test_broken_record_leaves_its_neighbours_intact(row, kind):
    records = read(b"text,label\nfirst,x\n" + row + b"\nlast,y\n")
    assert texts(records) == ["first", "last"]
    assert kinds(records) == {3: kind}
    assert records[1].raw == row + b"\n"


@pytest.mark.parametrize(("num_bytes", "kept"), [(10, True), (11, False)])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b""])
def test_longest_record_kept_has_max_record_bytes(num_bytes, kept, line_end):
    for row in (b"a" * (num_bytes - 2) + b",x", b'"' + b"\n" * (num_bytes - 4) + b'",x'):
        records = read(b"text,label\n" + row + line_end, max_record_bytes=10)
        assert bool(records[0].columns) == kept


def test_line_beyond_the_limit_is_skipped_and_counted():
    records = read(b"text,label\n" + b"a" * 300_000 + b",x\nb,y\n", max_record_bytes=20)
    assert [(record.num_bytes, record.reason is None) for record in records] == [(300_003, False), (4, True)]
    assert len(records[0].raw) <= 22
    assert records[1].line == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "header: the file is empty"),
        (b"\xef\xbb\xbf", "header: the file is empty"),
        (b"text,name\na,x\n", "header: 'label' appears 0 times"),
        (b"text,label,text\na,x,b\n", "header: 'text' appears 2 times"),
        (b'"text,label\na,x\n', "header: open quote"),
        (b"text;label\na;x\n", "header: 'text' appears 0 times"),
        (b"text,label\ra,x\rb,y", "header: quote or line break"),
    ],
)
def test_unusable_header_quarantines_every_record(data, reason):
    records = read(data)
    assert len(records) == max(1, data.count(b"\n"))
    assert all(record.reason.startswith(reason) for record in records)


def test_empty_label_is_null_and_empty_key_is_broken():
    fields = {"text": "text", "label": "label", "key": "id", "split": "part"}
    records = read(b"id,text,label,part\n1,a,,train\n,b,x,\n3,c,x,dev\n4,d,x,\n", fields=fields)
    assert records[0].columns == ("1", "a", None, "train", None, None, None, None)
    assert kinds(records) == {3: "key", 4: "split"}
    assert records[3].columns == ("4", "d", "x", None, None, None, None, None)


@pytest.mark.parametrize(("name", "num_records", "num_breaks"), [("train", 10_003, 13), ("test", 3_080, 4)])
def test_banking77_has_its_published_number_of_records(name, num_records, num_breaks):
    data = (BANKING77 / f"{name}.csv").read_bytes()
    records = read(data, fields={"text": "text", "label": "category"})
    assert len(texts(records)) == len(records) == num_records
    assert (
        sum(record.values["text"].count("\n") for record in records)
        == num_breaks
        == data.count(b"\n") - num_records - 1
    )
    twin = list(python_csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert [record.values for record in records] == twin


def test_records_before_a_gzip_damage_are_kept():
    whole = b"text,label\n" + b"".join(b"%d,x\n" % number for number in range(50_000))
    records = read(gzip.compress(whole)[:-2_000], path="a.csv.gz")
    assert 1_000 < len(records) < 50_000
    assert texts(records) == [str(number) for number in range(len(records) - 1)]
    assert "ends before its end mark" in records[-1].reason
    assert whole[records[-1].offset :].startswith(records[-1].raw)


TOKENS = [
    [b'"', b"\n", b",", b"a"],
    [b'"a\nb"', b"\n", b",", b"x", b"a,b\n", b'"'],
    [b"a,b\n", b'"a\n\nb",c\n', b'"x""y",z\n', b"a,b\n", b'5" pipe,x\n', b"\r\n"],
    [b'"one\ntwo\nthree",x\n', b"a,b\n", b'"four\n""five""",y\n'],
]


@pytest.mark.parametrize("look_back", [1, 7, 40])
def test_slices_give_the_records_of_the_whole_file(look_back, monkeypatch):
    monkeypatch.setattr("pipelines.corpus.readers.csv_slices._LOOK_BACK_BYTES", look_back)
    monkeypatch.setattr("pipelines.corpus.readers.streams.BUFFER_BYTES", 16)
    generator = random.Random(20_261_121)
    num_inside = num_broken = 0
    for case in range(1_500):
        body = b"".join(generator.choices(TOKENS[case % 4], k=generator.randrange(40)))
        data = (
            generator.choice([b"text,label\n", b'"text",label\r\n', b"\n\ntext,label\n", b"no,header\n"])
            + body
        )
        fields, limit = {"text": "text"}, generator.choice([12, 30, 10_000])
        source = make_source(format="csv", fields=fields, max_record_bytes=limit)
        whole, size = read_bytes(data, source), generator.randrange(1, 40)
        assert read_in_slices(data, source, size) == whole, (data, size, limit)
        starts = [record.offset for record in whole]
        num_inside += sum(
            any(
                record.offset < cut < record.offset + record.num_bytes
                for record in whole
                if b"\n" in record.raw[:-1]
            )
            for cut in range(size, len(data), size)
        )
        num_broken += sum(record.reason is not None for record in whole)
        assert starts == sorted(starts)
    assert num_inside > 500  # slices that start inside a record of several lines
    assert num_broken > 500


def test_slice_reads_little_before_its_start():
    rows = b"".join(b'"line %d\nsecond ""line""",x\n' % number for number in range(20_000))
    stream, source = (
        CountingStream(b"text,label\n" + rows),
        make_source(format="csv", fields={"text": "text"}),
    )
    half = len(rows) // 2
    records = list(source.reader.read(stream, Slice("s", half, half + 1_000), source.request))
    assert 20 < len(records) < 50
    assert {record.reason for record in records} == {None}
    assert stream.smallest[0] == 0  # the header
    assert stream.num_bytes < 6 * 2**20


class CountingStream(io.BytesIO):
    def __init__(self, data):
        super().__init__(data)
        self.num_bytes, self.smallest = 0, []

    def read(self, size=-1):
        self.smallest.append(self.tell())
        data = super().read(size)
        self.num_bytes += len(data)
        return data

    def readinto(self, buffer):
        self.smallest.append(self.tell())
        size = super().readinto(buffer)
        self.num_bytes += size
        return size
