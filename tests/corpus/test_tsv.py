"""TSV in plain Python, without Spark. Expected values are written by hand."""

import gzip

import pytest

from tests.corpus.reading import kinds, make_source, read_bytes, read_in_slices, texts


def make_tsv(**knobs):
    return make_source(format="tsv", **{"fields": {"text": "text", "label": "label"}, **knobs})


def read(data, path="s", **knobs):
    return read_bytes(data, make_tsv(**knobs), path=path)


def test_each_line_is_a_record_with_its_position():
    records = read("id\ttext\tlabel\r\n1\t你好\tx\r\n\n2\tb\t\n".encode())
    assert [(record.columns.text, record.columns.label) for record in records] == [("你好", "x"), ("b", None)]
    assert [record[:4] for record in records] == [
        (15, 2, 12, "1\t你好\tx\r\n".encode()),
        (28, 4, 5, b"2\tb\t\n"),
    ]


def test_quotes_and_backslashes_are_ordinary_characters():
    records = read(b'text\tlabel\n"a\t"x"\nit\\tis 5" wide\ty\n')
    assert [(record.columns.text, record.columns.label) for record in records] == [
        ('"a', '"x"'),
        ('it\\tis 5" wide', "y"),
    ]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n\r\n", b"\xef\xbb\xbf\n"])
def test_header_follows_byte_order_mark_and_empty_lines(start):
    assert texts(read(start + b"text\tlabel\na\tx\n")) == ["a"]


@pytest.mark.parametrize(
    ("row", "kind"),
    [(b"a", "number of fields"), (b"a\tx\ty", "number of fields"), (b"\xff\tx", "invalid UTF-8"),
     (b"a\0\tx", "NUL"), (b"a" * 99 + b"\tx", "too long")],
)  # fmt: skip
def test_broken_line_leaves_its_neighbours_intact(row, kind):
    records = read(b"text\tlabel\nfirst\tx\n" + row + b"\nlast\ty\n", max_record_bytes=20)
    assert texts(records) == ["first", "last"]
    assert kinds(records) == {3: kind}
    assert records[1].num_bytes == len(row) + 1


@pytest.mark.parametrize(
    ("data", "num_records", "reason"),
    [
        (b"", 1, "header: the file is empty"),
        (b"\xef\xbb\xbf\n\n", 1, "header: the file is empty"),
        (b"text\tname\na\tx\n", 2, "header: 'label' appears 0 times in 'text, name'; correct the mapping"),
        (b"text\tlabel\ttext\na\tx\tb\n", 2, "header: 'text' appears 2 times"),
        (b"text,label\na,x\n", 2, "header: 'text' appears 0 times"),
        (b"\xff\na\tx\n", 2, "header: invalid UTF-8"),
    ],
)
def test_unusable_header_quarantines_every_record(data, num_records, reason):
    records = read(data)
    assert len(records) == num_records
    assert all(record.reason.startswith(reason) for record in records)


@pytest.mark.parametrize("head", [b"text\tlabel\n", b"\n\n\ntext\tlabel\r\n", b"no\theader\n", b""])
def test_slices_of_any_size_read_each_record_once(head):
    data = head + "a\tx\n\n你\ty\r\nbad\nccc\tz".encode()
    whole = read(data)
    assert len(whole) >= 3
    for size in range(1, len(data) + 2):
        assert read_in_slices(data, make_tsv(), size) == whole, size


def test_truncated_gzip_keeps_its_complete_records():
    whole = b"text\tlabel\n" + b"".join(b"%d\tx\n" % number for number in range(50_000))
    records = read(gzip.compress(whole)[:-2_000], path="a.tsv.gz")
    assert 1_000 < len(records) < 50_000
    assert texts(records) == [str(number) for number in range(len(records) - 1)]
    assert records[-1].reason == "gzip: the file ends before its end mark"
