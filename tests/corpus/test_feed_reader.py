"""Landed rows of a change feed as records: fields, and what becomes of rows without a text."""

import io

import pyarrow as pa
import pytest
from pyarrow.parquet import write_table

from pipelines.corpus.listing import NoFilesError
from pipelines.corpus.manifest import list_sources
from tests.corpus.reading import make_source, read_bytes, read_in_slices


def make_file(*records: str | bytes, row_group_size=None) -> bytes:
    """Landed rows, versions counted from 7."""
    sink = io.BytesIO()
    columns = {
        "version": range(7, 7 + len(records)),
        "number": range(len(records)),
        "record": pa.array(records, pa.binary()).view(pa.string()),
    }
    write_table(pa.table(columns), sink, row_group_size=row_group_size)
    return sink.getvalue()


def make_feed(**knobs):
    fields = {"text": "正文", "key": "id"}
    return make_source(**{"format": "delta_changes", "options": {"table": "t"}, "fields": fields, **knobs})


def test_fields_are_columns_and_the_version():
    source = make_feed(metadata={"version": "delta.version", "at": "at"})
    first, second = read_bytes(make_file('{"id":1,"正文":"一"}', '{"正文":"二","id":20,"at":"x"}'), source)
    assert (first.offset, first.columns.key, first.columns.text) == (0, "1", "一")
    assert first.columns.metadata == {"version": "7"}
    assert second.columns.metadata == {"version": "8", "at": "x"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ('{"id":1}', "text: field '正文' is null or missing"),
        ('{"id":1,"正文":{"a":1}}', "text: field '正文' is an object"),
        ('{"id":1,"正文":"a\\u0000b"}', "NUL: "),
        ('{"id":1,"正文":"' + "x" * 99 + '"}', "too long"),
        (b'{"id":1,"\xff":2}', "invalid UTF-8"),
    ],
)
def test_rows_without_a_text_are_quarantined(record, reason):
    (read,) = read_bytes(make_file(record), make_feed(max_record_bytes=64))
    assert read.reason.startswith(reason)
    assert read.raw == (record.encode() if isinstance(record, str) else record)


def test_only_mapped_columns_count_for_the_longest_record():
    """{"id": "1", "正文": ""} has 25 bytes."""
    unmapped = '"page":"' + "x" * 999 + '"'
    rows = [f'{{"id":1,{unmapped},"正文":"{"y" * length}"}}' for length in (44, 45)]
    kept, long = read_bytes(make_file(*rows), make_feed(max_record_bytes=25 + 44))
    assert kept.columns.text == "y" * 44
    assert long.reason.startswith("too long")


def test_slices_read_every_row_once():
    records = [f'{{"id":{number},"正文":"{number}"}}' for number in range(40)]
    data = make_file(*records, row_group_size=7)
    whole = read_bytes(data, make_feed())
    assert [record.columns.text for record in whole] == [str(number) for number in range(40)]
    assert read_in_slices(data, make_feed(), 300) == whole
    assert len(data) > 3 * 300


def test_a_source_without_landed_rows_says_how_to_land_them(tmp_path):
    source = make_feed(path=str(tmp_path / "landed"))
    with pytest.raises(NoFilesError, match=r"source 's': no file at .*landed; no row was landed .*--dry-run"):
        list_sources([source])
    assert list_sources([source], may_be_empty=True).num_files == {"s": 0}
