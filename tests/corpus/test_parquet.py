"""Parquet in plain Python, without Spark. Files are written by Arrow, expected values by hand."""

import datetime
import decimal
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.readers.format import Slice
from tests.corpus.reading import make_source, read_bytes, texts

TURNS = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好"}]


def write(columns, **knobs):
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target, **knobs)
    return target.getvalue()


def make_parquet(**knobs):
    return make_source(format="parquet", **{"fields": {"text": "t"}, **knobs})


def read(columns, **knobs):
    return read_bytes(write(columns), make_parquet(**knobs))


def test_each_row_is_a_record_with_its_number():
    records = read({"t": ["你好", None, "b"], "other": [1, 2, 3]})
    assert texts(records) == ["你好", "b"]
    assert [(record.offset, record.line) for record in records] == [(0, None), (1, None), (2, None)]
    assert records[1].reason == "text: field 't' is null or missing, not a string"
    assert json.loads(records[1].raw) == {"t": None}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([12345678901234567890], pa.uint64()), "12345678901234567890"),
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([1.0]), "1"),
        (pa.array([decimal.Decimal("1.50")]), "1.50"),
        (pa.array([True]), "true"),
        (pa.array([datetime.date(2024, 2, 29)]), "2024-02-29"),
        (pa.array([datetime.time(1, 2, 3)]), "01:02:03.000000"),
        (pa.array([0], pa.timestamp("ms")), "1970-01-01T00:00:00.000"),
        (pa.array([0], pa.timestamp("ms", "Asia/Shanghai")), "1970-01-01T00:00:00.000Z"),
        (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
        (pa.array(["到卡"]).dictionary_encode(), "到卡"),
        (pa.array(["a"], pa.large_string()), "a"),
        (pa.array([""]), None),
        (pa.array([None], pa.int8()), None),
        (pa.array([None]), None),
    ],
)
def test_scalars_become_text(values, expected):
    (record,) = read({"t": ["a"], "l": values}, fields={"text": "t", "label": "l"})
    assert record.columns.label == expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pa.array([7]), "text: field 't' is a number, not a string"),
        (pa.array([["a"]]), "text: field 't' is an array"),
        (pa.array([{"a": 1}]), "text: field 't' is an object"),
        (pa.array([b"a"]), "text: field 't' is binary"),
        (pa.array([datetime.date(2024, 1, 1)]), "text: field 't' is a date or time"),
        (pa.array([datetime.timedelta(1)]), "text: field 't' is a scalar"),
        (pa.array([float("nan")]), "number: nan is not a value, in field 't'"),
        (pa.array(["a" * 200]), "too long: more than max_record_bytes = 100"),
        (pa.array(["a\0"]), "NUL: the text contains the character U+0000"),
    ],
)
def test_values_that_are_not_text_are_quarantined(values, reason):
    (record,) = read({"t": values}, max_record_bytes=100)
    assert record.reason.startswith(reason)


def test_string_that_is_not_utf8_costs_its_row_only():
    broken = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    nested = pa.StructArray.from_arrays([broken], ["content"])
    records = read({"t": broken})
    assert texts(records) == ["a", "c"]
    assert records[1].reason == "invalid UTF-8: byte 0xff at 0 of the record, in field 't'"
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), nested)
    reasons = [record.reason for record in read({"t": ["x", "y", "z"], "m": lists}, metadata={"m": "m"})]
    assert [reason.split(":")[0] for reason in reasons] == ["metadata m", "nested value", "metadata m"]


def test_nested_columns_give_dialogues_and_parts():
    columns = {"m": [TURNS], "q": ["问"], "wrong": [["a", "b"]]}
    (record,) = read(columns, fields={}, messages="m")
    assert record.columns.parts == [("user", "你好"), ("assistant", "您好")]
    (record,) = read(columns, fields={}, parts={"query": "q", "negative": "wrong"})
    assert record.columns.parts == [("query", "问"), ("negative", "a"), ("negative", "b")]


def test_missing_column_quarantines_every_row():
    records = read({"x": ["a", "b"]})
    assert [record.offset for record in records] == [0, 1]
    assert {record.reason for record in records} == {
        "schema: 't' appears 0 times in 'x'; correct the mapping"
    }


def test_slices_of_any_size_read_each_row_once():
    data = write({"t": [f"第{row}行" for row in range(50)], "n": list(range(50))}, row_group_size=7)
    whole = read_bytes(data, make_parquet())
    assert texts(whole) == [f"第{row}行" for row in range(50)]
    for size in (1, 3, 17, 100, 1_000, len(data)):
        starts = range(0, len(data), size)
        parts = [
            read_bytes(
                data, make_parquet(), start=start, stop=start + size if start + size < len(data) else None
            )
            for start in starts
        ]
        assert [record for part in parts for record in part] == whole, size
        assert size > 100 or max(map(len, parts)) == 7


@pytest.mark.parametrize("data", [b"", b"not Parquet at all", write({"t": ["a"]})[:-1]])
def test_damaged_footer_quarantines_the_file_once(data):
    (record,) = read_bytes(data, make_parquet())
    assert record.reason.startswith("parquet: the file cannot be read: ")
    assert read_bytes(data, make_parquet(), start=1, stop=None) == []


def test_damaged_row_group_leaves_the_others_intact():
    data = bytearray(write({"t": [str(row) for row in range(30)]}, row_group_size=10))
    column = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset
    data[start : start + 8] = b"\xff" * 8
    records = read_bytes(bytes(data), make_parquet())
    assert texts(records) == [str(row) for row in range(30) if not 10 <= row < 20]
    (broken,) = [record for record in records if record.reason]
    assert broken.offset == 10
    assert broken.reason.startswith("parquet: rows 10 to 19 cannot be read: ")


class Faulty(io.BytesIO):
    """A store that breaks off after a number of reads."""

    def __init__(self, data, num_reads):
        super().__init__(data)
        self.num_reads = num_reads

    def read(self, size=-1):
        self.num_reads -= 1
        if self.num_reads < 0:
            raise OSError("store is down")
        return super().read(size)


@pytest.mark.parametrize("num_reads", [0, 1, 2])
def test_fault_of_the_store_is_not_a_quarantine_row(num_reads):
    data = write({"t": ["a" * 100_000, "b"]}, row_group_size=1, compression="none")
    source = make_parquet()
    with pytest.raises(OSError, match="store is down"):
        list(source.reader.read(Faulty(data, num_reads), Slice("s", 0, None), source.request))


def test_batches_are_bounded_by_bytes(monkeypatch):
    monkeypatch.setattr("pipelines.corpus.readers.parquet._BATCH_BYTES", 5_000)
    sizes, iter_batches = [], pq.ParquetFile.iter_batches

    def counted(self, batch_size, **knobs):
        sizes.append(batch_size)
        return iter_batches(self, batch_size, **knobs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    rows = [f"{row:06}" * 200 for row in range(20)]
    assert texts(read({"t": rows})) == rows
    assert [1 <= size <= 5_000 // 1_200 for size in sizes] == [True]
